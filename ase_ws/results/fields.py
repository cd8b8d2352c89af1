"""Types of fields that all results share: whatever may be absent, and what counts as absent."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict


def _nan_is_absent(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _not_finite_is_absent(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _only_finite(values: Any) -> Any:
    if isinstance(values, list):
        return [_not_finite_is_absent(value) for value in values]
    return [] if values is None else values


def none_is_empty_list(value: Any) -> Any:
    """Read null as a list with nothing in it."""
    return [] if value is None else value


def _none_is_empty_dict(value: Any) -> Any:
    return {} if value is None else value


def _to_text(value: Any) -> Any:
    if value is None:
        return ""
    return str(value) if isinstance(value, (int, float)) else value


Number = Annotated[float | None, BeforeValidator(_nan_is_absent)]
"""A number or nothing; NaN is nothing."""
Numbers = Annotated[list[Number], BeforeValidator(none_is_empty_list)]
Finite = Annotated[float | None, BeforeValidator(_not_finite_is_absent)]
"""A finite number or nothing."""
FiniteList = Annotated[list[float | None], BeforeValidator(_only_finite)]
"""Finite numbers, with nothing where one is missing; read quickly, for long traces."""
Index = Annotated[int | None, BeforeValidator(_not_finite_is_absent)]
IndexList = Annotated[list[Index], BeforeValidator(none_is_empty_list)]
Text = Annotated[str, BeforeValidator(_to_text)]
Table = Annotated[dict[str, Any], BeforeValidator(_none_is_empty_dict)]


class Part(BaseModel):
    """A part of the results: unknown keys are let pass, so that a room may say more."""

    model_config = ConfigDict(extra="ignore", frozen=True)
