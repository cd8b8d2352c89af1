"""Lines of a figure: from lists with holes to arrays, and how a bundle of them is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from ase_ws.report.drawing.looks import Look
from ase_ws.report.drawing.svg import INK

_MANY_POINTS = 20_000
"""From here on lines are drawn as pixels, which keeps the page small."""


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


def draw_traces(
    axes: Axes,
    lines: Sequence[Line],
    failures: Sequence[Failure],
    *,
    thin: tuple[float, float] = (0.6, 0.4),
) -> None:
    """Draw lines over time, as pixels where they have very many points, and the failures.

    `thin` is the width and the opacity of secondary lines.
    """
    many = sum(len(line.x) for line in lines) > _MANY_POINTS
    for line in lines:
        axes.plot(
            line.x,
            line.y,
            color=line.look.colour,
            linestyle="-" if line.secondary else line.look.linestyle,
            linewidth=thin[0] if line.secondary else 1.3,
            alpha=thin[1] if line.secondary else 0.9,
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
