"""From what the replicas did to a verdict, and the report that carries both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from ase_ws.md.observer import Finding, finite_or_none
from ase_ws.stability.check import STATUS_ORDER, CheckResult
from ase_ws.stability.rates import failure_rate, failure_rate_upper

Verdict = Literal["stable", "unstable", "inconclusive"]

#: Raised whenever a key of `StabilityReport.to_dict()` changes its meaning or goes.
SCHEMA_VERSION = 1


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
        Speed.
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
            "traces": self.traces,
        }


@dataclass(frozen=True)
class StabilityReport:
    """The answer to "is this potential safe for MD of this structure at this temperature?".

    Attributes
    ----------
    verdict : {"stable", "unstable", "inconclusive"}
        See `decide`.
    reason : str
        Why, in one line.
    failures, warnings : list of Finding
        From the relaxation and from all replicas.
    checks : list of CheckResult
        One per check: the worst of all replicas.
    replicas : list of ReplicaResult
        Each run.
    settings : dict
        What was asked for (temperatures, ps, timestep, ensemble, seed, ...).
    """

    verdict: Verdict
    reason: str
    failures: list[Finding]
    warnings: list[Finding]
    checks: list[CheckResult]
    replicas: list[ReplicaResult]
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def total_ps(self) -> float:
        """Simulated time of all replicas together, in ps."""
        return sum(replica.simulated_ps for replica in self.replicas)

    @property
    def failed_replicas(self) -> int:
        """Number of replicas that failed."""
        return sum(replica.failure is not None for replica in self.replicas)

    @property
    def failure_rate_per_ps(self) -> float | None:
        """Failures per simulated ps; None where nothing was simulated."""
        return failure_rate(self.failed_replicas, self.total_ps)

    @property
    def failure_rate_95_upper_per_ps(self) -> float | None:
        """One-sided 95 % upper limit of the rate in 1/ps; 2.996 / total_ps with no failure."""
        return failure_rate_upper(self.failed_replicas, self.total_ps)

    def by_temperature(self) -> list[dict[str, Any]]:
        """Count failures, and give times and rates, at each temperature, coldest first."""
        table = []
        for temperature in sorted({replica.temperature for replica in self.replicas}):
            runs = [run for run in self.replicas if run.temperature == temperature]
            failed = sum(run.failure is not None for run in runs)
            total = sum(run.simulated_ps for run in runs)
            table.append(
                {
                    "temperature": temperature,
                    "replicas": len(runs),
                    "failed": failed,
                    "total_ps": total,
                    "failure_rate_per_ps": failure_rate(failed, total),
                    "failure_rate_95_upper_per_ps": failure_rate_upper(failed, total),
                }
            )
        return table

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary that JSON can hold (no NaN: null)."""
        return {
            "schema_version": SCHEMA_VERSION,
            "verdict": self.verdict,
            "reason": self.reason,
            "failures": [finding.to_dict() for finding in self.failures],
            "warnings": [finding.to_dict() for finding in self.warnings],
            "total_ps": self.total_ps,
            "failed_replicas": self.failed_replicas,
            "failure_rate_per_ps": self.failure_rate_per_ps,
            "failure_rate_95_upper_per_ps": self.failure_rate_95_upper_per_ps,
            "temperatures": self.by_temperature(),
            "checks": [check.to_dict() for check in self.checks],
            "replicas": [replica.to_dict() for replica in self.replicas],
            "settings": self.settings,
        }

    def summary(self) -> str:
        """Say it in a few lines of text for people."""
        lines = [f"{self.verdict}: {self.reason}"]
        for row in self.by_temperature():
            upper = row["failure_rate_95_upper_per_ps"]
            limit = f", failure rate below {upper:.3g}/ps (95 % limit)" if upper is not None else ""
            lines.append(
                f"{row['temperature']:g} K: {row['failed']} of {row['replicas']} replicas failed "
                f"in {row['total_ps']:.3g} ps{limit}"
            )
        for finding in self.failures:
            where = "" if finding.replica is None else f" (replica {finding.replica})"
            lines.append(f"  {finding.check} at {finding.time:.1f} fs{where}: {finding.message}")
        lines += [f"  warning: {finding.message}" for finding in self.warnings[:5]]
        if len(self.warnings) > 5:
            lines.append(f"  and {len(self.warnings) - 5} more warnings")
        return "\n".join(lines)


