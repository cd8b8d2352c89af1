"""Who is at fault, and what was run again to find out."""

from __future__ import annotations

import math
from typing import Literal

from pydantic.dataclasses import dataclass

from ase_ws.results.finding import Finding
from ase_ws.results.record import CONFIG, Listed, Number, Record, Text, about

Cause = Literal["model", "timestep", "precision", "starting structure", "not settled"]
_CAUSES = ["model", "timestep", "precision", "starting structure", "not settled"]


@dataclass(frozen=True, config=CONFIG)
class Rerun(Record):
    """The failing runs once more, with one thing changed."""

    what: Text = about("What was changed, such as 'half the timestep', 'float64'.", "")
    timestep: Number = about("Time step in fs.", math.nan)
    replicas: int | None = about("How many runs were repeated.")
    failed: int | None = about("How many of them failed again.")
    total_ps: Number = about("Simulated time in ps, of all together.", math.nan)
    by_chance: Number = about(
        "Probability that none of them fails although the rate is that of the original.",
        math.nan,
    )
    failure: Finding | None = about("The first failure among them.")


@dataclass(frozen=True, config=CONFIG)
class Blame(Record):
    """Why it failed, as the reruns tell."""

    cause: Text = about("What is to blame.", "", enum=_CAUSES)
    reason: Text = about("How the reruns tell, in one line.", "")
    reruns: Listed[Rerun] = about("What was run once more.", list)
