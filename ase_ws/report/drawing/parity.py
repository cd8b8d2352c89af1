"""Predicted against reference values, as clouds of points on equal axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import MaxNLocator

from ase_ws.report.drawing.axes import LABEL_SIZE
from ase_ws.report.drawing.looks import Look
from ase_ws.report.drawing.svg import GRID, INK, SOFT_INK

#: A single cloud of more points is drawn as their density, several as smaller points.
MANY_POINTS = 5000


@dataclass(frozen=True)
class Cloud:
    """Points of one look: finite values, shape (n,), in the unit of the axes."""

    reference: np.ndarray
    predicted: np.ndarray
    look: Look


def draw_parity(
    axes: Axes,
    clouds: Sequence[Cloud],
    *,
    limits: tuple[float, float],
    quantity: str,
    note: str = "",
) -> None:
    """Draw predicted against reference values.

    Parameters
    ----------
    axes : Axes
    clouds : sequence of Cloud
    limits : (float, float)
        Of both axes.
    quantity : str
        Ends both axis labels, for example ``"force component (eV/Å)"``.
    note : str
        Written into the corner, such as the error of these points.
    """
    axes.plot(limits, limits, color=SOFT_INK, linewidth=0.9, zorder=1)
    n_points = sum(len(cloud.reference) for cloud in clouds)
    for cloud in clouds:
        if len(clouds) == 1 and n_points > MANY_POINTS:
            _draw_density(axes, cloud, limits)
        else:
            _draw_points(axes, cloud, n_points)
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.set_xlabel(f"reference {quantity}")
    axes.set_ylabel(f"predicted {quantity}")
    # The same for both axes, so that the grid is square, and no more than have room below it.
    ticks = MaxNLocator(5).tick_values(*limits)
    axes.set(xticks=ticks, yticks=ticks, xlim=limits, ylim=limits)
    axes.grid(axis="x", color=GRID, linewidth=0.7)
    predicted = np.concatenate([cloud.predicted for cloud in clouds])
    outside = int(np.sum((predicted < limits[0]) | (predicted > limits[1])))
    if outside:
        note = f"{note}\n{outside} of {n_points} points outside".lstrip()
    axes.text(0.04, 0.96, note, transform=axes.transAxes, va="top", fontsize=LABEL_SIZE, color=INK)


def _draw_points(axes: Axes, cloud: Cloud, n_points: int) -> None:
    size, alpha = (
        (16, 0.75) if n_points <= 200 else (9, 0.4) if n_points <= MANY_POINTS else (3, 0.3)
    )
    axes.scatter(
        cloud.reference,
        cloud.predicted,
        s=size,
        color=cloud.look.colour,
        alpha=alpha,
        linewidths=0,
        marker=cloud.look.marker,
        rasterized=True,
        zorder=2,
    )


def _draw_density(axes: Axes, cloud: Cloud, limits: tuple[float, float]) -> None:
    """Draw how many points there are: from the colour of the cloud on a logarithmic scale."""
    axes.hexbin(
        cloud.reference,
        cloud.predicted,
        gridsize=90,
        extent=(*limits, *limits),
        bins="log",
        mincnt=1,
        cmap=LinearSegmentedColormap.from_list("density", ["#c9dff0", cloud.look.colour, INK]),
        edgecolors="face",
        linewidths=0.2,
        rasterized=True,
        zorder=2,
    )


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
