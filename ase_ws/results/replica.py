"""What one run at one temperature came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ase_ws.results.check import CheckResult
from ase_ws.results.finding import Finding, finite_or_none


@dataclass(frozen=True)
class ReplicaResult:
    """One run at one temperature.

    Attributes
    ----------
    temperature : float
        Set temperature in K.
    replica : int
        Number of the replica at this temperature, from 0.
    seed : int
        Seed for `run_md`, which repeats the run.
    planned_ps, simulated_ps : float
        Wanted, and reached before a failure or the end.
    failure : Finding or None
        What stopped it.
    warnings : list of Finding
        What did not stop it.
    checks : list of CheckResult
        One for each check.
    traces : dict of lists
        Thinned traces for plots; keys as in `MDResult.traces`.
    mean_temperature : float or None
        Mean kinetic temperature of the second half, in K.
    ns_per_day : float
        Speed; of replicas in one batch: of each.
    bonds : dict
        How often each length of a bonded pair was seen, see `BondLengths`.
    """

    temperature: float
    replica: int
    seed: int
    planned_ps: float
    simulated_ps: float
    failure: Finding | None
    warnings: list[Finding]
    checks: list[CheckResult]
    traces: dict[str, list[float | None]]
    mean_temperature: float | None
    ns_per_day: float
    bonds: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def time_to_failure_ps(self) -> float | None:
        """When it failed, in ps; None where it did not."""
        return self.failure.time / 1000.0 if self.failure is not None else None

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary that JSON can hold."""
        return {
            "temperature": self.temperature,
            "replica": self.replica,
            "seed": self.seed,
            "planned_ps": self.planned_ps,
            "simulated_ps": self.simulated_ps,
            "time_to_failure_ps": self.time_to_failure_ps,
            "failure": self.failure.to_dict() if self.failure is not None else None,
            "warnings": [finding.to_dict() for finding in self.warnings],
            "checks": [check.to_dict() for check in self.checks],
            "mean_temperature": finite_or_none(self.mean_temperature),
            "ns_per_day": finite_or_none(self.ns_per_day),
            "bonds": self.bonds,
            "traces": self.traces,
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> ReplicaResult:
        """Read what `to_dict` wrote."""
        fields = {**record}
        del fields["time_to_failure_ps"]
        failure = fields["failure"]
        fields["failure"] = None if failure is None else Finding.from_dict(failure)
        fields["warnings"] = [Finding.from_dict(item) for item in fields["warnings"]]
        fields["checks"] = [CheckResult.from_dict(item) for item in fields["checks"]]
        return cls(**fields)
