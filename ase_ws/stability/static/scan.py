"""Energy along a line: where it turns, and where it jumps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ase_ws.stability.static.probe import fourth_differences

#: Parts into which the surroundings of a suspected jump are cut, and how often.
_PARTS, _LEVELS = 16, 2
_CANDIDATES = 3


@dataclass(frozen=True)
class Limits:
    """What counts on a scan.

    Attributes
    ----------
    turn : float
        Rises and falls of less are overlooked, in eV.
    jump_warn, jump_fail : float
        Steps of the energy in eV.
    kink : float
        Steps of the force in eV/Å.
    reach : float
        Jumps count where the energy is less than this above the lowest one, in eV.
    """

    turn: float
    jump_warn: float
    jump_fail: float
    kink: float
    reach: float


@dataclass(frozen=True)
class Discontinuity:
    """A step of the energy (`jump`, eV) or of the force along the line (`kink`, eV/Å) at `x`."""

    x: float
    jump: float
    kink: float


@dataclass(frozen=True)
class Turn:
    """Where a curve, followed from one place on, turns down: the top, and how deep it falls.

    Attributes
    ----------
    top : int
        Index of the highest point before the fall.
    wall : float
        Its height over the first point.
    bottom : int
        Index of the lowest point behind it.
    """

    top: int
    wall: float
    bottom: int


def first_turn(energies: np.ndarray, start: int, step: int, least: float) -> Turn | None:
    """Follow `energies` from `start` in direction `step` (±1) until they fall by `least`."""
    order = np.arange(start, len(energies) if step > 0 else -1, step)
    heights = energies[order] - energies[start]
    tops = np.maximum.accumulate(heights)
    fallen = np.flatnonzero(~(tops - heights <= least))
    if len(fallen) == 0:
        return None
    top = int(np.argmax(heights[: fallen[0] + 1]))
    bottom = top + int(np.argmin(heights[top:]))
    return Turn(int(order[top]), float(heights[top]), int(order[bottom]))


def minima(energies: np.ndarray, least: float) -> list[int]:
    """Give the indices of the minima that lie deeper than `least` below the tops beside them.

    An end of the curve counts where the curve falls towards it.
    """
    found: list[int] = []
    lowest, highest, falling = 0, 0, True
    for k, energy in enumerate(energies):
        if falling:
            if energy < energies[lowest]:
                lowest = k
            elif energy > energies[lowest] + least:
                found.append(lowest)
                falling, highest = False, k
        elif energy > energies[highest]:
            highest = k
        elif energy < energies[highest] - least:
            falling, lowest = True, k
    return [*found, lowest] if falling else found


def discontinuities(
    energy: Callable[[float], float],
    x: np.ndarray,
    energies: np.ndarray,
    limits: Limits,
    scale: float = 1.0,
) -> list[Discontinuity]:
    """Find steps of the energy and of its slope.

    Fourth differences that stand out from those around them are looked at again on a grid eight
    and then 64 times finer. There a step J of the energy is left as 3J, a step of the slope
    as 2hΔF, and anything smoother has gone.

    Parameters
    ----------
    energy : callable
        Energy in eV at any x, also a little outside the range of `x`.
    x, energies : arrays
        An even grid, and the energies there.
    limits : Limits
    scale : float
        Å per unit of x, of the motion along which the force is meant.

    Returns
    -------
    list of Discontinuity
        Those beyond a limit.
    """
    found = []
    for low, high in _suspects(x, energies, limits, scale):
        middle, spacing, largest = _zoomed(energy, low, high)
        spot = Discontinuity(middle, largest / 3.0, largest / (2.0 * spacing * scale))
        if not spot.jump <= limits.jump_warn or not spot.kink <= limits.kink:
            found.append(spot)
    return found


def _suspects(
    x: np.ndarray, energies: np.ndarray, limits: Limits, scale: float
) -> list[tuple[float, float]]:
    differences = np.abs(fourth_differences(energies))
    spacing = (x[1] - x[0]) * scale
    least = min(3.0 * limits.jump_warn, 2.0 * limits.kink * spacing)
    counts = energies[2:-2] - energies.min() <= limits.reach
    scores = np.where(counts, differences - least, -np.inf)
    for k in range(len(differences)):
        # A step shows in four differences in a row; what lies farther out is the background.
        around = np.r_[differences[max(0, k - 10) : max(0, k - 3)], differences[k + 4 : k + 11]]
        if len(around):
            scores[k] -= 4.0 * np.median(around)
    spans = []
    for _ in range(_CANDIDATES):
        k = int(np.argmax(scores)) if len(scores) else 0
        if not len(scores) or not scores[k] > 0.0:
            break
        spans.append((float(x[k + 1]), float(x[k + 3])))
        scores[max(0, k - 4) : k + 5] = -np.inf
    return spans


def _zoomed(energy: Callable[[float], float], low: float, high: float):
    """Follow the largest fourth difference to finer grids; give place, spacing and size."""
    spacing, largest = (high - low) / 2.0, 0.0
    for _ in range(_LEVELS):
        spacing = (high - low) / _PARTS
        grid = np.linspace(low - 3 * spacing, high + 3 * spacing, _PARTS + 7)
        differences = np.abs(fourth_differences(np.array([energy(float(t)) for t in grid])))
        k = int(np.argmax(differences))
        low, high, largest = float(grid[k + 1]), float(grid[k + 3]), float(differences[k])
    return (low + high) / 2.0, spacing, largest
