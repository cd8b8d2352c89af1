"""Degrees of freedom, kinetic temperature and initial velocities: one convention for all."""

from __future__ import annotations

import numpy as np
from ase import Atoms, units

from ase_ws.errors import UserError
from ase_ws.md.constraints import in_md_form, with_md_constraints
from ase_ws.md.freedom import Freedom, freedom_of


def degrees_of_freedom(atoms: Atoms, *, finished: bool = False) -> int:
    """Count the degrees of freedom that share the kinetic energy.

    ========================================  ==============================================
    system                                    n_dof
    ========================================  ==============================================
    periodic in at least one direction        3N − 3 (the centre of mass rests)
    isolated                                  3N − 6, two atoms: 1 (it does not rotate either)
    with constraints                          what they leave, of which rests what nothing holds
    ========================================  ==============================================

    Every temperature, thermostat and threshold of this package uses this one number.

    Parameters
    ----------
    finished : bool
        The run is over: nobody asks whether MD can keep its constraints.

    Raises
    ------
    UserError
        A constraint that does not go with MD, see `ase_ws.md.constraints`.
    """
    return freedom_of(in_md_form(atoms) if finished else with_md_constraints(atoms)).n_dof


def kinetic_temperature(kinetic_energy: float, n_dof: int) -> float:
    """Temperature T = 2K / (n_dof k_B) in K, of a kinetic energy K in eV."""
    return 2.0 * kinetic_energy / (n_dof * units.kB)


def draw_velocities(
    atoms: Atoms,
    temperature: float,
    rng: np.random.Generator,
    freedom: Freedom | None = None,
) -> None:
    """Give `atoms` Maxwell–Boltzmann velocities of exactly this temperature.

    The centre of mass is brought to rest, and an isolated molecule stops rotating, where no
    constraint or tether holds the whole to a place. Then all velocities are scaled so that
    2K = n_dof k_B T holds exactly.

    Parameters
    ----------
    atoms : Atoms
        Changed in place (momenta only).
    temperature : float
        Temperature in K.
    rng : numpy.random.Generator
        Source of the random numbers.
    freedom : Freedom, optional
        What the constraints leave, of `atoms` that `with_md_constraints` gave. Default: measured.
    """
    working = atoms if freedom is not None else with_md_constraints(atoms)
    freedom = freedom_of(working) if freedom is None else freedom
    if freedom.n_dof < 1:
        raise UserError(
            f"MD needs at least one internal degree of freedom, this structure of {len(atoms)} "
            "atom(s) has none: build a supercell or free some atoms"
        )
    sigma = np.sqrt(atoms.get_masses() * units.kB * temperature)
    working.set_momenta(rng.standard_normal((len(atoms), 3)) * sigma[:, None])
    rest(working, freedom)
    actual = kinetic_temperature(working.get_kinetic_energy(), freedom.n_dof)
    scale = np.sqrt(temperature / actual)
    atoms.set_momenta(working.get_momenta() * scale, apply_constraint=False)


def rest(atoms: Atoms, freedom: Freedom) -> None:
    """Bring the centre of mass to rest, and stop rotation, where nothing holds the whole."""
    momenta, masses = atoms.get_momenta(), atoms.get_masses()
    net = momenta.sum(axis=0) @ freedom.translations.T @ freedom.translations
    atoms.set_momenta(momenta - np.outer(masses, net / masses.sum()))
    if freedom.rotations:
        _stop_rotation(atoms)


def _stop_rotation(atoms: Atoms) -> None:
    arms, masses = atoms.positions - atoms.get_center_of_mass(), atoms.get_masses()
    weighted = masses[:, None] * arms
    inertia = (masses * (arms**2).sum(axis=1)).sum() * np.eye(3) - weighted.T @ arms
    # The pseudo-inverse leaves out the axis of a linear molecule, which has no inertia; for ASE's
    # `ZeroRotation` rounding gives it some.
    omega = np.linalg.pinv(inertia, rcond=1e-10) @ atoms.get_angular_momentum()
    atoms.set_momenta(atoms.get_momenta() - masses[:, None] * np.cross(omega, arms))
