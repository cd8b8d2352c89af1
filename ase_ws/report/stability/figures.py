"""Which figures the stability report shows, with their alternative texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ase_ws.report.drawing.lines import Failure, Line, finite_line
from ase_ws.report.drawing.looks import Look
from ase_ws.report.drawing.panels import Drawer, Panel
from ase_ws.report.drawing.text import joined, kelvin, number
from ase_ws.report.stability import plots
from ase_ws.report.stability.entries import Entry
from ase_ws.report.stability.sentences import counted
from ase_ws.results.check import Curve
from ase_ws.results.pictures import BondLengths
from ase_ws.results.rates import Survival
from ase_ws.results.replica import ReplicaResult

MAX_LINES = 12
"""More runs of one model than this are drawn as a band."""
MAX_MODELS = 3
"""More models than this are drawn as bands, however few runs each has."""
MAX_PANELS = 12
"""Small multiples in one row of figures; the rest is in the JSON."""
_SINGLE_FAILURES = 4
"""Of a model that is drawn as a band so many failed runs are lines of their own."""
_MAX_MARKS = 12
"""Of so many failures a model the times are marked in a panel."""


@dataclass(frozen=True)
class TraceRow:
    """The panels over time at one temperature."""

    temperature: str
    panels: tuple[Panel, ...]
    entries: tuple[Entry, ...]
    banded: bool
    any_failure: bool


@dataclass(frozen=True)
class ScanPanel:
    """A curve of a static check; its axes are named in HTML, for they are the user's words."""

    panel: Panel
    axes: str
    wrong: str


@dataclass(frozen=True)
class ScanRow:
    """The curves of one static check."""

    check: str
    panels: tuple[ScanPanel, ...]
    more: int


def survival_panels(
    entries: Sequence[Entry], temperatures: Sequence[float], drawer: Drawer
) -> list[Panel]:
    """Draw the survival curves of all models, one panel a temperature."""
    panels = []
    for temperature in temperatures:
        curves, told = [], []
        for entry in entries:
            row = entry.at(temperature)
            curve = _steps(row.survival, entry.look) if row and row.survival else None
            if row is not None and curve is not None:
                curves.append(curve)
                words = counted(row.failed, row.replicas, row.total_ps)
                told.append(f"{entry.name}: {words}, {100 * curve.fraction[-1]:.0f} % at the end")
        if curves:
            where = kelvin(temperature)
            alt = f"Fraction of runs without a failure at {where} against time. {'; '.join(told)}."
            panels.append(drawer.panel(where, plots.survival(curves), alt))
    return panels


def _steps(survival: Survival, look: Look) -> plots.Steps | None:
    line = finite_line(survival.time_ps, survival.fraction, look)
    if not len(line.x):
        return None
    low = finite_line(survival.time_ps, survival.low, look)
    high = finite_line(survival.time_ps, survival.high, look)
    whole = len(low.y) == len(high.y) == len(line.y)
    empty = np.empty(0)
    return plots.Steps(line.x, line.y, low.y if whole else empty, high.y if whole else empty, look)


def trace_rows(
    entries: Sequence[Entry], temperatures: Sequence[float], drawer: Drawer
) -> list[TraceRow]:
    """Draw drift, temperature and potential energy of all models, one row a temperature."""
    rows = [_trace_row(entries, temperature, drawer) for temperature in temperatures]
    return [row for row in rows if row.panels]


def _trace_row(entries: Sequence[Entry], temperature: float, drawer: Drawer) -> TraceRow:
    traced = [
        entry for entry in entries if any(run.traces for run in entry.replicas_at(temperature))
    ]
    where = f"at {kelvin(temperature)}"
    panels, banded, failed = [], False, False
    for name, title in (
        ("conserved_ev_per_atom", "Drift of the conserved energy"),
        ("temperature_k", "Temperature"),
        ("potential_ev_per_atom", "Potential energy"),
    ):
        bundle, told = _bundle(traced, temperature, name)
        if not told:
            continue
        banded, failed = banded or bool(bundle.bands), failed or bool(bundle.failures)
        if name == "temperature_k":
            figure = plots.temperature_trace(bundle, temperature)
        else:
            figure = plots.energy_trace(bundle, "change since the start (meV/atom)")
        alt = f"{title} {where} against time. {'; '.join(told)}."
        panels.append(drawer.panel(title, figure, alt))
    return TraceRow(kelvin(temperature), tuple(panels), tuple(traced), banded, failed)


def _bundle(
    entries: Sequence[Entry], temperature: float, name: str
) -> tuple[plots.Bundle, list[str]]:
    """Give what one panel shows, and the range of each model in words."""
    lines: list[Line] = []
    bands: list[plots.Band] = []
    failures: list[Failure] = []
    told: list[str] = []
    for entry in entries:
        runs = entry.replicas_at(temperature)
        drawn = [(run, _trace(run, name, entry.look)) for run in runs]
        drawn = [(run, line) for run, line in drawn if len(line.x)]
        if not drawn:
            continue
        values = np.concatenate([line.y for _, line in drawn])
        unit = "K" if name == "temperature_k" else "meV/atom"
        told.append(f"{entry.name}: {number(values.min())} to {number(values.max())} {unit}")
        ended = _failed(drawn)
        failures += [Failure(time, entry.look) for time, _ in ended[:_MAX_MARKS]]
        if len(drawn) > MAX_LINES or len(entries) > MAX_MODELS:
            bands.append(plots.band_of([line for _, line in drawn]))
            lines += [line for _, line in ended[:_SINGLE_FAILURES]]
        else:
            lines += [line for _, line in drawn]
    thin = len(lines) > 1
    lines = [Line(line.x, line.y, line.look, thin) for line in lines]
    return plots.Bundle(lines, bands, failures), told


