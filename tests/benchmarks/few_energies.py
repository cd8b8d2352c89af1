"""Few energies, no forces, a base model of a cheaper level: what do the weak losses do?

    python tests/benchmarks/few_energies.py [--molecule ethanol] [--methods NAME ...]

A base model is trained on GFN2-xTB energies and forces of 300 geometries of the molecule (rMD17)
and then fine-tuned on 20 or 50 energies of the better level (PBE/def2-SVP), supervised and with
PITC and PISC on the difference to the base model, over a grid of learning rates and steps: nobody
can tune on 20 labels, so the worst of the grid counts as much as the best. Three seeds with
disjoint labels; test errors on 300 frames. Needs the rMD17 frames in ../shared/data and tblite. A
killed run goes on; the base model is kept in `runs/`.
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
from runner import run_cases

RUNS = Path(__file__).parent.parent.parent / "runs" / "few_energies"
SEEDS, LABELS, N_VALID, N_TEST = (0, 1, 2), (20, 50), 10, 300
GRID = tuple(itertools.product((1e-3, 3e-3), (800, 2500)))
#: Geometries of the base model: the last of the training file, the labels are among the first.
BASE_FRAMES, BASE_STEPS = 300, 2000


def _difference(weight: float) -> dict[str, Any]:
    return {"kind": "both", "pitc_weight": weight, "pisc_weight": weight}


#: name: settings of the weak losses; the reference is the base model, ε 0.15 Å, first order.
METHODS: dict[str, dict[str, Any]] = {
    "supervised": {"kind": "none"},
    "difference, 0.001": _difference(0.001),
    "difference, 0.01": _difference(0.01),
    "difference, 0.1": _difference(0.1),
    "difference, 1": _difference(1.0),
}


def base_model(molecule: str) -> Path:
    """Train the base model, once."""
    import numpy as np
    from ase import Atoms
    from shared_data import SHARED
    from tblite.ase import TBLite

    from ase_ws.frames import Frame, read_frames
    from ase_ws.training import finetune

    folder = RUNS / f"{molecule}_gfn2"
    if not (folder / "model.safetensors").exists():
        RUNS.mkdir(parents=True, exist_ok=True)
        frames = []
        for frame in read_frames(SHARED / "rmd17" / f"{molecule}_train.xyz")[-BASE_FRAMES:]:
            atoms = Atoms(frame.numbers, frame.positions)
            atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
            frames.append(
                Frame(
                    frame.numbers,
                    frame.positions,
                    frame.cell,
                    frame.pbc,
                    energy=float(atoms.get_potential_energy()),
                    forces=np.array(atoms.get_forces()),
                )
            )
        with tempfile.TemporaryDirectory(dir=RUNS) as work:
            config = {"optimizer": {"max_steps": BASE_STEPS}, "threads": 1}
            out = Path(work) / "run"
            finetune(frames[:-30], frames[-30:], config=config, out=out)
            out.rename(folder)
    return folder / "model.safetensors"


def run(case: dict[str, Any]) -> dict[str, Any]:
    """Fine-tune and evaluate one model."""
    from shared_data import SHARED

    from ase_ws.frames import read_frames
    from ase_ws.training import evaluate_potential, finetune

    folder, n_labels = SHARED / "rmd17", case["labels"]
    frames = read_frames(folder / f"{case['molecule']}_train.xyz")
    start = (max(LABELS) + N_VALID) * case["seed"]
    chosen = frames[start : start + n_labels + N_VALID]
    config = {
        "data": {"labels": "energy"},
        "weak": METHODS[case["method"]],
        "optimizer": {"learning_rate": case["learning_rate"], "max_steps": case["steps"]},
        "seed": case["seed"],
        "threads": 1,
    }
    with tempfile.TemporaryDirectory() as out:
        result = finetune(
            chosen[:n_labels],
            chosen[n_labels:],
            model=base_model(case["molecule"]),
            config=config,
            out=Path(out) / "run",
        )
    test = read_frames(folder / f"{case['molecule']}_test.xyz")[:N_TEST]
    errors = evaluate_potential(result.potential, test).metrics
    return {
        "energy_mev": len(test[0].numbers) * errors["energy_rmse_mev_per_atom"],
        "forces_mev_per_angstrom": errors["forces_rmse_mev_per_angstrom"],
    }


def all_cases(molecule: str, methods: list[str]) -> list[dict[str, Any]]:
    """Give every run; seeds outermost, so that a part is a whole table of fewer seeds."""
    return [
        {
            "molecule": molecule,
            "labels": labels,
            "learning_rate": rate,
            "steps": steps,
            "seed": seed,
            "method": method,
        }
        for seed, labels, (rate, steps), method in itertools.product(SEEDS, LABELS, GRID, methods)
    ]


def table(results: list[dict[str, Any]], methods: list[str]) -> str:
    """Give force and energy errors by setting, means over seeds, and worst and best of the grid."""
    head = " | ".join(f"lr {rate:g}, {steps}" for rate, steps in GRID)
    lines = [
        f"| labels | method | {head} | worst | best | worst / supervised | best / supervised |",
        "| --- " * (len(GRID) + 6) + "|",
    ]
    for labels in LABELS:
        extremes: dict[str, tuple[float, float]] = {}
        for method in methods:
            means, cells = [], []
            for rate, steps in GRID:
                mine = [
                    r
                    for r in results
                    if (r["case"]["labels"], r["case"]["method"]) == (labels, method)
                    and (r["case"]["learning_rate"], r["case"]["steps"]) == (rate, steps)
                ]
                forces = [r["forces_mev_per_angstrom"] for r in mine]
                energies = [r["energy_mev"] for r in mine]
                means.append(statistics.mean(forces))
                cells.append(
                    f"F {means[-1]:.0f} ({min(forces):.0f}–{max(forces):.0f}), "
                    f"E {statistics.mean(energies):.0f}"
                )
            extremes[method] = max(means), min(means)
            worst, best = extremes[method]
            ratios = [a / b for a, b in zip(extremes[method], extremes[methods[0]], strict=True)]
            cells += [f"{worst:.0f}", f"{best:.0f}", f"{ratios[0]:.2f}", f"{ratios[1]:.2f}"]
            lines.append(f"| {labels} | {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--molecule", default="ethanol")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    options = parser.parse_args()
    base_model(options.molecule)
    found = run_cases("few_energies", run, all_cases(options.molecule, options.methods))
    print(table(found, options.methods))
