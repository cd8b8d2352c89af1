"""What is needed to build a network again: plain data, checked when it is read from a file."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class Architecture(BaseModel):
    """What the description of any network holds. A subclass adds its size.

    `r_max` in Å; `dtype` is the precision of the weights.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    atomic_numbers: tuple[int, ...] = Field(min_length=1)
    r_max: float = Field(default=5.0, gt=0, le=100, allow_inf_nan=False)
    dtype: Literal["float32", "float64"] = "float32"

    @field_validator("atomic_numbers")
    @classmethod
    def _elements_exist(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(not 1 <= z <= 118 for z in value) or len(set(value)) != len(value):
            raise ValueError(f"atomic numbers must be distinct and within 1 to 118: {value}")
        return value

    @property
    def size(self) -> str:
        """The network in a few words, for `ase-ws info`."""
        raise NotImplementedError
