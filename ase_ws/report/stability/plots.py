"""The figures of the stability report: plain arrays in, a Matplotlib `Figure` out.

As in `ase_ws.report.demo.plots`, no text of the user enters a figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ase_ws.report.drawing.axes import (
    CURVE,
    log_where_needed,
    panel,
    symmetric_log_where_needed,
)
from ase_ws.report.drawing.lines import Failure, Line, draw_traces
from ase_ws.report.drawing.looks import Look
from ase_ws.report.drawing.svg import INK, SOFT_INK

SMALL = (2.8, 1.95)
"""Width and height in inches of a panel of small multiples."""
WRONG = "#d5322a"
"""Colour of what is wrong: a contrast of at least 3:1 on white and on near-black alike."""

_MANY_BANDS = 4
"""More confidence bands than this on each other are a haze."""


@dataclass(frozen=True)
class Steps:
    """A survival curve: `fraction[i]` from `time[i]` on; the band may be absent (empty)."""

    time: np.ndarray
    fraction: np.ndarray
    low: np.ndarray
    high: np.ndarray
    look: Look


@dataclass(frozen=True)
class Band:
    """Many lines in one: their median, and where 90 % of them are, at common times."""

    x: np.ndarray
    low: np.ndarray
    middle: np.ndarray
    high: np.ndarray
    look: Look


@dataclass(frozen=True)
class Bundle:
    """What one panel over time shows: single replicas, bands of many, and when some failed."""

    lines: Sequence[Line]
    bands: Sequence[Band]
    failures: Sequence[Failure]


@dataclass(frozen=True)
class Histogram:
    """A distribution over bins: `edges` has one value more than `density`."""

    edges: np.ndarray
    density: np.ndarray
    look: Look | None
    """None: the training data, drawn in the ink of the page."""


def band_of(lines: Sequence[Line], points: int = 200) -> Band:
    """Summarise many lines as median and 5 to 95 % range of those that still go on.

    Parameters
    ----------
    lines : sequence of Line
        With x rising; at least one of them not empty, all of one look.
    points : int
        Length of the common grid.
    """
    lines = [line for line in lines if len(line.x)]
    grid = np.linspace(0.0, max(float(line.x[-1]) for line in lines), points)
    rows = [np.interp(grid, line.x, line.y, left=np.nan, right=np.nan) for line in lines]
    table = np.array(rows)
    grid, table = (part[..., np.isfinite(table).any(axis=0)] for part in (grid, table))
    low, middle, high = np.nanpercentile(table, (5, 50, 95), axis=0)
    return Band(grid, low, middle, high, lines[0].look)


def survival(curves: Sequence[Steps]) -> Figure:
    """Draw the fraction of runs without a failure against time, with confidence bands.

    Parameters
    ----------
    curves : sequence of Steps
        The bands are left out where there are so many that none could be told from the others.
    """
    figure, axes = panel(CURVE)
    for curve in curves:
        colour = curve.look.colour
        if len(curve.low) and len(curves) <= _MANY_BANDS:
            axes.fill_between(
                curve.time,
                curve.low,
                curve.high,
                step="post",
                color=colour,
                alpha=0.14,
                linewidth=0,
            )
        axes.plot(
            curve.time,
            curve.fraction,
            drawstyle="steps-post",
            color=colour,
            linestyle=curve.look.linestyle,
            linewidth=2.0,
            clip_on=False,
        )
    axes.set(ylim=(0, 1.04))
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlim(left=0)
    axes.set_xlabel("time (ps)")
    axes.set_ylabel("runs without a failure")
    return figure


def energy_trace(bundle: Bundle, ylabel: str) -> Figure:
    """Draw the change of an energy since the start of each run against time."""
    figure, axes = panel(CURVE)
    axes.axhline(0.0, color=SOFT_INK, linewidth=0.8)
    _bundle(axes, bundle)
    axes.set_ylabel(ylabel + symmetric_log_where_needed(axes, _drawn(bundle), linear=3.0))
    return figure


def temperature_trace(bundle: Bundle, target: float | None) -> Figure:
    """Draw the kinetic temperature of each run against time, with the set temperature."""
    figure, axes = panel(CURVE)
    if target is not None:
        axes.axhline(target, color=INK, linewidth=1.1, linestyle=(0, (2, 2)), zorder=3)
    _bundle(axes, bundle)
    axes.set_ylabel(f"temperature (K){log_where_needed(axes, _drawn(bundle), target)}")
    return figure


def distribution(histograms: Sequence[Histogram]) -> Figure:
    """Draw distributions of a distance: MD in colour on the training data in the page's ink."""
    figure, axes = panel(SMALL)
    for item in histograms:
        colour = SOFT_INK if item.look is None else item.look.colour
        if item.look is None or len(histograms) <= 3:
            alpha = 0.25 if item.look is None else 0.18
            axes.stairs(item.density, item.edges, fill=True, color=colour, alpha=alpha)
        dashes = (0, (2, 1.2)) if item.look is None else item.look.linestyle
        axes.stairs(item.density, item.edges, color=colour, linestyle=dashes, linewidth=1.5)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("distance (Å)")
    axes.set_ylabel("density (1/Å)")
    return figure


def scan(lines: Sequence[Line], marks: Sequence[Sequence[float]]) -> Figure:
    """Draw curves of a static check, and mark where something is wrong.

    Parameters
    ----------
    lines : sequence of Line
        One for each model.
    marks : sequence of sequence of float
        For each line the x at which something is wrong.
    """
    figure, axes = panel(SMALL)
    for line in lines:
        few = len(line.x) <= 25
        axes.plot(
            line.x,
            line.y,
            color=line.look.colour,
            linestyle=line.look.linestyle,
            linewidth=1.6,
            marker=line.look.marker if few else None,
            markersize=3.5,
        )
    scale = symmetric_log_where_needed(axes, lines)
    for line, places in zip(lines, marks, strict=True):
        for place in places:
            axes.axvline(place, color=WRONG, linewidth=1.0, alpha=0.45, zorder=1)
        heights = np.interp(places, line.x, line.y)
        axes.plot(
            places,
            heights,
            color=WRONG,
            marker="X",
            markersize=8,
            markeredgecolor=INK,
            markeredgewidth=0.6,
            linestyle="none",
            clip_on=False,
            zorder=4,
        )
    axes.yaxis.set_major_locator(axes.yaxis.get_major_locator() if scale else MaxNLocator(5))
    if scale:
        axes.set_ylabel(scale.strip())
    return figure


def _bundle(axes: Axes, bundle: Bundle) -> None:
    draw_traces(axes, bundle.lines, bundle.failures, thin=(0.9, 0.65))
    for band in bundle.bands:
        colour = band.look.colour
        if len(bundle.bands) <= _MANY_BANDS:
            axes.fill_between(
                band.x, band.low, band.high, color=colour, alpha=0.2, linewidth=0, zorder=1
            )
        axes.plot(band.x, band.middle, color=colour, linestyle=band.look.linestyle, linewidth=1.5)
    axes.set_xlim(left=0)


def _drawn(bundle: Bundle) -> list[Line]:
    """Give everything that the axis must have room for, as lines."""
    edges = [Line(band.x, y, band.look) for band in bundle.bands for y in (band.low, band.high)]
    return [*bundle.lines, *edges]
