"""From which side to look at a structure, and which of its atoms to show."""

from __future__ import annotations

import numpy as np

MAX_ATOMS = 80
"""More atoms than this hide each other: the nearest to the failing ones are shown."""

_TILTS = np.radians([-50.0, -30.0, -12.0, 0.0, 12.0, 30.0, 50.0])
_MARKED_WEIGHT = 4.0
"""An overlap with a failing atom counts so many times."""


def nearest_atoms(positions: np.ndarray, marked: np.ndarray) -> np.ndarray:
    """Choose at most `MAX_ATOMS` atoms, those nearest to the marked ones (or to the middle).

    Parameters
    ----------
    positions : (n, 3) array
        In Å, finite.
    marked : (m,) array of int
        May be empty.

    Returns
    -------
    (k,) array of int
        In their own order.
    """
    if len(positions) <= MAX_ATOMS:
        return np.arange(len(positions))
    centres = positions[marked] if len(marked) else positions.mean(axis=0, keepdims=True)
    distances = np.linalg.norm(positions[:, None] - centres[None], axis=2).min(axis=1)
    return np.sort(np.argsort(distances, kind="stable")[:MAX_ATOMS])


def best_view(positions: np.ndarray, radii: np.ndarray, marked: np.ndarray) -> np.ndarray:
    """Turn a structure such that its atoms overlap least when one looks along −z.

    The candidates are the principal axes of the structure, and those tilted by up to 50° about
    the two axes of the picture. The score of a view is the overlap of the discs

        Σ_ij w_ij max(0, R_i + R_j − d_ij) / (R_i + R_j)

    with d_ij the distance in the picture and w_ij = 4 where i or j is marked, 1 elsewhere.

    Parameters
    ----------
    positions : (n, 3) array
        In Å.
    radii : (n,) array
        Of the discs, in Å.
    marked : (m,) array of int
        Atoms that must be seen.

    Returns
    -------
    (n, 3) array
        x to the right (the longest axis), y up, z towards the one who looks.
    """
    base = _principal(positions)
    weights = np.ones(len(positions))
    weights[marked] = _MARKED_WEIGHT
    pair_weights = np.maximum(weights[:, None], weights[None])
    sums = radii[:, None] + radii[None]
    best, least = base, np.inf
    for tilt_x in sorted(_TILTS, key=abs):
        for tilt_y in sorted(_TILTS, key=abs):
            turned = base @ _rotation(tilt_x, tilt_y).T
            gaps = turned[:, None, :2] - turned[None, :, :2]
            overlap = np.maximum(0.0, 1.0 - np.sqrt((gaps**2).sum(axis=2)) / sums)
            score = float((np.triu(overlap, 1) * pair_weights).sum())
            if score < least - 1e-9:
                best, least = turned, score
    return best


def _principal(positions: np.ndarray) -> np.ndarray:
    """Turn to principal axes: longest along x, shortest along z; the same on every machine."""
    centred = positions - positions.mean(axis=0)
    axes = np.linalg.svd(centred, full_matrices=True)[2]
    # The sign of an axis is the library's whim: its largest component shall be positive.
    largest = np.argmax(np.abs(np.round(axes, 6)), axis=1)
    axes = axes * np.sign(axes[np.arange(3), largest])[:, None]
    if np.linalg.det(axes) < 0:  # no mirror images
        axes[2] *= -1.0
    return centred @ axes.T


def _rotation(about_x: float, about_y: float) -> np.ndarray:
    cx, sx, cy, sy = np.cos(about_x), np.sin(about_x), np.cos(about_y), np.sin(about_y)
    turn_x = np.array([[1.0, 0.0, 0.0], [0.0, cx, -sx], [0.0, sx, cx]])
    turn_y = np.array([[cy, 0.0, sy], [0.0, 1.0, 0.0], [-sy, 0.0, cy]])
    return turn_x @ turn_y
