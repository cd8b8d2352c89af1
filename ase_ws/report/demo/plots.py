"""One function a figure: plain arrays in, a Matplotlib `Figure` out.

No text of the user enters a figure (legends are HTML), so no name can be taken for mathematics or
lack a glyph. Nothing here touches `pyplot` or the global settings of Matplotlib.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from ase_ws.report.drawing.axes import (
    CURVE,
    LABEL_SIZE,
    SQUARE,
    log_scale,
    panel,
)
from ase_ws.report.drawing.lines import Line
from ase_ws.report.drawing.looks import Look
from ase_ws.report.drawing.svg import GRID, INK, SOFT_INK


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
    figure, axes = panel(CURVE)
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
    log_scale(axes, np.concatenate(shown) if shown else np.empty(0))
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
    figure, axes = panel(SQUARE)
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
    axes.text(0.04, 0.96, note, transform=axes.transAxes, va="top", fontsize=LABEL_SIZE, color=INK)
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


def _mark_every(n: int) -> int:
    """About a dozen markers a line, however many points it has."""
    return max(1, n // 12)