def decide(
    failures: Sequence[Finding],
    warnings: Sequence[Finding],
    checks: Sequence[CheckResult],
    replicas: Sequence[ReplicaResult],
    min_ps: float,
) -> tuple[Verdict, str]:
    """Give the verdict and its reason.

    - "unstable": something failed, in the relaxation or in a replica.
    - "inconclusive": nothing failed, but that says little: at some temperature the replicas
      together ran less than `min_ps`; or a run was frozen, so that nothing was sampled; or no
      run was long enough for the drift to be judged.
    - "stable": nothing failed and none of this holds. It is a statement about this structure and
      these temperatures, no stronger than the upper limit of the failure rate beside it.
    """
    if failures:
        first = failures[0]
        failed = sum(replica.failure is not None for replica in replicas)
        if failed == 0:
            return "unstable", first.message
        return "unstable", f"{failed} of {len(replicas)} replicas failed; {first.message}"
    gap = _evidence_gap(warnings, checks, replicas, min_ps)
    if gap is not None:
        return "inconclusive", gap
    total = sum(replica.simulated_ps for replica in replicas)
    return "stable", f"no failure in {len(replicas)} replica(s), {total:.3g} ps in all"


def _evidence_gap(
    warnings: Sequence[Finding],
    checks: Sequence[CheckResult],
    replicas: Sequence[ReplicaResult],
    min_ps: float,
) -> str | None:
    """Say what is missing for calling a run without failures stable; None where nothing is."""
    totals: dict[float, float] = {}
    for replica in replicas:
        totals[replica.temperature] = totals.get(replica.temperature, 0.0) + replica.simulated_ps
    if not totals:
        return "nothing was simulated"
    least = min(totals, key=lambda temperature: totals[temperature])
    # The small allowance is for rounding in steps × timestep.
    if not (totals[least] >= min_ps * (1.0 - 1e-9)):
        return (
            f"no failure, but only {totals[least]:.3g} ps at {least:g} K: "
            f"{min_ps:g} ps are needed for a statement"
        )
    frozen = next((item for item in warnings if item.check == "frozen"), None)
    if frozen is not None:
        return f"no failure, but {frozen.message}"
    unjudged = [check.name for check in checks if check.status == "not judged"]
    if unjudged:
        return f"no failure, but no run was long enough to judge: {', '.join(unjudged)}"
    return None


def merge_checks(results: Sequence[Sequence[CheckResult]]) -> list[CheckResult]:
    """Take for each check its worst result over all runs."""
    merged: dict[str, CheckResult] = {}
    for run in results:
        for check in run:
            known = merged.get(check.name)
            merged[check.name] = check if known is None else _worse(known, check)
    return list(merged.values())


def _worse(first: CheckResult, second: CheckResult) -> CheckResult:
    ranks = STATUS_ORDER.index(first.status), STATUS_ORDER.index(second.status)
    if ranks[0] != ranks[1]:
        return first if ranks[0] > ranks[1] else second
    return first if _severity(first) >= _severity(second) else second


def _severity(check: CheckResult) -> float:
    """How close to the limit, so that runs at different temperatures can be compared."""
    if check.worst is None:
        return -np.inf
    if np.isnan(check.worst):
        return np.inf
    if check.fail_at is None or check.fail_at == 0:
        return abs(check.worst)
    falling = check.warn_at is not None and check.warn_at > check.fail_at
    return check.fail_at / check.worst if falling and check.worst else check.worst / check.fail_at


def label(finding: Finding, replica: int, temperature: float) -> Finding:
    """Say in a finding which replica it comes from."""
    return replace(finding, replica=replica, temperature=temperature)
