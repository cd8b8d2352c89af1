"""What a campaign is asked to do, checked before anything is spent on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from ase import Atoms

from ase_ws.errors import UserError
from ase_ws.md.observer import Ensemble
from ase_ws.md.velocities import degrees_of_freedom
from ase_ws.results.finding import Finding
from ase_ws.stability.static.probe import Conditions


@dataclass(frozen=True)
class Job:
    """One replica to run.

    Attributes
    ----------
    temperature : float
        In K.
    replica : int
        Number of the replica at this temperature, from 0.
    seed : int
        For `run_md`.
    """

    temperature: float
    replica: int
    seed: int

    def label(self, finding: Finding) -> Finding:
        """Say in a finding which replica it comes from."""
        return replace(finding, replica=self.replica, temperature=self.temperature)


@dataclass(frozen=True)
class Plan:
    """What `check_stability` is to do, see there for the meaning.

    With a budget that is what fits it; `left_out` says, for people, what had to go.
    """

    temperatures: tuple[float, ...]
    ps: float
    replicas: int
    timestep: float
    ensemble: Ensemble
    seed: int
    pressure: float
    thermostat_time: float
    interval: int
    min_ps: float
    budget: float | None = None
    left_out: tuple[str, ...] = ()

    @property
    def steps(self) -> int:
        """Steps of one replica; rounded up, so that at least `ps` are simulated."""
        return math.ceil(self.ps * 1000.0 / self.timestep - 1e-9)

    @property
    def total_steps(self) -> int:
        """Steps of all replicas."""
        return self.steps * self.replicas * len(self.temperatures)

    @property
    def conditions(self) -> Conditions:
        """What static checks have to know of it."""
        return Conditions(max(self.temperatures), self.ensemble)

    def jobs(self) -> list[Job]:
        """All replicas, the coldest temperature given first."""
        return [
            Job(temperature, replica, self.seed_of(row, replica))
            for row, temperature in enumerate(self.temperatures)
            for replica in range(self.replicas)
        ]

    def seed_of(self, temperature: int, replica: int) -> int:
        """Seed of one run, so that no two runs, of this or of another `seed`, share one."""
        sequence = np.random.SeedSequence(self.seed, spawn_key=(temperature, replica))
        return int(sequence.generate_state(1)[0])


def make_plan(
    *,
    temperature: float | Sequence[float],
    ps: float,
    replicas: int,
    timestep: float,
    ensemble: Ensemble,
    seed: int,
    pressure: float,
    thermostat_time: float,
    interval: int,
    min_ps: float,
) -> Plan:
    """Check the arguments of `check_stability` and turn them into plain numbers.

    Raises
    ------
    UserError
        Where one of them makes no sense. The ensemble is checked by `run_md`.
    """
    for name, value in (("ps", ps), ("timestep", timestep), ("thermostat_time", thermostat_time)):
        require_positive(name, value)
    for name, value, least in (
        ("replicas", replicas, 1),
        ("seed", seed, 0),
        ("interval", interval, 1),
    ):
        require_whole(name, value, least)
    require_least(min_ps)
    if not np.isfinite(pressure):
        raise UserError(f"pressure is {pressure}: it must be a number, in bar")
    return Plan(
        temperatures=_as_temperatures(temperature),
        ps=float(ps),
        replicas=int(replicas),
        timestep=float(timestep),
        ensemble=ensemble,
        seed=int(seed),
        pressure=float(pressure),
        thermostat_time=float(thermostat_time),
        interval=int(interval),
        min_ps=float(min_ps),
    )


def require_positive(name: str, value: float) -> None:
    """Refuse what is no positive number."""
    if not (np.isfinite(value) and value > 0):
        raise UserError(f"{name} is {value}: it must be a positive number")


def require_whole(name: str, value: float, least: int) -> None:
    """Refuse what is no whole number of at least `least`."""
    if not (np.isfinite(value) and int(value) == value and value >= least):
        raise UserError(f"{name} is {value}: it must be a whole number of at least {least}")


def require_least(min_ps: float) -> None:
    """Refuse what is no time that can be simulated."""
    if not (np.isfinite(min_ps) and min_ps >= 0):
        raise UserError(f"min_ps is {min_ps}: it must be a number of at least 0")


def freedom(atoms: Atoms, *, finished: bool = False) -> int:
    """Degrees of freedom of a structure, see `degrees_of_freedom`, also for `finished`.

    Raises
    ------
    UserError
        There are none, or a constraint does not go with MD.
    """
    n_dof = degrees_of_freedom(atoms, finished=finished)
    if n_dof < 1:
        raise UserError(
            f"the structure of {len(atoms)} atom(s) has no internal degree of freedom, and so no "
            "temperature: build a supercell or free some atoms"
        )
    return n_dof


def _as_temperatures(temperature: float | Sequence[float]) -> tuple[float, ...]:
    values = np.atleast_1d(np.asarray(temperature, dtype=float))
    if values.size == 0 or not (np.isfinite(values) & (values > 0)).all():
        raise UserError(f"temperature is {temperature}: give one or more positive numbers, in K")
    return tuple(float(value) for value in values)