def _failed(drawn: Sequence[tuple[ReplicaResult, Line]]) -> list[tuple[float, Line]]:
    """Give the runs that failed with the times at which they did, the earliest first."""
    found = [
        (run.time_to_failure_ps, line) for run, line in drawn if run.time_to_failure_ps is not None
    ]
    return sorted(found, key=lambda item: item[0])


def _trace(run: ReplicaResult, name: str, look: Look) -> Line:
    """Give one quantity of one run: ps, and K or the change since the start in meV/atom."""
    if run.traces is None:
        return finite_line((), (), look)
    line = finite_line(run.traces.time_fs, getattr(run.traces, name), look)
    y = line.y
    if name != "temperature_k" and len(y):
        y = 1000 * (y - y[0])
    return Line(line.x / 1000, y, look)


def bond_panels(entries: Sequence[Entry], drawer: Drawer) -> tuple[list[Panel], int]:
    """Draw the bond lengths of all models, one panel a pair; also say how many are left out."""
    by_pair: dict[str, list[tuple[Entry, BondLengths]]] = {}
    for entry in entries:
        for item in entry.run.bond_lengths if entry.run is not None else ():
            by_pair.setdefault(item.pair or "unnamed pair", []).append((entry, item))
    drawn = [_bond_panel(pair, found, drawer) for pair, found in list(by_pair.items())[:MAX_PANELS]]
    return [panel for panel in drawn if panel is not None], max(0, len(by_pair) - MAX_PANELS)


def _bond_panel(
    pair: str, found: Sequence[tuple[Entry, BondLengths]], drawer: Drawer
) -> Panel | None:
    histograms: list[plots.Histogram] = []
    told: list[str] = []
    for entry, item in found:
        training = _histogram(item.edges, item.training, None)
        if training is not None and not any(known.look is None for known in histograms):
            histograms.insert(0, training)
            told.insert(0, f"training data: mean {_mean(training)} Å")
        md = _histogram(item.edges, item.md, entry.look)
        if md is not None:
            histograms.append(md)
            told.append(f"{entry.name}: mean {_mean(md)} Å")
    if not histograms:
        return None
    alt = f"Distribution of {pair} distances. {'; '.join(told)}."
    return drawer.panel(pair, plots.distribution(histograms), alt)


def _histogram(
    edges: Sequence[float | None], density: Sequence[float | None], look: Look | None
) -> plots.Histogram | None:
    """Give a histogram; None where it has holes or its lengths do not fit."""
    ends = [edge for edge in edges if edge is not None]
    heights = [height for height in density if height is not None]
    if not heights or len(heights) != len(density) or len(ends) != len(heights) + 1:
        return None
    return plots.Histogram(np.array(ends), np.array(heights), look)


def _mean(histogram: plots.Histogram) -> str:
    middles = (histogram.edges[1:] + histogram.edges[:-1]) / 2
    weights = histogram.density * np.diff(histogram.edges)
    return number(float(np.average(middles, weights=weights))) if weights.sum() > 0 else "unknown"


def scan_rows(entries: Sequence[Entry], drawer: Drawer) -> list[ScanRow]:
    """Draw the curves of all static checks; curves of the same name share a panel."""
    tables: dict[str, dict[str, list[tuple[Entry, Curve]]]] = {}
    for entry in entries:
        for check in entry.run.static if entry.run is not None else ():
            for curve in check.curves:
                titles = tables.setdefault(check.name or "unnamed", {})
                titles.setdefault(curve.title or "unnamed curve", []).append((entry, curve))
    rows = []
    for check, titles in tables.items():
        # What is wrong must not be among what is left out.
        ordered = sorted(titles.items(), key=lambda item: not any(c.marks for _, c in item[1]))
        drawn = [_scan_panel(title, found, drawer) for title, found in ordered[:MAX_PANELS]]
        panels = tuple(panel for panel in drawn if panel is not None)
        if panels:
            rows.append(ScanRow(check, panels, max(0, len(titles) - MAX_PANELS)))
    return rows


def _scan_panel(
    title: str, found: Sequence[tuple[Entry, Curve]], drawer: Drawer
) -> ScanPanel | None:
    lines, marks, told = [], [], []
    for entry, curve in found:
        line = finite_line(curve.x, curve.y, entry.look)
        if not len(line.x):
            continue
        places = [place for place in curve.marks if place is not None]
        lines.append(line)
        marks.append(places)
        wrong = f", wrong at {joined([number(place) for place in places])}" if places else ""
        told.append(f"{entry.name}: {number(line.y.min())} to {number(line.y.max())}{wrong}")
    if not lines:
        return None
    first = found[0][1]
    axes = f"{first.ylabel or 'value'} against {first.xlabel or 'the coordinate'}"
    alt = f"{title}: {axes}. {'; '.join(told)}."
    n_wrong = len({round(place, 6) for places in marks for place in places})
    wrong = f"{n_wrong} {'place' if n_wrong == 1 else 'places'} marked" if n_wrong else ""
    return ScanPanel(drawer.panel(title, plots.scan(lines, marks), alt), axes, wrong)
