"""What one run at one temperature came to."""

from __future__ import annotations

import math

from pydantic import computed_field
from pydantic.dataclasses import dataclass

from ase_ws.results.check import CheckResult
from ase_ws.results.finding import Finding
from ase_ws.results.record import (
    CONFIG,
    Counts,
    Listed,
    Number,
    Numbers,
    Record,
    about,
)


@dataclass(frozen=True, config=CONFIG)
class Traces(Record):
    """Quantities along one run, thinned for plots; all lists have one length."""

    step: Numbers = about("MD step.", list)
    time_fs: Numbers = about("Time in fs.", list)
    potential_ev_per_atom: Numbers = about("Potential energy, eV/atom.", list)
    kinetic_ev_per_atom: Numbers = about("Kinetic energy, eV/atom.", list)
    conserved_ev_per_atom: Numbers = about("Conserved quantity of the integrator, eV/atom.", list)
    temperature_k: Numbers = about("Kinetic temperature, K.", list)
    volume_a3: Numbers = about("Volume of the cell, Å³.", list)


@dataclass(frozen=True, config=CONFIG)
class ReplicaResult(Record):
    """One run at one temperature."""

    temperature: Number = about("Set temperature in K.", math.nan)
    replica: int | None = about("Number of the run at this temperature, from 0.")
    seed: int | None = about("Seed that repeats the run (`ase-ws md --seed`).")
    planned_ps: Number = about("Wanted length in ps.", math.nan)
    simulated_ps: Number = about("Length until a failure or the end, in ps.", math.nan)
    failure: Finding | None = about("What stopped it.")
    warnings: Listed[Finding] = about("What did not stop it.", list)
    checks: Listed[CheckResult] = about("How each check ended.", list)
    traces: Traces | None = about("Absent in a comparison.")
    mean_temperature: float | None = about("Mean kinetic temperature of the second half, K.")
    ns_per_day: Number = about("Speed in ns per day; of replicas in one batch: of each.", math.nan)
    bonds: Counts = about(
        "How often each length of a bond was seen: by pair of elements and by number of the bin "
        "of 0.02 Å. Empty in a comparison.",
        dict,
    )

    @computed_field(description="When it failed, in ps; null where it did not.")
    @property
    def time_to_failure_ps(self) -> float | None:
        """When it failed, in ps; None where it did not."""
        return None if self.failure is None else self.failure.time / 1000.0
