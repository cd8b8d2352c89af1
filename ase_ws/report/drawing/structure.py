"""A picture of a structure with some atoms marked: depth-sorted discs, bonds, rings and names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from ase_ws.report.drawing.svg import INK, SOFT_INK
from ase_ws.report.drawing.text import number
from ase_ws.report.drawing.view import best_view, nearest_atoms
from ase_ws.report.stability.plots import WRONG

WIDTH = 5.2
"""Of the picture, in inches."""

_DARK, _LIGHT = "#101216", "#ffffff"
_BOND = "#8d949e"
_DISC = 0.62
"""Radius of a disc, in covalent radii: bonds stay visible."""
_SMALLEST_DISC = 0.013
"""Radius of a disc relative to the size of the picture, in structures that have flown apart."""
_NAME_ALL = 40
"""In structures of at most so many atoms each atom has its name in its disc."""
_SMALLEST_NAME = 6.5
"""Size in points; where the disc has no room for it, the name of a failing atom stands above."""


@dataclass(frozen=True)
class Picture:
    """What to draw.

    Attributes
    ----------
    symbols : sequence of str
        Elements, n of them; letters only.
    positions : (n, 3) array
        In Å, finite.
    radii : (n,) array
        Covalent radii in Å.
    bonds : sequence of (int, int)
        Bonded pairs.
    marked : sequence of int
        The atoms to ring.
    names : sequence of str
        What the marked atoms (and in small structures all of them) are called, such as "H5".
    """

    symbols: Sequence[str]
    positions: np.ndarray
    radii: np.ndarray
    bonds: Sequence[tuple[int, int]]
    marked: Sequence[int]
    names: Sequence[str]


def structure(picture: Picture) -> tuple[Figure, int]:
    """Draw a structure from the side from which its atoms overlap least.

    Returns
    -------
    Figure
    int
        How many atoms are shown: of large structures only those around the marked ones.
    """
    shown = nearest_atoms(picture.positions, np.array(picture.marked, dtype=int))
    place = {int(atom): i for i, atom in enumerate(shown)}
    discs = picture.radii[shown] * _DISC
    marked = [place[atom] for atom in picture.marked if atom in place]
    points = best_view(picture.positions[shown], discs, np.array(marked, dtype=int))
    extent = float(np.ptp(points[:, :2], axis=0).max()) if len(points) else 0.0
    discs = np.maximum(discs, _SMALLEST_DISC * extent)
    pairs = [(place[i], place[j]) for i, j in picture.bonds if i in place and j in place]
    figure, axes = _canvas(points, discs)
    _draw_bonds(axes, points, discs, pairs)
    if len(marked) == 2 and tuple(marked) not in pairs and tuple(marked[::-1]) not in pairs:
        _draw_gap(axes, points, discs, marked)
    _draw_atoms(axes, points, discs, [picture.symbols[int(atom)] for atom in shown])
    names = [picture.names[int(atom)] for atom in shown]
    _draw_rings(axes, points, discs, marked)
    _draw_names(axes, points, discs, names, [picture.symbols[int(a)] for a in shown], marked)
    return figure, len(shown)


def _canvas(points: np.ndarray, discs: np.ndarray) -> tuple[Figure, Axes]:
    margin = 1.9 * float(discs.max()) + 0.15
    low = points[:, :2].min(axis=0) - margin
    high = points[:, :2].max(axis=0) + margin
    low[1] -= 0.06 * (high[0] - low[0])  # room for the bar
    span = high - low
    # Never taller than wide, never a strip.
    lacking = max(0.0, 0.5 * span[0] - span[1])
    low[1], high[1] = low[1] - lacking / 2, high[1] + lacking / 2
    lacking = max(0.0, (high[1] - low[1]) - span[0])
    low[0], high[0] = low[0] - lacking / 2, high[0] + lacking / 2
    span = high - low
    figure = Figure(figsize=(WIDTH, WIDTH * span[1] / span[0]), facecolor="none")
    FigureCanvasSVG(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
    axes.axis("off")
    _draw_bar(axes, low, span)
    return figure, axes


def _draw_bar(axes: Axes, low: np.ndarray, span: np.ndarray) -> None:
    """Draw a bar of a round length of at least an eighth of the width."""
    wanted = span[0] / 8
    ten = 10.0 ** np.floor(np.log10(wanted))
    length = next(step * ten for step in (1, 2, 5, 10) if step * ten >= wanted * (1 - 1e-9))
    x, y = low[0] + 0.03 * span[0], low[1] + 0.035 * span[0]
    axes.plot([x, x + length], [y, y], color=SOFT_INK, linewidth=2.2, solid_capstyle="butt")
    axes.text(
        x + length / 2,
        y + 0.012 * span[0],
        f"{number(length)} Å",
        ha="center",
        va="bottom",
        color=SOFT_INK,
        fontsize=9,
    )


def _draw_bonds(
    axes: Axes, points: np.ndarray, discs: np.ndarray, pairs: Sequence[tuple[int, int]]
) -> None:
    for i, j in pairs:
        # A bond through the boundary of a periodic cell would cross the whole picture.
        if np.linalg.norm(points[i] - points[j]) > 2.0 * (discs[i] + discs[j]) / _DISC:
            continue
        axes.plot(
            points[[i, j], 0],
            points[[i, j], 1],
            color=_BOND,
            linewidth=_points_of(axes, 0.42 * float(min(discs[i], discs[j]))),
            solid_capstyle="round",
            zorder=_depth(points, min(points[i, 2], points[j, 2])),
        )


def _draw_gap(axes: Axes, points: np.ndarray, discs: np.ndarray, marked: Sequence[int]) -> None:
    """Draw a dashed line between the rims of two failing atoms that have no bond."""
    i, j = marked
    step = points[j, :2] - points[i, :2]
    length = float(np.linalg.norm(step))
    if length <= 1.3 * (discs[i] + discs[j]):
        return
    start = points[i, :2] + step * (1.35 * discs[i] / length)
    end = points[j, :2] - step * (1.35 * discs[j] / length)
    axes.plot(
        [start[0], end[0]],
        [start[1], end[1]],
        color=WRONG,
        linewidth=1.8,
        linestyle=(0, (3, 2)),
        zorder=_depth(points, points[:, 2].max()) + 1,
    )


def _draw_atoms(axes: Axes, points: np.ndarray, discs: np.ndarray, symbols: Sequence[str]) -> None:
    for i in map(int, np.argsort(points[:, 2], kind="stable")):
        radius = float(discs[i])
        layer = _depth(points, points[i, 2])
        colour = _colour(symbols[i])
        axes.add_patch(
            Circle(
                tuple(points[i, :2]),
                radius,
                facecolor=tuple(colour),
                edgecolor=tuple(colour * 0.45),
                linewidth=0.9,
                zorder=layer,
            )
        )


def _draw_rings(axes: Axes, points: np.ndarray, discs: np.ndarray, marked: Sequence[int]) -> None:
    for i in marked:
        axes.add_patch(
            Circle(
                tuple(points[i, :2]),
                1.3 * discs[i],
                fill=False,
                edgecolor=WRONG,
                linewidth=2.4,
                zorder=_depth(points, points[:, 2].max()) + 2,
            )
        )


def _draw_names(
    axes: Axes,
    points: np.ndarray,
    discs: np.ndarray,
    names: Sequence[str],
    symbols: Sequence[str],
    marked: Sequence[int],
) -> None:
    on_top = _depth(points, points[:, 2].max()) + 3
    for i, name in enumerate(names):
        size = _points_of(axes, float(discs[i])) * (1.0 if len(name) <= 2 else 2.1 / len(name))
        inside = size >= _SMALLEST_NAME
        if i not in marked and (len(names) > _NAME_ALL or not inside):
            continue
        colour = _colour(symbols[i])
        is_bright = float(colour @ (0.2126, 0.7152, 0.0722)) > 0.42
        axes.text(
            points[i, 0],
            points[i, 1] if inside else points[i, 1] + 1.5 * discs[i],
            name,
            ha="center",
            va="center_baseline" if inside else "bottom",
            color=(_DARK if is_bright else _LIGHT) if inside else INK,
            fontsize=min(size, 13.0) if inside else 10.0,
            fontweight="bold",
            zorder=on_top if i in marked else _depth(points, points[i, 2]),
        )


def _points_of(axes: Axes, length: float) -> float:
    """Turn a length in Å into points on paper."""
    low, high = axes.get_xlim()
    return 72.0 * WIDTH * length / (high - low)


def _depth(points: np.ndarray, z: float) -> float:
    """Give the layer of something at this depth: nearer to the eye is drawn later."""
    low, span = float(points[:, 2].min()), float(np.ptp(points[:, 2]))
    return 2.0 + 100.0 * (z - low) / span if span > 0 else 2.0


def _colour(symbol: str) -> np.ndarray:
    """Colour of an element as Jmol and ASE have it, RGB from 0 to 1."""
    from ase.data import atomic_numbers
    from ase.data.colors import jmol_colors

    return jmol_colors[atomic_numbers.get(symbol, 0)]
