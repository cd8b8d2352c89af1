"""The answer of the stability suite, with its evidence."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ase_ws.errors import UserError
from ase_ws.files.writing import write_text
from ase_ws.results.blame import Blame
from ase_ws.results.check import CheckResult
from ase_ws.results.finding import Finding
from ase_ws.results.rates import (
    failure_rate,
    failure_rate_interval,
    failure_rate_upper,
    survival_curve,
)
from ase_ws.results.replica import ReplicaResult

Verdict = Literal["stable", "unstable", "inconclusive"]

#: Raised whenever a key of `StabilityReport.to_dict()` changes its meaning or goes.
SCHEMA_VERSION = 2

#: What a comparison keeps, beside the replicas.
COMPARED = (
    "name",
    "verdict",
    "reason",
    "total_ps",
    "failed_replicas",
    "failure_rate_per_ps",
    "failure_rate_95_upper_per_ps",
    "failure_rate_95_per_ps",
    "temperatures",
    "first_failure",
)
#: What a run of the suite writes to its folder.
FILES = ("stability.json", "candidates.xyz", "report.html")


@dataclass(frozen=True, repr=False)
class StabilityReport:
    """The answer to "is this potential safe for MD of this structure at this temperature?".

    Attributes
    ----------
    verdict : {"stable", "unstable", "inconclusive"}
        See `decide`.
    reason : str
        Why, in one line.
    failures, warnings : list of Finding
        From the relaxation, the static checks and all replicas.
    checks : list of CheckResult
        One per check: the worst of all replicas.
    replicas : list of ReplicaResult
        Each run.
    settings : dict
        What was done (temperatures, ps, timestep, ensemble, seed, ...), and what was left out of
        it to fit a budget (`left_out`, lines for people).
    static : list of dict
        The checks before any MD, with the curves that they looked at.
    blame : Blame or None
        What is at fault, where something failed.
    comparison : dict or None
        The same seeds with a second model.
    bond_lengths : list of dict
        Distributions in MD and in the training data.
    failing_frame : dict or None
        The first failing frame, for a picture.
    calibration : dict or None
        What the thresholds were calibrated on.
    name : str
        How the model is called.
    meaning : str
        What it means that a look before MD decided; "" where none did.
    provenance : dict
        Versions, time, wall time and its estimate.
    """

    verdict: Verdict
    reason: str
    failures: list[Finding]
    warnings: list[Finding]
    checks: list[CheckResult]
    replicas: list[ReplicaResult]
    settings: dict[str, Any] = field(default_factory=dict)
    static: list[dict[str, Any]] = field(default_factory=list)
    blame: Blame | None = None
    comparison: dict[str, Any] | None = None
    bond_lengths: list[dict[str, Any]] = field(default_factory=list)
    failing_frame: dict[str, Any] | None = None
    calibration: dict[str, Any] | None = None
    name: str = ""
    meaning: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Verdict, failures and simulated time: everything would fill the screen."""
        return (
            f"<StabilityReport {self.verdict}: {self.failed_replicas} of {len(self.replicas)} "
            f"replicas failed in {self.total_ps:.3g} ps; print(report.summary())>"
        )

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

    @property
    def failure_rate_95_per_ps(self) -> tuple[float, float] | None:
        """Two-sided 95 % interval of the rate in 1/ps."""
        return failure_rate_interval(self.failed_replicas, self.total_ps)

    @property
    def first_failure(self) -> Finding | None:
        """The failure that came first, before MD or in its course."""
        # What failed before any MD has no replica, and comes before all that has one.
        return min(
            self.failures, key=lambda item: (item.replica is not None, item.time), default=None
        )

    def by_temperature(self) -> list[dict[str, Any]]:
        """Count failures, and give times, rates and survival, coldest first."""
        return by_temperature(self.replicas)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary that JSON can hold (no NaN: null)."""
        return {
            "schema_version": SCHEMA_VERSION,
            "name": self.name,
            "verdict": self.verdict,
            "reason": self.reason,
            "meaning": self.meaning,
            "first_failure": None if self.first_failure is None else self.first_failure.to_dict(),
            "blame": None if self.blame is None else self.blame.to_dict(),
            "failures": [finding.to_dict() for finding in self.failures],
            "warnings": [finding.to_dict() for finding in self.warnings],
            "total_ps": self.total_ps,
            "failed_replicas": self.failed_replicas,
            "failure_rate_per_ps": self.failure_rate_per_ps,
            "failure_rate_95_upper_per_ps": self.failure_rate_95_upper_per_ps,
            "failure_rate_95_per_ps": _listed(self.failure_rate_95_per_ps),
            "temperatures": self.by_temperature(),
            "checks": [check.to_dict() for check in self.checks],
            "static": self.static,
            "replicas": [replica.to_dict() for replica in self.replicas],
            "comparison": self.comparison,
            "bond_lengths": self.bond_lengths,
            "failing_frame": self.failing_frame,
            "calibration": self.calibration,
            "settings": self.settings,
            "provenance": self.provenance,
        }

    def for_comparison(self) -> dict[str, Any]:
        """Give what the report of another model keeps of this one."""
        record = self.to_dict()
        replicas = [
            {key: value for key, value in replica.items() if key not in ("traces", "bonds")}
            for replica in record["replicas"]
        ]
        return {**{key: record[key] for key in COMPARED}, "replicas": replicas}

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Write `stability.json` to the folder, and make it if need be."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), allow_nan=False) + "\n"
        write_text(Path(folder) / "stability.json", text)

    def summary(self) -> str:
        """Say it in a few lines of text for people."""
        lines = [f"{self.verdict}: {self.reason}"]
        lines += [self.meaning] if self.meaning else []
        if self.settings.get("left_out"):
            left_out = "; ".join(self.settings["left_out"])
            lines.append(f"left out to fit {self.settings['budget']:g} min: {left_out}")
        if self.blame is not None:
            lines.append(f"blame: {self.blame.cause}; {self.blame.reason}")
        for row in self.by_temperature():
            upper = row["failure_rate_95_upper_per_ps"]
            limit = f", failure rate below {upper:.3g}/ps (95 % limit)" if upper is not None else ""
            lines.append(
                f"{row['temperature']:g} K: {row['failed']} of {row['replicas']} replicas failed "
                f"in {row['total_ps']:.3g} ps{limit}"
            )
        if self.comparison is not None:
            other = self.comparison
            lines.append(
                f"{other['name']}, same seeds: {other['verdict']}; {other['failed_replicas']} of "
                f"{len(other['replicas'])} replicas failed"
            )
        for finding in self.failures:
            where = ""
            if finding.replica is not None:
                where = f" at {finding.time:.1f} fs (replica {finding.replica})"
            lines.append(f"  {finding.check}{where}: {finding.message}")
        lines += [f"  warning: {finding.message}" for finding in self.warnings[:5]]
        if len(self.warnings) > 5:
            lines.append(f"  warnings beyond these: {len(self.warnings) - 5}")
        return "\n".join(lines)


def require_plain(notes: Mapping[str, Any] | None) -> None:
    """Refuse notes that JSON cannot hold, before the work rather than after it."""
    try:
        json.dumps(dict(notes or {}), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError(f"notes: JSON cannot hold them ({error}); give plain values") from error


class UnwrittenError(OSError):
    """A report is complete, but could not be written.

    Attributes
    ----------
    report : StabilityReport
    """

    def __init__(self, report: StabilityReport, error: OSError):
        super().__init__(error.errno, error.strerror or str(error), error.filename)
        self.report = report


@contextmanager
def keeping(report: StabilityReport) -> Iterator[None]:
    """Do not lose what was computed where it cannot be written: `UnwrittenError` holds it."""
    try:
        yield
    except OSError as error:
        raise UnwrittenError(report, error) from error


def by_temperature(replicas: Sequence[ReplicaResult]) -> list[dict[str, Any]]:
    """Count failures, and give times, rates and survival at each temperature, coldest first."""
    table = []
    for temperature in sorted({replica.temperature for replica in replicas}):
        runs = [run for run in replicas if run.temperature == temperature]
        failed = sum(run.failure is not None for run in runs)
        total = sum(run.simulated_ps for run in runs)
        survival = survival_curve(
            [run.simulated_ps for run in runs], [run.failure is not None for run in runs]
        )
        table.append(
            {
                "temperature": temperature,
                "replicas": len(runs),
                "failed": failed,
                "total_ps": total,
                "failure_rate_per_ps": failure_rate(failed, total),
                "failure_rate_95_upper_per_ps": failure_rate_upper(failed, total),
                "failure_rate_95_per_ps": _listed(failure_rate_interval(failed, total)),
                "survival": survival._asdict(),
            }
        )
    return table


def _listed(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)
