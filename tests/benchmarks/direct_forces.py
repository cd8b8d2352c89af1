"""Direct forces with few labels: what second-order PITC and PISC bring, and what NVE makes of it.

    python tests/benchmarks/direct_forces.py [--molecule ethanol] [--labels 100] [--levers]

Direct-force MACE (32x0e+32x1o, two layers, 5 Å) from scratch on rMD17, three seeds with disjoint
frames, the same number of steps for every method. Prints test RMSE on 500 frames: energy, forces,
force consistency (direct forces against −dE/dr), and the heating of three 1 ps NVE runs from 300 K
at 0.5 fs (slope of E + K). `--levers`: what else could bring the heating down, on one seed: wider
or stronger consistency, a penalty on the curl, 800 labels, or 300 steps as a conservative model at
the end. Needs the rMD17 frames in ../shared/data. A killed run goes on.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))
from runner import one_line_errors, run_cases

SEEDS = (0, 1, 2)
STEPS, N_VALID, N_TEST = 2500, 50, 500
#: name: settings of `ase-ws finetune --forces direct`
METHODS: dict[str, dict[str, Any]] = {
    "PITC + PISC, order 2 (default)": {"kind": "both"},
    "supervised": {},
}
_BOTH = {"kind": "both"}
#: name: (settings of the weak losses, labels, conservative steps at the end)
LEVERS: dict[str, tuple[dict[str, Any], int, int]] = {
    "stronger: weight 300": ({**_BOTH, "pitc_weight": 300.0, "pisc_weight": 300.0}, 100, 0),
    "wider: ε 0.15 Å, weight 3": (
        {**_BOTH, "epsilon": 0.15, "pitc_weight": 3.0, "pisc_weight": 3.0},
        100,
        0,
    ),
    "and a curl penalty, weight 300": ({**_BOTH, "curl_weight": 300.0}, 100, 0),
    "800 labels": (_BOTH, 800, 0),
    "then 300 steps as a conservative model": (_BOTH, 100, 300),
}


def run(case: dict[str, Any]) -> dict[str, Any]:
    """Train, evaluate and heat one model."""
    from shared_data import SHARED

    from ase_ws.frames import read_frames
    from ase_ws.training import evaluate_potential, finetune

    weak, n_labels, at_the_end = LEVERS.get(
        case["method"], (METHODS.get(case["method"]), case["labels"], 0)
    )
    folder = SHARED / "rmd17"
    frames = read_frames(folder / f"{case['molecule']}_train.xyz")
    start = (n_labels + N_VALID) * case["seed"]
    labelled = start + n_labels
    config = {
        "model": {"forces": "direct"},
        "weak": weak,
        "optimizer": {"max_steps": STEPS},
        "seed": case["seed"],
    }
    labels = frames[start:labelled], frames[labelled : labelled + N_VALID]
    with tempfile.TemporaryDirectory() as out:
        result = finetune(*labels, config=config, out=Path(out) / "run")
        if at_the_end:
            config = {
                "model": {"forces": "conservative"},
                "optimizer": {"max_steps": at_the_end},
                "seed": case["seed"],
            }
            model = Path(out) / "run" / "model.safetensors"
            result = finetune(*labels, model=model, config=config, out=Path(out) / "end")
    test = read_frames(folder / f"{case['molecule']}_test.xyz")[:N_TEST]
    errors = evaluate_potential(result.potential, test).metrics
    return {
        "conservative": result.potential.conservative,
        "energy_mev": len(test[0].numbers) * errors["energy_rmse_mev_per_atom"],
        "forces_mev_per_angstrom": errors["forces_rmse_mev_per_angstrom"],
        "consistency_mev_per_angstrom": errors["force_consistency_rmse_mev_per_angstrom"],
        "heating_mev_per_atom_ps": heating(result.potential, test[:3]),
    }


def heating(potential: Any, frames: list[Any], ps: float = 1.0) -> list[float]:
    """Slope of E + K in NVE from each frame, meV/atom/ps; from 300 K at 0.5 fs."""
    import numpy as np
    from ase import Atoms, units
    from ase.md.velocitydistribution import (
        MaxwellBoltzmannDistribution,
        Stationary,
        ZeroRotation,
    )
    from ase.md.verlet import VelocityVerlet

    from ase_ws import PotentialCalculator

    out = []
    for k, frame in enumerate(frames):
        atoms = Atoms(frame.numbers, frame.positions)
        atoms.calc = PotentialCalculator(potential)
        MaxwellBoltzmannDistribution(atoms, temperature_K=300, rng=np.random.default_rng(k))
        Stationary(atoms)
        ZeroRotation(atoms)
        dynamics = VelocityVerlet(atoms, 0.5 * units.fs)
        energies = []
        for _ in range(round(ps / 0.0025)):
            dynamics.run(5)
            energies.append(1e3 * atoms.get_total_energy() / len(atoms))
            if not np.isfinite(energies[-1]) or atoms.get_temperature() > 5000:
                break
        times = 0.0025 * np.arange(1, len(energies) + 1)
        out.append(float(np.polyfit(times, energies, 1)[0]))
    return out


def table(results: list[dict[str, Any]]) -> str:
    """Give every run, and the ratios to supervised over the seeds."""
    lines = [
        "| method | seed | energy, meV | forces, meV/Å | consistency, meV/Å "
        "| NVE heating, meV/atom/ps |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    keys = ("energy_mev", "forces_mev_per_angstrom", "consistency_mev_per_angstrom")
    for r in results:
        heat = ", ".join(f"{h:.0f}" for h in r["heating_mev_per_atom_ps"])
        values = " | ".join("0" if r[key] is None else f"{r[key]:.1f}" for key in keys)
        lines.append(f"| {r['case']['method']} | {r['case']['seed']} | {values} | {heat} |")
    supervised = {r["case"]["seed"]: r for r in results if r["case"]["method"] == "supervised"}
    for method in METHODS if len(supervised) > 1 else ():
        mine = [r for r in results if r["case"]["method"] == method]
        cells = []
        for key in keys:
            ratios = [r[key] / supervised[r["case"]["seed"]][key] for r in mine]
            cells.append(f"{statistics.mean(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})")
        lines.append(f"| {method}: ratio to supervised | mean | {' | '.join(cells)} | |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--molecule", default="ethanol")
    parser.add_argument("--labels", type=int, default=100)
    parser.add_argument("--levers", action="store_true")
    arguments = parser.parse_args()
    seeds, methods = ((0,), (*METHODS, *LEVERS)) if arguments.levers else (SEEDS, METHODS)
    cases = [
        {"molecule": arguments.molecule, "labels": arguments.labels, "seed": s, "method": m}
        for s, m in itertools.product(seeds, methods)
    ]
    with one_line_errors():
        print(table(run_cases("direct_forces", run, cases)))
