"""Degrees of freedom, kinetic temperature and initial velocities: one convention for all."""

from __future__ import annotations

import numpy as np
from ase import Atoms, units

from ase_ws.errors import UserError

# A moment of inertia below this (amu Å²) belongs to the axis of a linear molecule. The smallest
# real one, about the axis of a strongly bent H2O-like molecule, is of order 0.1.
_ZERO_INERTIA = 1e-3


def degrees_of_freedom(atoms: Atoms) -> int:
    """Count the degrees of freedom that share the kinetic energy.

    ========================================  ==============================================
    system                                    n_dof
    ========================================  ==============================================
    periodic in at least one direction        3N − 3 (the centre of mass rests)
    isolated                                  3N − 6, linear: 3N − 5 (it does not rotate either)
    with constraints                          3N − what they remove (ASE's convention)
    ========================================  ==============================================

    Every temperature, thermostat and threshold of this package uses this one number.
    """
    if atoms.constraints:
        return int(atoms.get_number_of_degrees_of_freedom())
    n_dof = 3 * len(atoms) - 3
    if not atoms.pbc.any():
        moments = np.linalg.eigvalsh(_inertia(atoms))
        n_dof -= int((moments > _ZERO_INERTIA).sum())
    return n_dof


def kinetic_temperature(kinetic_energy: float, n_dof: int) -> float:
    """Temperature T = 2K / (n_dof k_B) in K, of a kinetic energy K in eV."""
    return 2.0 * kinetic_energy / (n_dof * units.kB)


def draw_velocities(atoms: Atoms, temperature: float, rng: np.random.Generator) -> None:
    """Give `atoms` Maxwell–Boltzmann velocities of exactly this temperature.

    The centre of mass is brought to rest, and an isolated molecule stops rotating; with
    constraints neither is touched, because they decide what may move. Then all velocities are
    scaled so that 2K = n_dof k_B T holds exactly.

    Parameters
    ----------
    atoms : Atoms
        Changed in place (momenta only).
    temperature : float
        Temperature in K.
    rng : numpy.random.Generator
        Source of the random numbers.
    """
    n_dof = degrees_of_freedom(atoms)
    if n_dof < 1:
        raise UserError(
            f"MD needs at least one internal degree of freedom, this structure of {len(atoms)} "
            "atom(s) has none: build a supercell or free some atoms"
        )
    sigma = np.sqrt(atoms.get_masses() * units.kB * temperature)
    atoms.set_momenta(rng.standard_normal((len(atoms), 3)) * sigma[:, None])
    if not atoms.constraints:
        rest(atoms)
    actual = kinetic_temperature(atoms.get_kinetic_energy(), n_dof)
    atoms.set_momenta(atoms.get_momenta() * np.sqrt(temperature / actual))


def rest(atoms: Atoms) -> None:
    """Bring the centre of mass to rest, and stop an isolated molecule from rotating."""
    _stop_translation(atoms)
    if not atoms.pbc.any():
        _stop_rotation(atoms)


def _stop_translation(atoms: Atoms) -> None:
    momenta, masses = atoms.get_momenta(), atoms.get_masses()
    atoms.set_momenta(momenta - np.outer(masses, momenta.sum(axis=0) / masses.sum()))


def _stop_rotation(atoms: Atoms) -> None:
    # The pseudo-inverse leaves out the axis of a linear molecule, which has no inertia.
    omega = np.linalg.pinv(_inertia(atoms), rcond=1e-10) @ atoms.get_angular_momentum()
    arms = atoms.positions - atoms.get_center_of_mass()
    atoms.set_momenta(atoms.get_momenta() - atoms.get_masses()[:, None] * np.cross(omega, arms))


def _inertia(atoms: Atoms) -> np.ndarray:
    """Tensor of inertia about the centre of mass, (3, 3), in amu Å²."""
    arms = atoms.positions - atoms.get_center_of_mass()
    masses = atoms.get_masses()
    squares = (masses * (arms**2).sum(axis=1)).sum()
    return squares * np.eye(3) - (masses[:, None] * arms).T @ arms
