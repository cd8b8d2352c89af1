"""What one run at one temperature came to."""

from __future__ import annotations

import math
from dataclasses import field
from typing import Annotated

from pydantic import computed_field
from pydantic.dataclasses import dataclass

from ase_ws.results.check import CheckResult
from ase_ws.results.finding import Finding
from ase_ws.results.record import (
    CONFIG,
    NoneIsEmpty,
    NullIsNoTable,
    NullIsZero,
    Number,
    Numbers,
    Record,
    about,
)


@dataclass(frozen=True, config=CONFIG)
class Traces(Record):
    """Quantities along one run, thinned for plots; all lists have one length."""

    step: Annotated[Numbers, about("MD step.")] = field(default_factory=list)
    time_fs: Annotated[Numbers, about("Time in fs.")] = field(default_factory=list)
    potential_ev_per_atom: Annotated[Numbers, about("Potential energy, eV/atom.")] = field(
        default_factory=list
    )
    kinetic_ev_per_atom: Annotated[Numbers, about("Kinetic energy, eV/atom.")] = field(
        default_factory=list
    )
    conserved_ev_per_atom: Annotated[
        Numbers, about("Conserved quantity of the integrator, eV/atom.")
    ] = field(default_factory=list)
    temperature_k: Annotated[Numbers, about("Kinetic temperature, K.")] = field(
        default_factory=list
    )
    volume_a3: Annotated[Numbers, about("Volume of the cell, Å³.")] = field(default_factory=list)


@dataclass(frozen=True, config=CONFIG)
class ReplicaResult(Record):
    """One run at one temperature."""

    temperature: Annotated[Number, about("Set temperature in K.")] = math.nan
    replica: Annotated[int, NullIsZero, about("Number of the run at this temperature, from 0.")] = 0
    seed: Annotated[int, NullIsZero, about("Seed that repeats the run (`ase-ws md --seed`).")] = 0
    planned_ps: Annotated[Number, about("Wanted length in ps.")] = math.nan
    simulated_ps: Annotated[Number, about("Length until a failure or the end, in ps.")] = math.nan
    failure: Annotated[Finding | None, about("What stopped it.")] = None
    warnings: Annotated[list[Finding], NoneIsEmpty, about("What did not stop it.")] = field(
        default_factory=list
    )
    checks: Annotated[list[CheckResult], NoneIsEmpty, about("How each check ended.")] = field(
        default_factory=list
    )
    traces: Annotated[Traces | None, about("Absent in a comparison.")] = None
    mean_temperature: Annotated[
        float | None, about("Mean kinetic temperature of the second half, K.")
    ] = None
    ns_per_day: Annotated[
        Number, about("Speed in ns per day; of replicas in one batch: of each.")
    ] = math.nan
    bonds: Annotated[
        dict[str, dict[str, int]],
        NullIsNoTable,
        about(
            "How often each length of a bond was seen: by pair of elements and by number of the "
            "bin of 0.02 Å. Empty in a comparison."
        ),
    ] = field(default_factory=dict)

    @computed_field(description="When it failed, in ps; null where it did not.")
    @property
    def time_to_failure_ps(self) -> float | None:
        """When it failed, in ps; None where it did not."""
        return None if self.failure is None else self.failure.time / 1000.0
