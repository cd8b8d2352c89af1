"""How right the error bars of closed-form fits are, on molecules and levels the base never saw.

    python tests/benchmarks/error_bars.py [--cases methanol/50 ...] [--seeds 1 2 3]
    python tests/benchmarks/error_bars.py --table
    python tests/benchmarks/error_bars.py --cost

The packaged base model (GFN2-xTB) is fitted to 20 to 100 energies, no forces: methanol (CCSD(T)),
ethanol and aspirin (PBE), acetylacetone at 300 K (tested at 300 and 600 K). Compared with held-out
forces: predicted over measured RMSE, part of the components within 1 and 1.96 standard deviations,
rank correlation of the frames' errors with what was expected of them; the same for energies per
atom. One thread. Results are in `results/error_bars.json`. Needs ../shared/data.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

RESULTS = Path(__file__).parent / "results" / "error_bars.json"
CASES = (
    "methanol/20",
    "methanol/50",
    "methanol/100",
    "ethanol/20",
    "ethanol/50",
    "aspirin/50",
    "acac/50",
)
N_TEST = 100


def sets(name: str) -> tuple[Any, dict[str, Any]]:
    """Give the pool of training frames, and test frames by their names."""
    from shared_data import SHARED

    from ase_ws.data import METHANOL_TEST, METHANOL_TRAIN
    from ase_ws.frames import read_frames

    if name == "methanol":
        return read_frames(METHANOL_TRAIN), {"": read_frames(METHANOL_TEST)}
    if name == "acac":
        tests = {
            f"{t} K": read_frames(f"{SHARED}/acac/test_MD_{t}K.xyz@:{N_TEST}") for t in (300, 600)
        }
        return read_frames(f"{SHARED}/acac/train_300K.xyz@:300"), tests
    pool = read_frames(f"{SHARED}/rmd17/{name}_train.xyz@:300")
    return pool, {"": read_frames(f"{SHARED}/rmd17/{name}_test.xyz@:{N_TEST}")}


def run(case: str, seed: int) -> dict[str, list[float]]:
    """Fit, predict and compare; figures of each test set."""
    import numpy as np

    from ase_ws.data import BASE_MODEL
    from ase_ws.potentials.files import load_potential
    from ase_ws.training.gauss_newton import gauss_newton
    from ase_ws.training.start import refit_e0

    name, size = case.split("/")
    pool, tests = sets(name)
    order = np.random.default_rng(seed).permutation(len(pool))
    frames = [pool[k] for k in order[: int(size)]]
    base = load_potential(BASE_MODEL, dtype="float64")
    refit_e0(base, frames, {})
    potential = gauss_newton(base, frames, posterior=frames)
    return {f"{case} {test}".strip(): compare(potential, on) for test, on in tests.items()}


def compare(potential: Any, frames: Any) -> list[float]:
    """Measured and expected force RMSE (meV/Å), coverages, rank correlation; energies likewise."""
    import numpy as np
    from scipy.stats import spearmanr

    from ase_ws.training import evaluate_potential

    found = evaluate_potential(potential, frames, error_bars=True)
    metrics = found.metrics
    error = found.points("forces").error.reshape(-1, 3)
    spread = np.concatenate([p.forces_spread for p in found.predictions])
    # Of a component: the spread is that of the three together.
    scaled = np.abs(error) / (spread / np.sqrt(3))[:, None]
    ends = np.cumsum([len(f.numbers) for f in found.frames])[:-1]
    measured = [np.sqrt(np.mean(part**2)) for part in np.split(error, ends)]
    expected = [np.sqrt(np.mean(part**2) / 3) for part in np.split(spread, ends)]
    energies = np.abs(found.points("energy").error)
    bars = np.array([p.energy_spread for p in found.predictions])
    return [
        metrics["forces_rmse_mev_per_angstrom"],
        metrics["expected_forces_rmse_mev_per_angstrom"],
        float(np.mean(scaled < 1)),
        float(np.mean(scaled < 1.96)),
        float(spearmanr(measured, expected).statistic),
        metrics["energy_rmse_mev_per_atom"],
        metrics["expected_energy_rmse_mev_per_atom"],
        float(np.mean(energies < 1.96 * bars)),
    ]


def table(results: dict[str, list[float]]) -> str:
    """Give a row for each case: means over seeds, and the range of the ratio."""
    lines = [
        "| labels | forces, meV/Å: measured, expected | ratio (range) | within 1 σ, 1.96 σ | rank "
        "correlation by frame | energies, meV/atom: measured, expected | within 1.96 σ |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for case in dict.fromkeys(key.rsplit(";", 1)[0] for key in results):
        rows = [v for k, v in results.items() if k.startswith(f"{case};")]
        mean = [statistics.mean(column) for column in zip(*rows, strict=True)]
        ratios = [row[1] / row[0] for row in rows]
        lines.append(
            f"| {case} | {mean[0]:.0f}, {mean[1]:.0f} | {mean[1] / mean[0]:.2f} "
            f"({min(ratios):.2f}–{max(ratios):.2f}) | {mean[2]:.0%}, {mean[3]:.0%} | {mean[4]:.2f} "
            f"| {mean[5]:.2f}, {mean[6]:.2f} | {mean[7]:.0%} |"
        )
    return "\n".join(lines)


def cost(rounds: int = 15) -> None:
    """Print what error bars cost in a calculation of forces, over one without, in turn."""
    import time

    import torch
    from ase.build import bulk, molecule

    from ase_ws import PotentialCalculator
    from ase_ws.data import BASE_MODEL
    from ase_ws.potentials.files import load_potential
    from ase_ws.potentials.mace.architecture import MACEArchitecture
    from ase_ws.potentials.mace.model import build_mace
    from ase_ws.potentials.posterior import Posterior

    silicon = MACEArchitecture(atomic_numbers=(14,), avg_num_neighbors=18.0, r_max=5.0)
    cases = {
        "ethanol": (molecule("CH3CH2OH"), load_potential(BASE_MODEL)),
        "Si64": (bulk("Si", cubic=True) * 2, build_mace(silicon, [-1.0]).float()),
    }
    for name, (atoms, potential) in cases.items():
        n_weights = sum(w.numel() for w in potential.parameters())
        potential.posterior = Posterior(
            torch.arange(n_weights),
            0.1 * torch.randn(8, n_weights),
            torch.zeros(8, len(potential.atomic_numbers)),
            1e-3,
            tuple(potential.atomic_numbers),
            1,
        )
        calculators = [PotentialCalculator(potential, error_bars=bars) for bars in (False, True)]
        ratios = []
        for number in range(rounds + 3):
            seconds = []
            for calculator in calculators:
                atoms.rattle(1e-3, seed=number)
                start = time.perf_counter()
                calculator.calculate(atoms, ["forces"])
                seconds.append(time.perf_counter() - start)
            ratios.append(seconds[1] / seconds[0])
        ratios = sorted(ratios[3:])
        print(f"{name}: {statistics.median(ratios):.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})")


def main() -> None:
    """Run what is missing."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cases", nargs="+", default=CASES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--table", action="store_true", help="only print what is there")
    parser.add_argument("--cost", action="store_true", help="only measure what they cost")
    options = parser.parse_args()
    if options.cost:
        torch.set_num_threads(1)
        cost()
        return
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    torch.set_num_threads(1)
    for case in () if options.table else options.cases:
        for seed in options.seeds:
            if any(k.startswith(case) and k.endswith(f";{seed}") for k in results):
                continue
            for name, figures in run(case, seed).items():
                results[f"{name};{seed}"] = figures
                print(name, seed, [round(x, 2) for x in figures], flush=True)
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
