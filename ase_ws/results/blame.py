"""Who is at fault, and what was run again to find out."""

from __future__ import annotations

import math
from dataclasses import field
from typing import Annotated, Literal

from pydantic.dataclasses import dataclass

from ase_ws.results.finding import Finding
from ase_ws.results.record import CONFIG, NoneIsEmpty, Number, Record, Text, about

Cause = Literal["model", "timestep", "precision", "starting structure", "not settled"]
_CAUSES = ["model", "timestep", "precision", "starting structure", "not settled"]


@dataclass(frozen=True, config=CONFIG)
class Rerun(Record):
    """The failing runs once more, with one thing changed."""

    what: Annotated[Text, about("What was changed, such as 'half the timestep', 'float64'.")] = ""
    timestep: Annotated[Number, about("Time step in fs.")] = math.nan
    replicas: Annotated[int | None, about("How many runs were repeated.")] = None
    failed: Annotated[int | None, about("How many of them failed again.")] = None
    total_ps: Annotated[Number, about("Simulated time in ps, of all together.")] = math.nan
    by_chance: Annotated[
        Number,
        about("Probability that none of them fails although the rate is that of the original."),
    ] = math.nan
    failure: Annotated[Finding | None, about("The first failure among them.")] = None


@dataclass(frozen=True, config=CONFIG)
class Blame(Record):
    """Why it failed, as the reruns tell."""

    cause: Annotated[Text, about("What is to blame.", enum=_CAUSES)] = ""
    reason: Annotated[Text, about("How the reruns tell, in one line.")] = ""
    reruns: Annotated[list[Rerun], NoneIsEmpty, about("What was run once more.")] = field(
        default_factory=list
    )
