"""How far the forces of a calculator are from the gradient of its energy."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from ase_ws.md.observer import Finding
from ase_ws.stability.check import CheckResult

NAME = "consistency"
DEFINITION = (
    "RMS over random directions of the force along them against central differences of the energy, "
    "at the start; only for calculators that say that their forces are direct"
)


def force_consistency(
    atoms: Atoms, n_directions: int = 24, *, step: float = 0.01, seed: int = 0
) -> float:
    """RMS difference between the forces and −dE/dr, per component, in eV/Å.

    For unit vectors u of all 3n coordinates, √⟨(F·u + dE/du)²⟩ with dE/du by central
    differences, is the RMS over the components of F + ∂E/∂r.

    Parameters
    ----------
    atoms : Atoms
        With a calculator; not modified.
    n_directions : int
        Two energies for each.
    step : float, Å
        Root mean square displacement of an atom. The error of the differences grows with its
        square, that of a float32 energy with its inverse.
    seed : int
        Of the directions.

    Returns
    -------
    float
        NaN where an energy or a force is not finite.
    """
    probe = atoms.copy()
    probe.calc = atoms.calc
    forces = probe.get_forces()
    rng = np.random.default_rng(seed)
    squares = []
    for _ in range(n_directions):
        direction = rng.normal(size=forces.shape)
        direction /= np.linalg.norm(direction)
        # The whole structure moves by `step` for every atom, whatever their number.
        length = step * np.sqrt(len(atoms))
        ends = []
        for sign in (1.0, -1.0):
            probe.positions = atoms.positions + sign * length * direction
            ends.append(probe.get_potential_energy())
        slope = (ends[0] - ends[1]) / (2.0 * length)
        squares.append((np.vdot(forces, direction) + slope) ** 2)
    return float(np.sqrt(np.mean(squares)))


def check_consistency(atoms: Atoms) -> tuple[CheckResult, list[Finding]]:
    """Report how far direct forces are from the energy's; other calculators are left alone."""
    if getattr(atoms.calc, "conservative", True):
        return CheckResult(NAME, DEFINITION, "eV/Å", status="does not apply"), []
    value = force_consistency(atoms)
    message = (
        f"the forces are not the gradient of the energy: they differ by {1e3 * value:.0f} meV/Å "
        "(RMS), so energy is not conserved and NVE runs heat up or cool down"
    )
    finding = Finding(NAME, "warn", message, value=value)
    result = CheckResult(NAME, DEFINITION, "eV/Å", worst=value, status="warned", note=message)
    return result, [finding]
