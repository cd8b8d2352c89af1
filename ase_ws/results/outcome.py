"""What MD with one model came to: verdict, runs, and the rates that follow from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import computed_field
from pydantic.dataclasses import dataclass

from ase_ws.results.finding import Finding
from ase_ws.results.rates import (
    Survival,
    failure_rate,
    failure_rate_interval,
    failure_rate_upper,
    survival_curve,
)
from ase_ws.results.record import CONFIG, Listed, Record, Text, about
from ase_ws.results.replica import ReplicaResult

Verdict = Literal["stable", "unstable", "inconclusive"]


@dataclass(frozen=True, config=CONFIG)
class Rates(Record):
    """What follows from counted failures and the time in which they were counted."""

    def counted(self) -> tuple[int, float]:
        """Give the number of runs that failed, and the simulated time of all in ps."""
        raise NotImplementedError

    @computed_field(description="Failures per simulated time, 1/ps; null where nothing was run.")
    @property
    def failure_rate_per_ps(self) -> float | None:
        """Failures per simulated ps; None where nothing was simulated."""
        return failure_rate(*self.counted())

    @computed_field(
        description="Exact one-sided 95 % upper limit of the rate (Poisson), 1/ps; with no failure "
        "2.996 over the simulated time."
    )
    @property
    def failure_rate_95_upper_per_ps(self) -> float | None:
        """One-sided 95 % upper limit of the rate in 1/ps; 2.996 / time with no failure."""
        return failure_rate_upper(*self.counted())

    @computed_field(
        description="Exact two-sided 95 % interval of the rate (Garwood 1936): low and high, 1/ps."
    )
    @property
    def failure_rate_95_per_ps(self) -> tuple[float, float] | None:
        """Two-sided 95 % interval of the rate in 1/ps."""
        return failure_rate_interval(*self.counted())


@dataclass(frozen=True, config=CONFIG)
class AtTemperature(Rates):
    """All replicas at one temperature."""

    temperature: Annotated[float, about("Set temperature in K.")]
    replicas: Annotated[int, about("Number of runs.")]
    failed: Annotated[int, about("Number of runs that failed.")]
    total_ps: Annotated[float, about("Simulated time in ps, until each run failed or ended.")]
    survival: Annotated[Survival, about("How long the runs lasted.")]

    @classmethod
    def of(cls, temperature: float, runs: Sequence[ReplicaResult]) -> AtTemperature:
        """Count the runs at this temperature."""
        times = [_known(run.simulated_ps) for run in runs]
        failed = [run.failure is not None for run in runs]
        survival = survival_curve(times, failed)
        return cls(temperature, len(runs), sum(failed), sum(times), survival)

    def counted(self) -> tuple[int, float]:
        """Give failures and time."""
        return self.failed, self.total_ps


@dataclass(frozen=True, config=CONFIG)
class Outcome(Rates):
    """What MD with one model came to."""

    name: Text = about("How the model is called.", "")
    verdict: Text = about(
        "Whether it can be trusted.",
        "",
        enum=["stable", "unstable", "inconclusive"],
    )
    reason: Text = about("Why, in one line.", "")
    failures: Listed[Finding] = about("Before MD and of all runs.", list)
    replicas: Listed[ReplicaResult] = about("Each run.", list)

    def counted(self) -> tuple[int, float]:
        """Give failures and time of all replicas."""
        return self.failed_replicas, self.total_ps

    @computed_field(description="Simulated time in ps, until each run failed or ended.")
    @property
    def total_ps(self) -> float:
        """Simulated time of all replicas together, in ps."""
        return sum(_known(run.simulated_ps) for run in self.replicas)

    @computed_field(description="Number of runs that failed, at all temperatures.")
    @property
    def failed_replicas(self) -> int:
        """Number of replicas that failed."""
        return sum(run.failure is not None for run in self.replicas)

    @computed_field(description="One entry a temperature, coldest first.")
    @property
    def temperatures(self) -> list[AtTemperature]:
        """Failures, times, rates and survival at each temperature, coldest first."""
        kelvins = {run.temperature for run in self.replicas if math.isfinite(run.temperature)}
        return [
            AtTemperature.of(kelvin, [run for run in self.replicas if run.temperature == kelvin])
            for kelvin in sorted(kelvins)
        ]

    @computed_field(description="The failure that came first, before MD or in its course.")
    @property
    def first_failure(self) -> Finding | None:
        """The failure that came first, before MD or in its course."""
        found = self.failures or [run.failure for run in self.replicas if run.failure is not None]
        # What failed before any MD has no replica, and comes before all that has one.
        return min(
            found, key=lambda item: (item.replica is not None, _known(item.time)), default=None
        )


def _known(value: float) -> float:
    """Count what is unknown, or cannot be, as nothing."""
    return max(value, 0.0) if math.isfinite(value) else 0.0
