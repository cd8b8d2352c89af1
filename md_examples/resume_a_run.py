"""Interrupt a long run and go on, to the very same numbers.

    python md_examples/resume_a_run.py [FOLDER]

Here the interruption is made by hand; after a kill or a power cut it is the same call again with
`resume=True` (or `ase-ws md ... --resume`).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from ase.build import molecule

from ase_ws import PotentialCalculator, run_md
from ase_ws.data import BASE_MODEL
from ase_ws.md import MDResult


def main(folder: str | Path = "resumed", steps: int = 400) -> MDResult:
    """Run in one go and in two; return the result of the second."""

    def run(name: str, steps: int, *, resume: bool = False) -> MDResult:
        return run_md(
            molecule("CH3OH"),
            PotentialCalculator(BASE_MODEL),
            temperature=300.0,
            steps=steps,
            seed=1,
            out=Path(folder) / name,
            checkpoint_every=100,
            resume=resume,
        )

    whole = run("whole", steps)
    run("parts", round(0.6 * steps))
    parts = run("parts", steps, resume=True)
    same = np.array_equal(whole.atoms.positions, parts.atoms.positions)
    print(f"{steps} steps in one go and in two parts: {'the same' if same else 'different'} floats")
    return parts


if __name__ == "__main__":
    main(sys.argv[1]) if len(sys.argv) > 1 else main()
