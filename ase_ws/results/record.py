"""What all results have in common: plain data, described field by field, written and read as JSON.

Every field may be absent or null where a file is of an older version, or of half a run; what is
not finite is null in a file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter
from typing_extensions import Self

#: Unknown keys are let pass: a newer version may say more.
CONFIG = ConfigDict(extra="ignore")


class Record:
    """Base of the dataclasses of this room."""

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary that JSON can hold: non-finite numbers become None."""
        return only_finite(_adapter(type(self)).dump_python(self, by_alias=True))

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote, here or in an earlier version."""
        return _adapter(cls).validate_python(record)

    @classmethod
    def schema(cls) -> dict[str, Any]:
        """JSON schema of the file, computed fields included."""
        return only_finite(_adapter(cls).json_schema(mode="serialization"))


@cache
def _adapter(cls: type) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


def finite_or_none(value: float | None) -> float | None:
    """Give the number as a float, or None where it is absent, NaN or infinite."""
    return float(value) if value is not None and math.isfinite(value) else None


def only_finite(record: Mapping[str, Any]) -> dict[str, Any]:
    """Give plain data in which what is not finite is None, and mappings are dictionaries."""
    text = json.dumps(record, default=_plain)
    return json.loads(text, parse_constant=lambda _: None)


def _plain(value: Any) -> Any:
    """Give numbers and arrays of NumPy as plain ones, and mappings as dictionaries."""
    return value.tolist() if hasattr(value, "tolist") else dict(value)


def _none_is(empty: type) -> BeforeValidator:
    return BeforeValidator(lambda value: empty() if value is None else value)


def _to_text(value: Any) -> Any:
    if value is None:
        return ""
    return str(value) if isinstance(value, (int, float)) else value


#: A number that code reckons with: unknown is NaN in memory and null in a file.
Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
Text = Annotated[str, BeforeValidator(_to_text)]
Numbers = Annotated[Sequence[float | None], _none_is(list)]
Indices = Annotated[
    tuple[int, ...],
    BeforeValidator(lambda value: tuple(item for item in value or () if item is not None)),
]
Table = Annotated[dict[str, Any], _none_is(dict)]
_T = TypeVar("_T")
Listed = Annotated[list[_T], _none_is(list)]
Index = Annotated[int, _none_is(int)]
Counts = Annotated[dict[str, dict[str, int]], _none_is(dict)]


def about(description: str, default: Any = None, **more: Any) -> Any:
    """Describe a field, for the schema; what is absent in a file is `default`, or made by it."""
    made: dict[str, Any] = {"default": default}
    if isinstance(default, type):
        made = {"default_factory": default}
    return Field(**made, description=description, json_schema_extra=more or None)
