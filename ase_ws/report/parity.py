"""One picture of how predictions agree with labels, for `ase-ws evaluate --plot`."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ase_ws.files.writing import atomic_path
from ase_ws.report.drawing.axes import LABEL_SIZE, dress
from ase_ws.report.drawing.looks import Look, series
from ase_ws.report.drawing.parity import Cloud, draw_parity, parity_limits
from ase_ws.report.drawing.svg import SOFT_INK
from ase_ws.report.drawing.text import number

#: Groups that have a colour of their own.
MOST_GROUPS = 6
_OTHERS = "others"
_RASTER_DPI = 220


@dataclass(frozen=True)
class Quantity:
    """What is compared, point by point.

    Attributes
    ----------
    title : str
    name, unit : str
        Of the axes; errors are a thousandth of the unit ("m" + unit).
    reference, predicted : ndarray, (n,)
    group : ndarray, (n,), str
        What each point belongs to; of several each has a colour.
    """

    title: str
    name: str
    unit: str
    reference: np.ndarray
    predicted: np.ndarray
    group: np.ndarray


def write_parity(path: Path, quantities: Sequence[Quantity]) -> None:
    """Write the picture, whole or not at all, in the format that its name ends in.

    Parameters
    ----------
    path : Path
        Such as parity.png, parity.svg or parity.pdf.
    quantities : sequence of Quantity
        One column each; those without points are left out.
    """
    with atomic_path(path) as temporary, warnings.catch_warnings():
        # Names of groups may have letters that the font has not.
        warnings.simplefilter("ignore", UserWarning)
        parity_figure(quantities).savefig(
            temporary, dpi=_RASTER_DPI, facecolor="white", bbox_inches="tight", pad_inches=0.1
        )


def parity_figure(quantities: Sequence[Quantity]) -> Figure:
    """Draw each quantity: predicted against reference, and below it how errors are distributed."""
    shown, styles = _with_few_groups([q for q in quantities if len(q.reference)])
    legend_rows = -(-len(styles) // (2 * len(shown))) if len(styles) > 1 else 0
    size = (3.7 * len(shown), 5.4 + 0.3 * legend_rows)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(2, len(shown), squeeze=False, height_ratios=[3, 1])
    for quantity, (above, below) in zip(shown, grid.T, strict=True):
        dress(above)
        dress(below)
        clouds = _clouds(quantity, styles)
        _draw_quantity(above, quantity, clouds)
        _draw_errors(below, quantity, clouds)
    if len(styles) > 1:
        _draw_legend(figure, styles, 2 * len(shown))
    return figure


def _with_few_groups(
    quantities: Sequence[Quantity],
) -> tuple[Sequence[Quantity], dict[str, Look]]:
    """Give each group its look, the largest first; the smallest of many become one."""
    counts = Counter(name for quantity in quantities for name in quantity.group.tolist())
    names = [name for name, _ in counts.most_common()]
    if len(names) > MOST_GROUPS:
        names = [*names[: MOST_GROUPS - 1], _OTHERS]
        quantities = [
            replace(q, group=np.where(np.isin(q.group, names), q.group, _OTHERS))
            for q in quantities
        ]
    return quantities, dict(zip(names, series(len(names)), strict=True))


def _clouds(quantity: Quantity, styles: dict[str, Look]) -> list[Cloud]:
    """Give the points of each group; the smallest come last, to be drawn on top."""
    parts = ((quantity.group == name, look) for name, look in styles.items())
    clouds = [Cloud(quantity.reference[at], quantity.predicted[at], look) for at, look in parts]
    clouds = [cloud for cloud in clouds if len(cloud.reference)]
    return sorted(clouds, key=lambda cloud: -len(cloud.reference))


def _draw_quantity(axes: Axes, quantity: Quantity, clouds: Sequence[Cloud]) -> None:
    errors = 1e3 * (quantity.predicted - quantity.reference)
    found = {"RMSE": np.sqrt(np.mean(errors**2)), "MAE": np.mean(np.abs(errors))}
    told = [f"{name} {number(float(x), keep_zeros=True)}" for name, x in found.items()]
    draw_parity(
        axes,
        clouds,
        limits=parity_limits(quantity.reference, [quantity.predicted]),
        quantity=f"{quantity.name} ({quantity.unit})",
    )
    # Above the panel, where no point can be.
    title = f"{quantity.title}\n{', '.join(told)} m{quantity.unit}"
    axes.set_title(title, fontsize=LABEL_SIZE, loc="left")


def _draw_errors(axes: Axes, quantity: Quantity, clouds: Sequence[Cloud]) -> None:
    errors = [1e3 * (cloud.predicted - cloud.reference) for cloud in clouds]
    # The farthest of many would leave a needle of all others: they stand in the outermost bins.
    widest = 1.05 * float(np.quantile(np.abs(np.concatenate(errors)), 0.995)) or 1.0
    for error, cloud in zip(errors, clouds, strict=True):
        axes.hist(
            np.clip(error, -widest, widest),
            bins=np.linspace(-widest, widest, min(10 + int(len(error) ** 0.5), 61)).tolist(),
            histtype="stepfilled" if len(clouds) == 1 else "step",
            density=True,
            color=cloud.look.colour,
        )
    axes.axvline(0, color=SOFT_INK, linewidth=0.9)
    axes.set(xlim=(-widest, widest), yticks=[])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"predicted − reference (m{quantity.unit})")


def _draw_legend(figure: Figure, styles: dict[str, Look], n_columns: int) -> None:
    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, linestyle="none", label="group")
        for look in styles.values()
    ]
    legend = figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=n_columns,
        frameon=False,
        fontsize=LABEL_SIZE,
    )
    # Written afterwards: a label such as "_a" would be left out, and one with $ read as formula.
    for text, name in zip(legend.get_texts(), styles, strict=True):
        text.set_parse_math(False)
        text.set_text(name[:24] or "(none)")
