"""Fine-tune on a few energies without forces, compare with held-out labels, check stability.

    python md_examples/finetune_then_check.py [OUT]

The labels are 50 CCSD(T) energies of methanol that come with the package; the same takes your own
file of frames.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from ase.build import molecule

from ase_ws import PotentialCalculator, check_stability, finetune
from ase_ws.data import BASE_MODEL, METHANOL_TEST, METHANOL_TRAIN
from ase_ws.frames import read_frames
from ase_ws.stability import StabilityReport
from ase_ws.training import evaluate_potential


def main(out: str | Path, steps: int = 500, picoseconds: float = 1.0) -> StabilityReport:
    """Fine-tune on energies, evaluate, and run the stability check at 300 K."""
    frames = read_frames(METHANOL_TRAIN)
    result = finetune(
        frames[:50],
        frames[50:70],
        model=BASE_MODEL,
        config={"weak": {"kind": "auto"}, "optimizer": {"max_steps": steps}},
        out=out,
    )
    errors = evaluate_potential(result.potential, read_frames(METHANOL_TEST)).metrics
    print(
        f"held-out frames: energy {errors['energy_rmse_mev_per_atom']:.2f} meV/atom, "
        f"forces {errors['forces_rmse_mev_per_angstrom']:.1f} meV/Å (RMSE)"
    )
    report = check_stability(
        molecule("CH3OH"),
        PotentialCalculator(result.potential),
        temperature=300.0,
        ps=picoseconds,
    )
    print(report.summary())
    return report


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(Path(folder) / "run")
