"""Who is at fault, and what was run again to find out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from ase_ws.results.finding import Finding


@dataclass(frozen=True)
class Rerun:
    """The failing conditions with one thing changed.

    Attributes
    ----------
    what : str
        "float64", "half the timestep" or "a quarter of the timestep".
    timestep : float
        In fs.
    replicas, failed : int
    total_ps : float
        Simulated in all.
    by_chance : float
        Probability that no rerun fails although the rate is that of the original.
    failure : Finding or None
        The first.
    """

    what: str
    timestep: float
    replicas: int
    failed: int
    total_ps: float
    by_chance: float
    failure: Finding | None

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary that JSON can hold."""
        failure = None if self.failure is None else self.failure.to_dict()
        return {**vars(self), "failure": failure}


Cause = Literal["model", "timestep", "precision", "starting structure", "not settled"]


@dataclass(frozen=True)
class Blame:
    """What is at fault.

    Attributes
    ----------
    cause : {"model", "timestep", "precision", "starting structure", "not settled"}
    reason : str
        In one line.
    reruns : list of Rerun
        What was tried to find out.
    """

    cause: Cause
    reason: str
    reruns: list[Rerun] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary that JSON can hold."""
        reruns = [rerun.to_dict() for rerun in self.reruns]
        return {"cause": self.cause, "reason": self.reason, "reruns": reruns}
