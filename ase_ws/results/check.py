"""How a check ended, with the curves that it looked at."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import AliasChoices, Field
from pydantic.dataclasses import dataclass

from ase_ws.results.record import CONFIG, NoneIsEmpty, Numbers, Record, Text, about

Status = Literal["passed", "warned", "failed", "not judged", "does not apply"]

#: From best to worst; a summary of several runs takes the worst.
STATUS_ORDER: tuple[str, ...] = ("does not apply", "not judged", "passed", "warned", "failed")


@dataclass(frozen=True, config=CONFIG)
class CheckResult(Record):
    """How one check ended: in one run, or the worst of all runs."""

    name: Annotated[Text, about("Name of the check.")] = ""
    definition: Annotated[Text, about("What is measured, as an equation or in words.")] = ""
    unit: Annotated[Text, about("Unit of the limits and of the worst value.")] = ""
    warn_at: Annotated[float | None, about("Beyond this the check warns.")] = None
    fail_at: Annotated[float | None, about("Beyond this the check fails.")] = None
    worst: Annotated[float | None, about("Worst value that was met.")] = None
    worst_time: Annotated[
        float | None,
        Field(
            description="When, in fs since the start of the run.",
            validation_alias=AliasChoices("worst_time_fs", "worst_time"),
            serialization_alias="worst_time_fs",
        ),
    ] = None
    status: Annotated[Text, about("How it ended.", enum=list(STATUS_ORDER))] = "not judged"
    note: Annotated[Text, about("What a reader needs beside the numbers.")] = ""


@dataclass(frozen=True, config=CONFIG)
class Curve(Record):
    """A curve of a static check: a scan, a ladder of rattled structures, an equation of state."""

    title: Annotated[Text, about("What was varied, such as 'C0-O1 stretch'.")] = ""
    xlabel: Annotated[Text, about("Quantity and unit of x.")] = ""
    ylabel: Annotated[Text, about("Quantity and unit of y.")] = ""
    x: Annotated[Numbers, about("Points along the curve.")] = field(default_factory=list)
    y: Annotated[Numbers, about("Values; null where the model gave none.")] = field(
        default_factory=list
    )
    marks: Annotated[Numbers, about("The x at which something is wrong.")] = field(
        default_factory=list
    )


@dataclass(frozen=True, config=CONFIG)
class StaticCheckResult(CheckResult):
    """A check that needs no MD, with the curves that it looked at."""

    curves: Annotated[list[Curve], NoneIsEmpty, about("What was scanned; often nothing.")] = field(
        default_factory=list
    )
