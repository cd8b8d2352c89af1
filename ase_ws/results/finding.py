"""What a check says about one moment of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

Severity = Literal["warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """Something that a check has to say about a snapshot.

    Attributes
    ----------
    check : str
        Name of the check.
    severity : {"warn", "fail"}
        A "fail" stops the run.
    message : str
        One line for people; names the atoms where the check is about atoms.
    value, threshold : float or None
        What was measured and its limit, in the unit of the check.
    atoms : tuple of int
        Indices of the atoms it is about; empty for the whole system.
    step : int
        MD step.
    time : float
        Time since the start in fs.
    temperature : float or None
        Set temperature in K.
    replica : int or None
        Number of the replica, filled in by a campaign.
    """

    check: str
    severity: Severity
    message: str
    value: float | None = None
    threshold: float | None = None
    atoms: tuple[int, ...] = ()
    step: int = 0
    time: float = 0.0
    temperature: float | None = None
    replica: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary that JSON can hold: non-finite numbers become None."""
        record = asdict(self)
        record["atoms"] = list(self.atoms)
        record["time_fs"] = record.pop("time")
        for key in ("value", "threshold"):
            record[key] = finite_or_none(record[key])
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Finding:
        """Read what `to_dict` wrote."""
        fields = {**record, "time": record["time_fs"], "atoms": tuple(record["atoms"])}
        del fields["time_fs"]
        return cls(**fields)


def finite_or_none(value: float | None) -> float | None:
    """Give the number as a float, or None where it is absent, NaN or infinite."""
    return float(value) if value is not None and np.isfinite(value) else None
