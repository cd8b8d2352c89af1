"""What every run begins with: arguments that make sense, velocities, and its random numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from ase import Atoms

from ase_ws.errors import UserError
from ase_ws.md.freedom import freedom_of
from ase_ws.md.observer import Ensemble, RunContext
from ase_ws.md.velocities import draw_velocities


@dataclass(frozen=True)
class RunSetup:
    """A run that can begin: atoms with momenta, and the random numbers of the thermostat.

    Whatever the engine, one seed gives the same velocities and the same noise.
    """

    atoms: Atoms
    context: RunContext
    seed: int
    rng: np.random.Generator

    @classmethod
    def of(
        cls,
        atoms: Atoms,
        ensemble: Ensemble,
        *,
        temperature: float,
        timestep: float,
        steps: int,
        seed: int,
        keep_velocities: bool,
        pressure: float | None = None,
    ) -> RunSetup:
        """Give `atoms` their velocities, in place; of constraints MD must be able to keep them."""
        require_positive("K", temperature=temperature)
        require_positive("fs", timestep=timestep)
        require_whole(0, steps=steps, seed=seed)
        freedom = freedom_of(atoms)
        velocity_seed, bath_seed = np.random.SeedSequence(seed).spawn(2)
        if not keep_velocities:
            draw_velocities(atoms, temperature, np.random.default_rng(velocity_seed), freedom)
        elif not (atoms.get_kinetic_energy() > 0):
            raise UserError(
                "keep_velocities is set, but the atoms have none: set their momenta or draw new "
                "ones"
            )
        context = RunContext(
            ensemble=ensemble,
            temperature=float(temperature),
            timestep=float(timestep),
            steps=int(steps),
            n_dof=freedom.n_dof,
            pressure=pressure,
        )
        return cls(atoms, context, int(seed), np.random.default_rng(bath_seed))


def require_one_of(what: str, value: Any, known: Any) -> None:
    """Refuse what is not in a Literal."""
    if value not in get_args(known):
        raise UserError(f"unknown {what} {value!r}: use one of {', '.join(get_args(known))}")


def require_positive(unit: str, **values: float) -> None:
    """Refuse what is no positive number."""
    for name, value in values.items():
        if not (np.isfinite(value) and value > 0):
            raise UserError(f"{name} is {value}: it must be a positive number, in {unit}")


def require_whole(least: int, **values: float) -> None:
    """Refuse what is no whole number of at least `least`."""
    for name, value in values.items():
        if not (np.isfinite(value) and int(value) == value and value >= least):
            raise UserError(f"{name} is {value}: it must be a whole number of at least {least}")


def check_structure(atoms: Atoms) -> None:
    """Raise a `UserError` where no MD can start: no atoms, NaN, masses that are none."""
    if len(atoms) == 0:
        raise UserError("the structure has no atoms: give one with at least two")
    if not np.isfinite(atoms.positions).all() or not np.isfinite(atoms.cell.array).all():
        raise UserError("the starting positions or cell hold NaN or infinity: mend the structure")
    masses = atoms.get_masses()
    wrong = np.flatnonzero(~(np.isfinite(masses) & (masses > 0)))
    if len(wrong):
        raise UserError(
            f"atom {wrong[0]} ({atoms.symbols[wrong[0]]}) has a mass of {masses[wrong[0]]:g} amu: "
            "MD needs positive masses, set them"
        )
