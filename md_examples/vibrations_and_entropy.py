"""Vibrations of a molecule, and the entropy of its ideal gas.

    python md_examples/vibrations_and_entropy.py [MODEL]

ASE's own tools on the calculator. In float64: finite differences of forces want every digit.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from ase import units
from ase.build import molecule
from ase.optimize import BFGS
from ase.thermochemistry import IdealGasThermo
from ase.vibrations import Vibrations

from ase_ws import PotentialCalculator
from ase_ws.data import BASE_MODEL


def main(model: str | Path = BASE_MODEL) -> np.ndarray:
    """Print wavenumbers (1/cm) and entropy of methanol; return the wavenumbers."""
    atoms = molecule("CH3OH")
    atoms.calc = PotentialCalculator(model, dtype="float64")
    BFGS(atoms, logfile=None).run(fmax=0.002, steps=300)
    with tempfile.TemporaryDirectory() as folder:
        vibrations = Vibrations(atoms, name=f"{folder}/vib")
        vibrations.run()
        energies = np.sort(np.real(np.asarray(vibrations.get_energies())))[-12:]
    wavenumbers = energies / units.invcm
    print("wavenumbers, 1/cm:", " ".join(f"{w:.0f}" for w in wavenumbers))
    gas = IdealGasThermo(list(energies), "nonlinear", atoms=atoms, symmetrynumber=1, spin=0)
    entropy = gas.get_entropy(298.15, 1e5, verbose=False) / (units.J / units.mol)
    print(f"entropy at 298 K and 1 bar: {entropy:.0f} J/mol/K (experiment: 240)")
    return wavenumbers


if __name__ == "__main__":
    main(sys.argv[1]) if len(sys.argv) > 1 else main()
