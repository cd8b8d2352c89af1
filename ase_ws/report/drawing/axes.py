"""A panel in the style of the page, and scales that fit what is drawn."""

from __future__ import annotations

from collections.abc import Sequence

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

from ase_ws.report.drawing.lines import Line
from ase_ws.report.drawing.svg import GRID, INK, SOFT_INK
from ase_ws.report.drawing.text import number

CURVE = (3.9, 2.7)
"""Width and height in inches of a panel over steps, three of them in a row."""
SQUARE = (3.7, 3.6)
"""Width and height in inches of a parity panel."""
LABEL_SIZE = 9.5
"""Of axis labels and notes, in points."""
TICK_SIZE = 8.5


def panel(size: tuple[float, float]) -> tuple[Figure, Axes]:
    """Make a figure of one panel of this size in inches, in the ink of the page."""
    figure = Figure(figsize=size, layout="constrained", facecolor="none")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    dress(axes)
    return figure, axes


def dress(axes: Axes) -> None:
    """Give axes the ink of the page."""
    axes.set_facecolor("none")
    axes.grid(axis="y", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(SOFT_INK)
    axes.spines[["left", "bottom"]].set_linewidth(0.8)
    axes.tick_params(
        which="both", color=SOFT_INK, labelcolor=SOFT_INK, labelsize=TICK_SIZE, width=0.8
    )
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(INK)
        label.set_fontsize(LABEL_SIZE)


def log_scale(axes: Axes, shown: np.ndarray) -> None:
    """Make the y axis logarithmic, with plain numbers at its ticks."""
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


def _all_values(lines: Sequence[Line]) -> np.ndarray:
    return np.concatenate([line.y for line in lines]) if lines else np.empty(0)


def symmetric_log_where_needed(axes: Axes, lines: Sequence[Line], *, linear: float = 1.0) -> str:
    """Change to a scale on which a run that blew up does not flatten all others.

    The scale is linear up to the power of ten next above `linear` times the median size.
    """
    size = np.abs(_all_values(lines))
    typical = float(np.median(size)) if len(size) else 0.0
    if not len(size) or size.max() <= 50 * max(typical, 0.1):
        return ""
    # At other places than a power of ten the ticks around zero would collide.
    threshold = 10.0 ** np.ceil(np.log10(max(1.0, linear * typical)))
    axes.set_yscale("symlog", linthresh=threshold)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: number(y, 2)))
    axes.yaxis.set_minor_locator(NullLocator())
    return "\nsymmetric log scale"


def log_where_needed(axes: Axes, lines: Sequence[Line], target: float | None) -> str:
    """Change to a logarithmic scale where a run far above `target` would flatten all others."""
    values = _all_values(lines)
    values = values[values > 0]
    if not len(values) or values.max() <= 8 * (target or float(np.median(values))):
        return ""
    log_scale(axes, values)
    return ", log scale"
