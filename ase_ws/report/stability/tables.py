"""The tables of the stability report, as rows of text."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ase_ws.report.drawing.settings import SettingRow, flatten, setting_rows
from ase_ws.report.drawing.text import ABSENT, number, value
from ase_ws.report.drawing.verdicts import status_kind
from ase_ws.report.stability.entries import Entry
from ase_ws.report.stability.sentences import (
    counted,
    finding_text,
    interval_text,
    picoseconds,
    rate_text,
)
from ase_ws.results.check import CheckResult
from ase_ws.results.outcome import AtTemperature
from ase_ws.results.replica import ReplicaResult
from ase_ws.results.report import StabilityReport

MAX_REPLICAS = 40
"""Rows of the table of runs; the rest is in the JSON."""


@dataclass(frozen=True)
class RateCell:
    """The failure rate of one model at one temperature."""

    failed: str
    rate: str
    interval: str
    bar: tuple[float, float, float | None] | None
    """Left edge and width of the interval and place of the rate, in percent of the axis."""


@dataclass(frozen=True)
class ModelRow:
    """One model of the comparison."""

    entry: Entry
    cells: tuple[RateCell, ...]
    first: str
    speed: str


def model_rows(entries: Sequence[Entry], temperatures: Sequence[float]) -> list[ModelRow]:
    """Build the comparison: one row a model, one cell a temperature."""
    every = [entry.at(temperature) for entry in entries for temperature in temperatures]
    axis = _log_axis([edge for row in every if row for edge in _bar_edges(row)])
    rows = []
    for entry in entries:
        cells = tuple(_rate_cell(entry.at(temperature), axis) for temperature in temperatures)
        first = entry.first_failure
        told = ABSENT if first is None else f"{first.check or 'unnamed'}: {finding_text(first)}"
        rows.append(ModelRow(entry, cells, told, speed_text(entry.outcome.replicas)))
    return rows


def speed_text(replicas: Sequence[ReplicaResult]) -> str:
    """Give the median speed of the runs in ns/day."""
    speeds = sorted(run.ns_per_day for run in replicas if not math.isnan(run.ns_per_day))
    return number(speeds[len(speeds) // 2]) if speeds else ABSENT


def _rate_cell(row: AtTemperature | None, axis: tuple[float, float] | None) -> RateCell:
    if row is None:
        return RateCell("not simulated", "", "", None)
    return RateCell(
        counted(row.failed, row.replicas, row.total_ps),
        rate_text(row),
        interval_text(row),
        _bar(row, axis),
    )


def _bar_edges(row: AtTemperature) -> list[float]:
    """Give the positive edges of the interval: what the axis must have room for."""
    return [edge for edge in row.failure_rate_95_per_ps or () if edge > 0]


def _log_axis(edges: Sequence[float]) -> tuple[float, float] | None:
    """Give logarithms of an axis that goes a little beyond all edges."""
    if not edges:
        return None
    low, high = math.log10(min(edges)) - 0.6, math.log10(max(edges)) + 0.1
    return low, high


def _bar(
    row: AtTemperature, axis: tuple[float, float] | None
) -> tuple[float, float, float | None] | None:
    edges = _bar_edges(row)
    if axis is None or not edges:
        return None

    def place(rate: float) -> float:
        return round(100 * (math.log10(rate) - axis[0]) / (axis[1] - axis[0]), 1)

    # One edge only is an upper limit: from nothing, at the left end of the axis, up to there.
    low = 0.0 if len(edges) == 1 else place(edges[0])
    rate = row.failure_rate_per_ps
    dot = place(rate) if rate is not None and rate > 0 and row.failed else None
    return low, round(place(edges[-1]) - low, 1), dot


@dataclass(frozen=True)
class CheckCell:
    """How one check ended with one model."""

    worst: str
    bare: str
    """The worst value without its unit, for narrow columns."""
    status: str
    kind: str
    remark: str


@dataclass(frozen=True)
class CheckRow:
    """One check over all models; a model that did not run it has None."""

    name: str
    definition: str
    limit: str
    cells: tuple[CheckCell | None, ...]

    @property
    def kind(self) -> str:
        """The worst status, for the order of rows."""
        kinds = [cell.kind for cell in self.cells if cell is not None]
        return next((kind for kind in ("bad", "open", "good") if kind in kinds), "none")


def check_rows(
    runs: Sequence[StabilityReport],
    checks_of: Callable[[StabilityReport], Sequence[CheckResult]],
) -> list[CheckRow]:
    """Build a table of checks: what failed first, then in the order in which they appear."""
    tables = [{check.name: check for check in checks_of(run)} for run in runs]
    names = dict.fromkeys(name for table in tables for name in table)
    rows = []
    for name in names:
        found = [table.get(name) for table in tables]
        known = [check for check in found if check is not None]
        limits = dict.fromkeys(_limit(check) for check in known)
        rows.append(
            CheckRow(
                name or "unnamed",
                next((check.definition for check in known if check.definition), ""),
                " or ".join(limits),
                tuple(None if check is None else _check_cell(check) for check in found),
            )
        )
    order = ("bad", "open", "good", "none")
    return sorted(rows, key=lambda row: order.index(row.kind))


def _limit(check: CheckResult) -> str:
    limits = [("warn", check.warn_at), ("fail", check.fail_at)]
    told = [f"{word} {number(limit)}" for word, limit in limits if limit is not None]
    return f"{', '.join(told)} {check.unit}".strip() if told else ABSENT


def _check_cell(check: CheckResult) -> CheckCell:
    worst = "" if check.worst is None else f"{number(check.worst)} {check.unit}".strip()
    when = check.worst_time
    remark = [check.note] if check.note else []
    noteworthy = status_kind(check.status) in ("bad", "open")
    if noteworthy and when is not None and check.worst is not None:
        remark.append(f"worst at {picoseconds(when)}")
    return CheckCell(
        worst,
        "" if check.worst is None else number(check.worst),
        check.status or "no status",
        status_kind(check.status),
        "; ".join(remark),
    )


def first_failed(entry: Entry) -> list[ReplicaResult]:
    """Order the runs for their table, failed ones first, at most `MAX_REPLICAS`."""
    return sorted(entry.outcome.replicas, key=_fate)[:MAX_REPLICAS]


def _fate(run: ReplicaResult) -> tuple[bool, float]:
    return run.failure is None, run.time_to_failure_ps or 0.0


def fact_columns(run: StabilityReport) -> list[tuple[str, list[tuple[str, str]]]]:
    """Give settings and provenance of a single run as lists of (name, text) under headings."""
    rest = {name: item for name, item in run.provenance.items() if name != "versions"}
    columns = {
        "Settings": run.settings,
        "Calibrated on": run.calibration or {},
        "Origin": {name: item for name, item in rest.items() if name != "command"},
        "Versions": {"versions": run.provenance.get("versions") or {}},
    }
    found = {heading: _texts(table) for heading, table in columns.items()}
    return [(heading, list(texts.items())) for heading, texts in found.items() if texts]


def run_rows(runs: Sequence[StabilityReport]) -> list[SettingRow]:
    """Build the table of settings and provenance of several runs."""
    return setting_rows([_settings(run) for run in runs])


def _settings(run: StabilityReport) -> dict[str, str]:
    provenance = {name: item for name, item in run.provenance.items() if name != "command"}
    calibration = {"calibration": run.calibration} if run.calibration else {}
    return _texts({**run.settings, **calibration, **provenance})


_PLAIN = str.maketrans("._", "  ")


def _texts(table: Mapping[str, Any]) -> dict[str, str]:
    """Write a nested table; whole numbers in full, for a rounded seed repeats nothing."""
    return {
        name.replace("versions.", "").translate(_PLAIN): str(item)
        if type(item) is int
        else value(item)
        for name, item in flatten(table).items()
        if item != {}
    }
