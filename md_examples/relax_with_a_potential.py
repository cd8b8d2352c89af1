"""Attach a potential to Atoms, relax, and look at energy and forces.

    python md_examples/relax_with_a_potential.py [MODEL]

MODEL is a file written by `ase-ws finetune` or by mace-torch; without it the small base model of
the package is used (GFN2-xTB level, molecules of C, H and O).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from ase.build import molecule
from ase.optimize import BFGS

from ase_ws import PotentialCalculator
from ase_ws.data import BASE_MODEL


def main(model: str | Path = BASE_MODEL) -> float:
    """Relax ethanol from a distorted start; return the largest force left, eV/Å."""
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.1, seed=0)
    atoms.calc = PotentialCalculator(model)

    print(f"start: E = {atoms.get_potential_energy():.4f} eV")
    BFGS(atoms, logfile=None).run(fmax=0.01, steps=200)
    largest = float(np.linalg.norm(atoms.get_forces(), axis=1).max())
    print(f"end:   E = {atoms.get_potential_energy():.4f} eV, largest force {largest:.4f} eV/Å")
    print(f"C-O {atoms.get_distance(1, 2):.3f} Å, O-H {atoms.get_distance(2, 3):.3f} Å")
    return largest


if __name__ == "__main__":
    main(sys.argv[1]) if len(sys.argv) > 1 else main()
