"""The answer of the stability suite, with its evidence: all of `stability.json`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ValidationError
from pydantic.dataclasses import dataclass

from ase_ws.errors import UserError
from ase_ws.files.writing import write_text
from ase_ws.results.blame import Blame
from ase_ws.results.check import CheckResult, StaticCheckResult
from ase_ws.results.finding import Finding
from ase_ws.results.outcome import Outcome
from ase_ws.results.pictures import BondLengths, FailingFrame
from ase_ws.results.record import CONFIG, Listed, Table, Text, about, only_finite

#: Raised whenever a key of `stability.json` changes its meaning or goes.
SCHEMA_VERSION = 2
#: What a run of the suite writes to its folder.
FILES = ("stability.json", "candidates.xyz", "report.html")


@dataclass(frozen=True, repr=False, config=CONFIG)
class StabilityReport(Outcome):
    """The answer to "is this potential safe for MD of this structure at this temperature?"."""

    schema_version: Annotated[int, BeforeValidator(lambda version: version or 1)] = about(
        "Raised whenever a key changes its meaning or goes.",
        SCHEMA_VERSION,
    )
    warnings: Listed[Finding] = about("Before MD and of all runs.", list)
    checks: Listed[CheckResult] = about("Each check: the worst of all runs.", list)
    static: Listed[StaticCheckResult] = about("Checks that need no MD.", list)
    meaning: Text = about("What it means that a look before MD decided; empty where none did.", "")
    blame: Blame | None = about("What is to blame; null without a failure.")
    comparison: Outcome | None = about(
        "A second model in the same runs (same seeds); its runs have no traces.",
    )
    bond_lengths: Listed[BondLengths] = about(
        "One entry a kind of bond, in MD and in training.",
        list,
    )
    failing_frame: FailingFrame | None = about("To draw the first failure.")
    calibration: dict[str, Any] | None = about(
        "The training set that limits come from: `source`, `n_frames`, ...",
    )
    settings: Table = about(
        "What was done: the fields of `BudgetedSettings`, and steps, formula, n_atoms, "
        "calculator, relaxation; left_out says in words what a budget has cut.",
        dict,
    )
    provenance: Table = about(
        "Where it comes from: command, created, versions, model; the time that it took "
        "(wall_time_s, and of it before_md_s and md_s), and its estimate.",
        dict,
    )

    def __repr__(self) -> str:
        """Verdict, failures and simulated time: everything would fill the screen."""
        return (
            f"<StabilityReport {self.verdict}: {self.failed_replicas} of {len(self.replicas)} "
            f"replicas failed in {self.total_ps:.3g} ps; print(report.summary())>"
        )

    def for_comparison(self) -> Outcome:
        """Give what the report of another model keeps of this one."""
        replicas = [replace(run, traces=None, bonds={}) for run in self.replicas]
        return Outcome(self.name, self.verdict, self.reason, self.failures, replicas)

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
        for row in self.temperatures:
            upper = row.failure_rate_95_upper_per_ps
            limit = f", failure rate below {upper:.3g}/ps (95 % limit)" if upper is not None else ""
            lines.append(
                f"{row.temperature:g} K: {row.failed} of {row.replicas} replicas failed "
                f"in {row.total_ps:.3g} ps{limit}"
            )
        if self.comparison is not None:
            other = self.comparison
            lines.append(
                f"{other.name}, same seeds: {other.verdict}; {other.failed_replicas} of "
                f"{len(other.replicas)} replicas failed"
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


def plain_notes(notes: Mapping[str, Any] | None) -> dict[str, Any]:
    """Give notes as JSON holds them; refuse what it cannot, before the work rather than after."""
    try:
        return json.loads(json.dumps(dict(notes or {}), allow_nan=False))
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


def read_stability(record: Mapping[str, Any], source: str = "stability results") -> StabilityReport:
    """Read a plain dictionary, as of `stability.json` of schema 1 or 2.

    Parameters
    ----------
    record : mapping
        Whatever is absent gets its default; what follows from the replicas is computed anew.
    source : str
        What the error calls it: the name of the file.

    Raises
    ------
    UserError
        If a field has the wrong type, or the file is of a newer schema than this package knows.
    """
    version = record.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise UserError(
            f"{source}: schema_version is {version}, expected at most {SCHEMA_VERSION}; update "
            "ase-ws to read this file"
        )
    try:
        return StabilityReport.from_dict({"schema_version": 1, **only_finite(record)})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"{source}: field '{where}': {first['msg']}; write the file with "
            "`ase-ws stability --out DIR` (its schema: `ase-ws report --schema`)"
        ) from error
