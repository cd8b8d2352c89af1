"""Tables of settings, as rows of text: what differs between the columns comes first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ase_ws.report.drawing.text import ABSENT, value


@dataclass(frozen=True)
class SettingRow:
    """One setting over all columns."""

    name: str
    values: tuple[str, ...]
    differs: bool


def setting_rows(columns: Sequence[Mapping[str, str]]) -> list[SettingRow]:
    """Build a table of one column a mapping; rows that differ come first."""
    rows = []
    for name in dict.fromkeys(name for column in columns for name in column):
        values = tuple(column.get(name, ABSENT) for column in columns)
        rows.append(SettingRow(name, values, len(set(values)) > 1))
    return sorted(rows, key=lambda row: not row.differs)


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested tables into one with dotted names."""
    flat: dict[str, Any] = {}
    for key, item in table.items():
        if isinstance(item, Mapping) and item:
            flat |= flatten(item, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = item
    return flat


def pairs(table: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Give a table as (name, text) for a definition list."""
    return [(name.replace("_", " "), value(item)) for name, item in flatten(table).items()]
