"""Energy-only fine-tuning to CCSD(T): what do the weak losses do beside a supervised baseline?

    python tests/benchmarks/weak_on_methanol.py

Fine-tunes the packaged base model on 20 and 50 CCSD(T) energies of methanol with and without PITC
and PISC on the difference to the base model, at two learning rates and three seeds (other training
frames and another order), 400 steps each, and prints the table of the README: median RMSE on the 64
held-out frames with its range. One process a core, about 10 minutes on two; a killed run goes on.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from runner import run_cases

SEEDS = (0, 1, 2)
SIZES = (20, 50)
# (name, weak losses, their weight, learning rate)
METHODS = (
    ("supervised", "none", 0.0, 1e-3),
    ("supervised", "none", 0.0, 3e-3),
    ("PITC + PISC, weight 0.001 (default)", "both", 0.001, 1e-3),
    ("PITC + PISC, weight 0.001", "both", 0.001, 3e-3),
    ("PITC + PISC, weight 0.1", "both", 0.1, 1e-3),
)
N_VALID, STEPS, N_ATOMS = 20, 400, 6


def run(case: dict[str, int]) -> dict[str, float]:
    """Fine-tune and evaluate one model."""
    from ase_ws.data import BASE_MODEL, METHANOL_TEST, METHANOL_TRAIN
    from ase_ws.frames import read_frames
    from ase_ws.training import evaluate_potential, finetune

    size, seed = case["size"], case["seed"]
    _, weak, weight, learning_rate = METHODS[case["method"]]
    frames = read_frames(METHANOL_TRAIN)
    # Seeds take disjoint frames, so the spread holds that of the choice of labels.
    start = 80 * seed
    config = {
        "weak": {"kind": weak, "pitc_weight": weight, "pisc_weight": weight},
        "optimizer": {"max_steps": STEPS, "learning_rate": learning_rate},
        "seed": seed,
    }
    with tempfile.TemporaryDirectory() as folder:
        result = finetune(
            frames[start : start + size],
            frames[start + size : start + size + N_VALID],
            model=BASE_MODEL,
            config=config,
            out=Path(folder) / "run",
        )
    errors = evaluate_potential(result.potential, read_frames(METHANOL_TEST)).metrics
    return {
        "energy_mev": N_ATOMS * errors["energy_rmse_mev_per_atom"],
        "forces_mev_per_angstrom": errors["forces_rmse_mev_per_angstrom"],
    }


def base_errors() -> tuple[float, float]:
    """Errors of the base model itself, its E0 re-fitted on 50 energies."""
    from ase_ws.data import BASE_MODEL, METHANOL_TEST, METHANOL_TRAIN
    from ase_ws.frames import read_frames
    from ase_ws.potentials.files import load_potential
    from ase_ws.training import evaluate_potential
    from ase_ws.training.start import refit_e0

    potential = load_potential(BASE_MODEL)
    refit_e0(potential, read_frames(METHANOL_TRAIN)[:50], {})
    errors = evaluate_potential(potential, read_frames(METHANOL_TEST)).metrics
    return N_ATOMS * errors["energy_rmse_mev_per_atom"], errors["forces_rmse_mev_per_angstrom"]


def table(results: list[dict]) -> str:
    """Give the README's table: median (range) over seeds."""
    energy, forces = base_errors()
    lines = [
        "| labels | method | learning rate | energy RMSE, meV | forces RMSE, meV/Å |",
        "| --- | --- | --- | --- | --- |",
        f"| – | base model, E0 re-fitted | – | {energy:.1f} | {forces:.0f} |",
    ]
    for size, (k, (name, _, _, rate)) in itertools.product(SIZES, enumerate(METHODS)):
        mine = [r for r in results if r["case"]["size"] == size and r["case"]["method"] == k]
        cells = []
        for key, digits in (("energy_mev", 1), ("forces_mev_per_angstrom", 0)):
            values = sorted(r[key] for r in mine)
            cells.append(
                f"{statistics.median(values):.{digits}f} "
                f"({values[0]:.{digits}f}–{values[-1]:.{digits}f})"
            )
        lines.append(f"| {size} | {name} | {rate:g} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


if __name__ == "__main__":
    cases = [
        {"size": size, "seed": seed, "method": method}
        for size, seed, method in itertools.product(SIZES, SEEDS, range(len(METHODS)))
    ]
    print(table(run_cases("weak_on_methanol", run, cases)))
