"""Conservative models: do the weak losses at their shipped defaults ever make an error worse?

    python tests/benchmarks/weak_never_hurts.py

Supervised training against `--weak both` with nothing else set, on every set of ../shared/data:
rMD17 ethanol, uracil and aspirin, 3BPA, acetylacetone, Si and Li, from scratch with energies and
forces; ethanol with energies only; ethanol, acetylacetone and aspirin with 50 energies from the
packaged base model (on the difference to it). Three seeds, which take other frames and another
order. Short runs (the models are not converged, the comparison is paired), but for one set that is
trained to the end: about 35 minutes on two cores. A killed run goes on.
"""

from __future__ import annotations

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
#: name: (training file, test file, labelled frames, held out for validation, settings)
SETS: dict[str, tuple[str, str, int, int, dict[str, Any]]] = {
    "ethanol": ("rmd17/ethanol_train.xyz", "rmd17/ethanol_test.xyz", 100, 30, {}),
    "uracil": ("rmd17/uracil_train.xyz", "rmd17/uracil_test.xyz", 100, 30, {}),
    "aspirin": ("rmd17/aspirin_train.xyz", "rmd17/aspirin_test.xyz", 100, 30, {}),
    "3bpa": ("3bpa/train_300K.xyz", "3bpa/train_mixedT.xyz", 100, 30, {}),
    "acac": ("acac/train_300K.xyz", "acac/test_MD_300K.xyz", 100, 30, {}),
    "Si": ("mlearn/Si_train.xyz", "mlearn/Si_test.xyz", 60, 10, {"r_max": 4.5}),
    "Li": ("mlearn/Li_train.xyz", "mlearn/Li_test.xyz", 60, 10, {"r_max": 4.5}),
}
STEPS, PERIODIC_STEPS, LONG_STEPS, N_TEST = 150, 50, 1500, 100
CASES = [
    *((name, "energy+forces", "scratch") for name in SETS),
    ("ethanol", "energy", "scratch"),
    *((name, "energy", "base") for name in ("ethanol", "acac", "aspirin")),
    ("ethanol", "energy+forces", "scratch, to the end"),
]


def run(case: dict[str, Any]) -> dict[str, Any]:
    """Train and evaluate one model."""
    import numpy as np
    from shared_data import SHARED

    from ase_ws.data import BASE_MODEL
    from ase_ws.frames import read_frames
    from ase_ws.training import evaluate_potential, finetune

    train, test, n_train, n_valid, model = SETS[case["set"]]
    periodic = "r_max" in model
    if case["start"] == "base":
        n_train, n_valid, model = 50, 20, {}
    # A plain permutation for each seed: files of bulk, slabs and strains come in that order.
    frames = read_frames(SHARED / train)
    order = np.random.default_rng(case["seed"]).permutation(len(frames))
    chosen = [frames[k] for k in order[: n_train + n_valid]]
    config = {
        "data": {"labels": case["labels"]},
        "model": model,
        "weak": {"kind": case["weak"]},
        "optimizer": {
            "max_steps": PERIODIC_STEPS
            if periodic
            else LONG_STEPS
            if case["start"].endswith("to the end")
            else STEPS,
            "batch_size": 2 if periodic else 5,
        },
        "seed": case["seed"],
        "threads": 1,
    }
    with tempfile.TemporaryDirectory() as folder:
        result = finetune(
            chosen[:n_train],
            chosen[n_train:],
            model=BASE_MODEL if case["start"] == "base" else None,
            config=config,
            out=Path(folder) / "run",
        )
    held_out = read_frames(SHARED / test)
    step = max(1, len(held_out) // N_TEST)
    errors = evaluate_potential(result.potential, held_out[::step][:N_TEST], batch_size=8).metrics
    return {
        "energy_mev_per_atom": errors["energy_rmse_mev_per_atom"],
        "forces_mev_per_angstrom": errors["forces_rmse_mev_per_angstrom"],
    }


def all_cases() -> list[dict[str, Any]]:
    """Give every run, the pairs side by side."""
    return [
        {"set": name, "labels": labels, "start": start, "seed": seed, "weak": weak}
        for seed, (name, labels, start), weak in itertools.product(SEEDS, CASES, ("none", "both"))
    ]


def table(results: list[dict[str, Any]]) -> str:
    """Give the medians of the supervised errors, and the paired ratios with their range."""
    lines = [
        "| set | labels | from | energy, meV/atom | ratio, weak | forces, meV/Å | ratio, weak |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, labels, start in CASES:
        cells = []
        for key, digits in (("energy_mev_per_atom", 2), ("forces_mev_per_angstrom", 0)):
            found = {
                weak: [
                    r[key]
                    for r in results
                    if (r["case"]["set"], r["case"]["labels"], r["case"]["start"])
                    == (name, labels, start)
                    and r["case"]["weak"] == weak
                ]
                for weak in ("none", "both")
            }
            ratios = sorted(b / a for a, b in zip(found["none"], found["both"], strict=True))
            cells.append(f"{statistics.median(found['none']):.{digits}f}")
            cells.append(f"{statistics.median(ratios):.3f} ({ratios[0]:.3f}–{ratios[-1]:.3f})")
        lines.append(f"| {name} | {labels} | {start} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    with one_line_errors():
        print(table(run_cases("weak_never_hurts", run, all_cases())))
