"""One function a figure: plain arrays in, a Matplotlib `Figure` out.

No text of the user enters a figure (legends are HTML), so no name can be taken for mathematics or
lack a glyph. Nothing here touches `pyplot` or the global settings of Matplotlib.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from ase_ws.report.drawing.axes import CURVE, SQUARE, log_scale, panel
from ase_ws.report.drawing.lines import Line
from ase_ws.report.drawing.looks import Look
from ase_ws.report.drawing.parity import Cloud, draw_parity


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
    clouds = [Cloud(reference, predicted, look)]
    draw_parity(axes, clouds, limits=limits, quantity=quantity, note=note)
    return figure


def _mark_every(n: int) -> int:
    """About a dozen markers a line, however many points it has."""
    return max(1, n // 12)
