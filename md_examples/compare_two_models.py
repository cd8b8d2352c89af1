"""Two models side by side: the same seeds, the same checks, and a bond scan.

    python md_examples/compare_two_models.py [MODEL [OTHER]]

Without arguments the base model is compared with itself after a short fine-tuning.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from ase.build import molecule

from ase_ws import PotentialCalculator, check_stability, finetune
from ase_ws.data import BASE_MODEL, METHANOL_TRAIN
from ase_ws.stability import StabilityReport


def main(
    first: str | Path = BASE_MODEL, second: str | Path | None = None, picoseconds: float = 0.5
) -> list[StabilityReport]:
    """Print both verdicts and the O–H stretch; return the reports."""
    with tempfile.TemporaryDirectory() as folder:
        if second is None:
            config = {"optimizer": {"max_steps": 100}}
            finetune(METHANOL_TRAIN, model=BASE_MODEL, config=config, out=Path(folder) / "run")
            second = Path(folder) / "run" / "model.safetensors"
        calculators = {str(m): PotentialCalculator(m) for m in (first, second)}
    reports = []
    lengths = np.linspace(0.85, 1.35, 6)
    for name, calculator in calculators.items():
        atoms = molecule("CH3OH")
        report = check_stability(atoms, calculator, temperature=500, ps=picoseconds, replicas=2)
        reports.append(report)
        atoms.calc = calculator
        energies = []
        for length in lengths:
            atoms.set_distance(1, 3, length, fix=0)
            energies.append(atoms.get_potential_energy())
        curve = " ".join(f"{e - min(energies):.2f}" for e in energies)
        print(f"{Path(name).stem}: {report.verdict} ({report.reason}); O–H stretch, eV: {curve}")
    return reports


if __name__ == "__main__":
    first, second = [*sys.argv[1:3], None, None][:2]
    main(first or BASE_MODEL, second)
