"""One function a figure: plain arrays in, a Matplotlib `Figure` out.

No text of the user enters a figure (legends are HTML), so no name can be taken for mathematics or
lack a glyph. Nothing here touches `pyplot` or the global settings of Matplotlib.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import (
    AutoLocator,
    FuncFormatter,
    Locator,
    LogLocator,
    NullFormatter,
    NullLocator,
)

from ase_ws.report.looks import Look
from ase_ws.report.svg import GRID, INK, SOFT_INK
from ase_ws.report.text import number

CURVE = (3.9, 2.7)
"""Width and height in inches of a panel over steps."""
TRACE = (4.7, 3.0)
"""Width and height in inches of a panel over time."""
SQUARE = (3.7, 3.6)
"""Width and height in inches of a parity panel."""

_MEAN_PS = 0.1
"""Window of the running mean of the temperature: several vibrations of light atoms."""
_MANY_POINTS = 20_000
"""From here on lines are drawn as pixels, which keeps the page small."""
_LABEL_SIZE = 9.5
_TICK_SIZE = 8.5


@dataclass(frozen=True)
class Line:
    """One curve. Points that are not finite are left out."""

    x: np.ndarray
    y: np.ndarray
    look: Look
    secondary: bool = False
    """Drawn thin and faint: a training loss beside the validation loss, one replica of many."""


@dataclass(frozen=True)
class Failure:
    """A mark at the time at which a run failed."""

    time: float
    look: Look


def finite_line(
    x: Iterable[float | None],
    y: Iterable[float | None],
    look: Look,
    *,
    secondary: bool = False,
) -> Line:
    """Make a line of lists that may hold None, NaN or differ in length."""
    pairs = zip(x, y, strict=False)
    points = np.array([(a, b) for a, b in pairs if a is not None and b is not None], dtype=float)
    points = points.reshape(-1, 2)
    points = points[np.isfinite(points).all(axis=1)]
    return Line(points[:, 0], points[:, 1], look, secondary)


def running_mean(line: Line, width: float) -> Line:
    """Average a line over windows of `width` in x, centred and cut off at the ends.

    Evenly spaced points are taken for granted.
    """
    if len(line.x) < 3:
        return line
    half = int(width / 2 * (len(line.x) - 1) / max(float(np.ptp(line.x)), 1e-12))
    half = min(half, len(line.x) - 1)
    sums = np.concatenate([[0.0], np.cumsum(line.y)])
    at = np.arange(len(line.x))
    first, last = np.maximum(at - half, 0), np.minimum(at + half + 1, len(line.x))
    return replace(line, y=(sums[last] - sums[first]) / (last - first))


def learning_curve(lines: Sequence[Line], ylabel: str) -> Figure:
    """Draw an error or a loss against the training step, on a logarithmic scale.

    Parameters
    ----------
    lines : sequence of Line
        Values of zero or below have no place on this scale and are left out.
    ylabel : str
        What is drawn, with its unit.

    Returns
    -------
    Figure
    """
    figure, axes = _panel(CURVE)
    shown = []
    for line in lines:
        keep = line.y > 0
        shown.append(line.y[keep])
        axes.plot(
            line.x[keep],
            line.y[keep],
            color=line.look.colour,
            linestyle=(0, (1, 1.5)) if line.secondary else line.look.linestyle,
            linewidth=1.1 if line.secondary else 1.8,
            alpha=0.75 if line.secondary else 1.0,
            marker=None if line.secondary else line.look.marker,
            markersize=4,
            markevery=_mark_every(len(line.y[keep])),
        )
    _log_scale(axes, np.concatenate(shown) if shown else np.empty(0))
    axes.set_xlabel("training step")
    axes.set_ylabel(ylabel)
    return figure


def parity(
    reference: np.ndarray,
    predicted: np.ndarray,
    look: Look,
    *,
    limits: tuple[float, float],
    quantity: str,
    note: str,
) -> Figure:
    """Draw predicted against reference values as a cloud of points on equal axes.

    Parameters
    ----------
    reference, predicted : array, shape (n,)
        Finite values in the unit that `quantity` names.
    look : Look
        Colour and marker.
    limits : (float, float)
        Of both axes: the same for all models, so that the clouds can be compared.
    quantity : str
        Ends both axis labels, for example ``"force component (eV/Å)"``.
    note : str
        Written into the corner: the error of these points.

    Returns
    -------
    Figure
    """
    figure, axes = _panel(SQUARE)
    axes.plot(limits, limits, color=SOFT_INK, linewidth=0.9, zorder=1)
    axes.scatter(
        reference,
        predicted,
        s=16 if len(reference) <= 200 else 9,
        color=look.colour,
        alpha=0.75 if len(reference) <= 200 else 0.4,
        linewidths=0,
        marker=look.marker,
        rasterized=True,
        zorder=2,
    )
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.set_xlabel(f"reference {quantity}")
    axes.set_ylabel(f"predicted {quantity}")
    # One locator for both axes, so that the grid is square.
    axes.set_yticks(axes.get_xticks())
    axes.set(xlim=limits, ylim=limits)
    axes.grid(axis="x", color=GRID, linewidth=0.7)
    outside = int(np.sum((predicted < limits[0]) | (predicted > limits[1])))
    if outside:
        note = f"{note}\n{outside} of {len(reference)} points outside"
    axes.text(0.04, 0.96, note, transform=axes.transAxes, va="top", fontsize=_LABEL_SIZE, color=INK)
    return figure


def parity_limits(reference: np.ndarray, predictions: Sequence[np.ndarray]) -> tuple[float, float]:
    """Give common axis limits for several models.

    All points are inside, unless a model is so far off that the others would shrink to a dot:
    no side goes further than the range of the reference beyond it.
    """
    if not len(reference):
        return (-1.0, 1.0)
    low, high = float(reference.min()), float(reference.max())
    span = (high - low) or 1.0
    every = np.concatenate([reference, *predictions])
    low, high = max(float(every.min()), low - span), min(float(every.max()), high + span)
    margin = 0.06 * span
    return (low - margin, high + margin)


def energy_drift(lines: Sequence[Line], failures: Sequence[Failure]) -> Figure:
    """Draw the change of the conserved energy of every replica against time."""
    figure, axes = _panel(TRACE)
    axes.axhline(0.0, color=SOFT_INK, linewidth=0.8)
    _traces(axes, lines, failures)
    scale = _symmetric_log_where_needed(axes, lines)
    axes.set_ylabel(f"energy drift (meV/atom){scale}")
    return figure


def temperature(lines: Sequence[Line], failures: Sequence[Failure], target: float | None) -> Figure:
    """Draw the temperature of every replica against time, with the set temperature."""
    figure, axes = _panel(TRACE)
    if target is not None:
        axes.axhline(target, color=INK, linewidth=1.1, linestyle=(0, (2, 2)), zorder=3)
    _traces(axes, [replace(line, secondary=True) for line in lines], [])
    _traces(axes, [running_mean(line, _MEAN_PS) for line in lines], failures)
    scale = _log_where_needed(axes, lines, target)
    axes.set_ylabel(f"temperature (K){scale}")
    return figure


def _panel(size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained", facecolor="none")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    axes.set_facecolor("none")
    axes.grid(axis="y", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(SOFT_INK)
    axes.spines[["left", "bottom"]].set_linewidth(0.8)
    axes.tick_params(
        which="both", color=SOFT_INK, labelcolor=SOFT_INK, labelsize=_TICK_SIZE, width=0.8
    )
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(INK)
        label.set_fontsize(_LABEL_SIZE)
    return figure, axes


def _mark_every(n: int) -> int:
    """About a dozen markers a line, however many points it has."""
    return max(1, n // 12)


def _log_scale(axes: Axes, shown: np.ndarray) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(_log_locator(shown))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: number(y, 3)))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _log_locator(shown: np.ndarray) -> Locator:
    """Give ticks at 1, 2 and 5, except where that would be too few or too many."""
    ratio = float(shown.max() / shown.min()) if len(shown) else 1.0
    if ratio < 4:
        return AutoLocator()
    return LogLocator(subs=(1.0, 2.0, 5.0) if ratio < 300 else (1.0,))


def _traces(axes: Axes, lines: Sequence[Line], failures: Sequence[Failure]) -> None:
    many = sum(len(line.x) for line in lines) > _MANY_POINTS
    for line in lines:
        axes.plot(
            line.x,
            line.y,
            color=line.look.colour,
            linestyle="-" if line.secondary else line.look.linestyle,
            linewidth=0.6 if line.secondary else 1.3,
            alpha=0.4 if line.secondary else 0.9,
            rasterized=many,
        )
    for failure in failures:
        axes.plot(
            [failure.time],
            [0.96],
            transform=axes.get_xaxis_transform(),
            color=failure.look.colour,
            marker="X",
            markersize=8,
            markeredgecolor=INK,
            markeredgewidth=0.7,
            linestyle="none",
            clip_on=False,
            zorder=4,
        )
    axes.set_xlabel("time (ps)")
    axes.margins(x=0.02)


def _all_values(lines: Sequence[Line]) -> np.ndarray:
    return np.concatenate([line.y for line in lines]) if lines else np.empty(0)


def _symmetric_log_where_needed(axes: Axes, lines: Sequence[Line]) -> str:
    """Change to a scale on which a run that blew up does not flatten all others."""
    size = np.abs(_all_values(lines))
    typical = float(np.median(size)) if len(size) else 0.0
    if not len(size) or size.max() <= 50 * max(typical, 0.1):
        return ""
    axes.set_yscale("symlog", linthresh=max(1.0, typical))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: number(y, 2)))
    axes.yaxis.set_minor_locator(NullLocator())
    return "\nsymmetric log scale"


def _log_where_needed(axes: Axes, lines: Sequence[Line], target: float | None) -> str:
    values = _all_values(lines)
    values = values[values > 0]
    if not len(values) or values.max() <= 8 * (target or float(np.median(values))):
        return ""
    _log_scale(axes, values)
    return ", log scale"
