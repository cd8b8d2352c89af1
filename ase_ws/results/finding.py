"""What a check says about one moment of a run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AliasChoices, Field
from pydantic.dataclasses import dataclass

from ase_ws.results.record import CONFIG, Index, Indices, Number, Record, Text, about

Severity = Literal["warn", "fail"]


@dataclass(frozen=True, config=CONFIG)
class Finding(Record):
    """Something that a check has to say about one moment of one run."""

    check: Text = about("Name of the check.", "")
    severity: Text = about("A failure stops the run.", "", enum=["warn", "fail"])
    message: Text = about("One line for people; names the atoms it is about.", "")
    value: float | None = about("What was measured, in the unit of the check.")
    threshold: float | None = about("Its limit, in the unit of the check.")
    atoms: Indices = about("Atoms it is about, counted from 0; empty: the whole system.", ())
    step: Index = about("MD step.", 0)
    time: Annotated[
        Number,
        Field(
            description="Time since the start of the run in fs.",
            validation_alias=AliasChoices("time_fs", "time"),
            serialization_alias="time_fs",
        ),
    ] = 0.0
    temperature: float | None = about("Set temperature in K.")
    replica: int | None = about("Number of the replica there, from 0.")
