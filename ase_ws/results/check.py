"""How a check ended, with the curves that it looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ase_ws.results.finding import finite_or_none

Status = Literal["passed", "warned", "failed", "not judged", "does not apply"]


#: From best to worst; a summary of several runs takes the worst.
STATUS_ORDER: tuple[Status, ...] = ("does not apply", "not judged", "passed", "warned", "failed")


@dataclass(frozen=True)
class CheckResult:
    """How one check ended.

    Attributes
    ----------
    name, definition, unit : str
        What was measured.
    warn_at, fail_at : float or None
        Limits in `unit`.
    worst : float or None
        Worst value met.
    worst_time : float or None
        Its time in fs.
    status : str
        "passed", "warned", "failed", "not judged" (too little data) or "does not apply".
    note : str
        Anything a reader needs to judge the numbers.
    """

    name: str
    definition: str
    unit: str = ""
    warn_at: float | None = None
    fail_at: float | None = None
    worst: float | None = None
    worst_time: float | None = None
    status: Status = "not judged"
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary that JSON can hold: non-finite numbers become None."""
        record = asdict(self)
        record["worst_time_fs"] = record.pop("worst_time")
        for key in ("warn_at", "fail_at", "worst", "worst_time_fs"):
            record[key] = finite_or_none(record[key])
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> CheckResult:
        """Read what `to_dict` wrote."""
        fields = {**record, "worst_time": record["worst_time_fs"]}
        del fields["worst_time_fs"]
        return cls(**fields)


@dataclass(frozen=True)
class Curve:
    """A curve for a plot.

    Attributes
    ----------
    title, xlabel, ylabel : str
    x, y : list of float
        Of the same length.
    marks : list of float
        Values of x where something is wrong.
    """

    title: str
    xlabel: str
    ylabel: str
    x: list[float]
    y: list[float]
    marks: list[float] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary that JSON can hold: non-finite numbers become None."""
        return {
            "title": self.title,
            "xlabel": self.xlabel,
            "ylabel": self.ylabel,
            "x": [finite_or_none(value) for value in self.x],
            "y": [finite_or_none(value) for value in self.y],
            "marks": [finite_or_none(value) for value in self.marks],
        }
