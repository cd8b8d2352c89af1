"""What a stability run is asked to do: declared here for Python, YAML and the command line."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
)
from typing_extensions import Self

from ase_ws.errors import UserError
from ase_ws.files.mistakes import first_mistake
from ase_ws.results.finding import Finding

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _as_list(value: Any) -> Any:
    """One temperature is a list of one; arrays are lists."""
    single = isinstance(value, int | float | np.generic | np.ndarray)
    return np.atleast_1d(value).tolist() if single else value


class Job(NamedTuple):
    """One replica to run: set temperature (K), its number there (from 0), and its seed."""

    temperature: float
    replica: int
    seed: int

    def label(self, finding: Finding) -> Finding:
        """Say in a finding which replica it comes from."""
        return replace(finding, replica=self.replica, temperature=self.temperature)


class StabilitySettings(BaseModel):
    """What is run and looked at; the same for a structure, a campaign and the command line."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperatures: Annotated[tuple[Positive, ...], BeforeValidator(_as_list)] = Field(
        description="Temperature(s) in K, one or more; each gets its own replicas."
    )
    ps: Positive = Field(description="Length of each replica in ps.")
    replicas: int = Field(
        1, ge=1, description="Runs at each temperature, each with velocities of its own."
    )
    timestep: Positive = Field(0.5, description="Time step in fs.")
    ensemble: Literal["nve", "nvt", "npt"] = Field("nvt", description="Ensemble to sample.")
    seed: int = Field(
        0,
        ge=0,
        description="Seed of the whole. The seeds of the replicas depend on it and on their place "
        "only, so that two potentials can be compared run by run.",
    )
    pressure: float = Field(1.01325, allow_inf_nan=False, description="Of NPT, in bar.")
    thermostat_time: Positive = Field(100.0, description="Of the thermostat, in fs.")
    interval: int = Field(10, ge=1, description="Steps between two points of the traces.")
    relax_steps: int = Field(
        200, ge=0, description="Steps of relaxation at most; 0 starts from the structure as given."
    )
    fmax: Positive = Field(0.05, description="Relaxed when no force is larger, in eV/Å.")
    min_ps: float = Field(
        1.0,
        ge=0,
        allow_inf_nan=False,
        description="Simulated time in ps needed at each temperature, over all replicas, to call "
        "it stable: with no failure in 1 ps, the failure rate may still be 3 per ps with 5 % "
        "probability, and no use of MD could bear more.",
    )
    topology: Literal["fixed", "reactive"] = Field(
        "fixed",
        description="fixed: a broken bond fails (a proton that goes over is logged). reactive: "
        "bonds may break and form; atoms that collide, fly off or grow hot still fail.",
    )
    static: bool = Field(True, description="Look at derivatives, symmetries and scans before MD.")
    blame: bool = Field(
        True, description="Rerun failures at half the time step and in float64, to find the cause."
    )
    largest_training_force: Positive | None = Field(
        None, description="Largest force of the training set in eV/Å: the limit of forces follows."
    )

    @field_validator("temperatures")
    @classmethod
    def _temperatures_differ(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value:
            raise ValueError("give one or more, in K")
        if len(set(value)) < len(value):
            raise ValueError("a temperature is there twice: more runs of it are asked by replicas")
        return value

    @classmethod
    def of(cls, **given: Any) -> Self:
        """Check what a user has given.

        Raises
        ------
        UserError
            Names the first setting that makes no sense.
        """
        try:
            return cls(**given)
        except ValidationError as error:
            name, message = first_mistake(error, cls)
            # One of several temperatures is called as all of them.
            name = name.partition(".")[0]
            if name == "temperatures":  # as it is called in Python and on the command line
                name = "temperature"
            raise UserError(f"{name}: {message}" if name else message) from error

    def but(self, **changes: Any) -> Self:
        """Give a copy with other values, which are not checked."""
        return self.model_copy(update=changes)

    @property
    def steps(self) -> int:
        """Steps of one replica; rounded up, so that at least `ps` are simulated."""
        return math.ceil(self.ps * 1000.0 / self.timestep - 1e-9)

    @property
    def total_steps(self) -> int:
        """Steps of all replicas."""
        return self.steps * self.replicas * len(self.temperatures)

    def jobs(self) -> list[Job]:
        """All replicas, the temperature given first coming first."""
        return [
            Job(temperature, replica, self._seed_of(row, replica))
            for row, temperature in enumerate(self.temperatures)
            for replica in range(self.replicas)
        ]

    def _seed_of(self, temperature: int, replica: int) -> int:
        """Seed of one run, so that no two runs, of this or of another `seed`, share one."""
        sequence = np.random.SeedSequence(self.seed, spawn_key=(temperature, replica))
        return int(sequence.generate_state(1)[0])


class BudgetedSettings(StabilitySettings):
    """The settings of one run in this process, which may be planned to a time."""

    budget: Positive | None = Field(
        None,
        description="Minutes that it may take: scans, then replicas, then length are cut to fit.",
    )
    left_out: tuple[str, ...] = Field((), description="What a budget left out, in words.")
