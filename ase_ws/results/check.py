"""How a check ended, with the curves that it looked at."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AliasChoices, Field
from pydantic.dataclasses import dataclass

from ase_ws.results.record import CONFIG, Listed, Numbers, Record, Text, about

Status = Literal["passed", "warned", "failed", "not judged", "does not apply"]

#: From best to worst; a summary of several runs takes the worst.
STATUS_ORDER: tuple[str, ...] = ("does not apply", "not judged", "passed", "warned", "failed")


@dataclass(frozen=True, config=CONFIG)
class CheckResult(Record):
    """How one check ended: in one run, or the worst of all runs."""

    name: Text = about("Name of the check.", "")
    definition: Text = about("What is measured, as an equation or in words.", "")
    unit: Text = about("Unit of the limits and of the worst value.", "")
    warn_at: float | None = about("Beyond this the check warns.")
    fail_at: float | None = about("Beyond this the check fails.")
    worst: float | None = about("Worst value that was met.")
    worst_time: Annotated[
        float | None,
        Field(
            description="When, in fs since the start of the run.",
            validation_alias=AliasChoices("worst_time_fs", "worst_time"),
            serialization_alias="worst_time_fs",
        ),
    ] = None
    status: Text = about("How it ended.", "not judged", enum=list(STATUS_ORDER))
    note: Text = about("What a reader needs beside the numbers.", "")


@dataclass(frozen=True, config=CONFIG)
class Curve(Record):
    """A curve of a static check: a scan, a ladder of rattled structures, an equation of state."""

    title: Text = about("What was varied, such as 'C0-O1 stretch'.", "")
    xlabel: Text = about("Quantity and unit of x.", "")
    ylabel: Text = about("Quantity and unit of y.", "")
    x: Numbers = about("Points along the curve.", list)
    y: Numbers = about("Values; null where the model gave none.", list)
    marks: Numbers = about("The x at which something is wrong.", list)


@dataclass(frozen=True, config=CONFIG)
class StaticCheckResult(CheckResult):
    """A check that needs no MD, with the curves that it looked at."""

    curves: Listed[Curve] = about("What was scanned; often nothing.", list)
