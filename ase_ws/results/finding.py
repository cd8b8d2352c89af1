"""What a check says about one moment of a run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AliasChoices, Field
from pydantic.dataclasses import dataclass

from ase_ws.results.record import CONFIG, Indices, NullIsZero, Number, Record, Text, about

Severity = Literal["warn", "fail"]


@dataclass(frozen=True, config=CONFIG)
class Finding(Record):
    """Something that a check has to say about one moment of one run."""

    check: Annotated[Text, about("Name of the check.")] = ""
    severity: Annotated[Text, about("A failure stops the run.", enum=["warn", "fail"])] = ""
    message: Annotated[Text, about("One line for people; names the atoms it is about.")] = ""
    value: Annotated[float | None, about("What was measured, in the unit of the check.")] = None
    threshold: Annotated[float | None, about("Its limit, in the unit of the check.")] = None
    atoms: Annotated[
        Indices, about("Atoms it is about, counted from 0; empty: the whole system.")
    ] = ()
    step: Annotated[int, NullIsZero, about("MD step.")] = 0
    time: Annotated[
        Number,
        Field(
            description="Time since the start of the run in fs.",
            validation_alias=AliasChoices("time_fs", "time"),
            serialization_alias="time_fs",
        ),
    ] = 0.0
    temperature: Annotated[float | None, about("Set temperature in K.")] = None
    replica: Annotated[int | None, about("Number of the replica there, from 0.")] = None
