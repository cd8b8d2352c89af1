"""Energy along a line: how far it is followed, where it turns, and where it jumps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ase_ws.stability.static.probe import ProbeError

#: How many points behind the reach are as close as those within it: half of what a sixth
#: difference spans.
_MARGIN = 3
#: Each look at a suspected jump is this much finer than the one before; so many looks, and one
#: more where they do not tell what it is.
_FINER, _LOOKS = 4, 3
_CANDIDATES = 3


class Refusal(NamedTuple):
    """Where the calculator gave no answer.

    Attributes
    ----------
    x, last : float
        There, and the last place with an answer before.
    wall, rise : float
        Highest energy before over the start, and the last one, in eV.
    reason : str
    """

    x: float
    last: float
    wall: float
    rise: float
    reason: str


@dataclass(frozen=True)
class Line:
    """Energies along a line, x rising.

    Attributes
    ----------
    x, rises : arrays
        Places, and energies over that of the start in eV.
    start : int
        Index of the start.
    even : slice
        The part with even spacing.
    refusals : tuple of Refusal
        At the ends.
    """

    x: np.ndarray
    rises: np.ndarray
    start: int
    even: slice
    refusals: tuple[Refusal, ...] = ()

    def walls(self) -> np.ndarray:
        """Give the highest energy between each place and the start, over the start, in eV."""
        inwards = np.maximum.accumulate(self.rises[self.start :: -1])[::-1]
        return np.r_[inwards, np.maximum.accumulate(self.rises[self.start :])[1:]]


def follow(
    energy: Callable[[float], float],
    start_energy: float,
    start: float,
    spacing: float,
    ends: tuple[float, float],
    *,
    reach: float = np.inf,
    coarse: float = np.inf,
    stop: Callable[[float], float] = lambda x: np.inf,
    rest: Callable[[], None] = lambda: None,
) -> Line:
    """Follow the energy both ways from the start, as far as it is of interest.

    Parameters
    ----------
    energy : callable
        Energy in eV at any x.
    start_energy, start : float
        Energy in eV, and x, at the start.
    spacing : float
    ends : (float, float)
        Lowest and highest x.
    reach, coarse : float
        Where the way from the start is higher than `reach`, in eV over the start, the spacing is
        `coarse`.
    stop : callable
        Gives for a place the energy over the start, in eV, at which the way there ends.
    rest : callable
        Called after each of the two ways: a calculator with a state goes back to the start.
    """
    sides = []
    for sign, end in zip((-1.0, 1.0), ends, strict=True):
        side = _Side(energy, start_energy, start, sign * spacing, end, sign * coarse)
        sides.append(side.walk(reach, stop))
        if side.x or side.refusal is not None:
            rest()
    low, high = sides
    return Line(
        np.array([*low.x[::-1], start, *high.x]),
        np.array([*low.rises[::-1], 0.0, *high.rises]),
        len(low.x),
        slice(len(low.x) - low.even, len(low.x) + 1 + high.even),
        tuple(side.refusal for side in sides if side.refusal is not None),
    )


class _Side:
    """One of the two ways from the start."""

    def __init__(
        self,
        energy: Callable[[float], float],
        start_energy: float,
        start: float,
        step: float,
        end: float,
        coarse: float,
    ):
        self.energy, self.start_energy, self.start = energy, start_energy, start
        self.step, self.end, self.coarse = step, end, coarse
        self.x: list[float] = []
        self.rises: list[float] = []
        self.even = 0
        self.refusal: Refusal | None = None

    def walk(self, reach: float, stop: Callable[[float], float]) -> _Side:
        """Go on until the end, the stop or the first place without an answer."""
        wall, behind, x = 0.0, 0, self._next(0)
        while x is not None:
            try:
                rise = self.energy(x) - self.start_energy
            except ProbeError as error:
                known = (self.x[-1], self.rises[-1]) if self.x else (self.start, 0.0)
                self.refusal = Refusal(x, known[0], wall, known[1], str(error))
                break
            self.x.append(x)
            self.rises.append(rise)
            wall = max(wall, rise)
            self.even += behind <= _MARGIN
            behind += wall > reach
            if not rise <= stop(x):
                break
            x = self._next(behind)
        return self

    def _next(self, behind: int) -> float | None:
        """Give the next place; None at the end, which is one of them on the coarse part."""
        if behind <= _MARGIN:
            x = self.start + (len(self.x) + 1) * self.step
            return x if (self.end - x) / self.step > -1e-6 else None
        left = (self.end - self.x[-1]) / self.coarse
        return None if left < 1e-6 else self.x[-1] + min(left, 1.0) * self.coarse


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
    noise : float
        Standard deviation of the energy, in eV: it hides kinks on fine grids.
    """

    turn: float
    jump_warn: float
    jump_fail: float
    kink: float
    noise: float = 0.0

    def kink_at(self, spacing: float) -> float:
        """Smallest step of the force, in eV/Å, that counts on a grid of this spacing in Å."""
        # `_steps` of noise have √28 times its standard deviation.
        return max(self.kink, 20.0 * np.sqrt(28.0) * self.noise / spacing)


@dataclass(frozen=True)
class Discontinuity:
    """A step of the energy (`jump`, eV) or of the force along the line (`kink`, eV/Å) at `x`."""

    x: float
    jump: float = 0.0
    kink: float = 0.0


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
    within: Sequence[bool] | np.ndarray | None = None,
) -> list[Discontinuity]:
    """Find steps of the energy and of its slope.

    Sixth differences that stand out from those around them are looked at again on grids that
    become finer, up to 64 times. A step of the energy keeps its size, one of the slope shrinks as
    the spacing, and anything smoother at least as its square: that is how they are told apart.

    Parameters
    ----------
    energy : callable
        Energy in eV at any x, also a little outside the range of `x`.
    x, energies : arrays
        An even grid, and the energies there.
    limits : Limits
    scale : float
        Å per unit of x, of the motion along which the force is meant.
    within : array of bool, optional
        Where they count; default everywhere.

    Returns
    -------
    list of Discontinuity
        Those beyond a limit.
    """
    counts = np.ones(len(x), dtype=bool) if within is None else np.asarray(within)
    spots = [
        _look(energy, low, high, limits, scale)
        for low, high in _suspects(x, energies, counts, limits, scale)
    ]
    return [spot for spot in spots if spot is not None]


def _suspects(
    x: np.ndarray, energies: np.ndarray, within: np.ndarray, limits: Limits, scale: float
) -> list[tuple[float, float]]:
    """Give where sixth differences stand out: in at most four spacings."""
    if len(x) < 7:
        return []
    signed = np.diff(energies, n=6)
    differences, padded = np.abs(signed), np.pad(signed, 1)
    # Those of steps and kinks change their signs from one to the next, those of walls do not.
    opposite = -np.sign(signed) * np.array([padded[:-2], padded[2:]])
    changing = opposite.max(axis=0) >= 0.3 * differences
    spacing = (x[1] - x[0]) * scale
    # What a step, and what a kink at a point of the grid, leaves in them.
    least = min(10.0 * limits.jump_warn, 6.0 * limits.kink * spacing)
    scores = np.where(within[3:-3] & changing, differences - least, -np.inf)
    for k in range(len(differences)):
        # A step shows in six differences in a row; what lies farther out is the background.
        around = np.r_[differences[max(0, k - 12) : max(0, k - 5)], differences[k + 6 : k + 13]]
        if len(around):
            scores[k] -= 4.0 * np.median(around)
    spans = []
    for _ in range(_CANDIDATES):
        k = int(np.argmax(scores))
        if not scores[k] > 0.0:
            break
        spans.append((float(x[k + 1]), float(x[k + 5])))
        scores[max(0, k - 6) : k + 7] = -np.inf
    return spans


def _look(
    energy: Callable[[float], float], low: float, high: float, limits: Limits, scale: float
) -> Discontinuity | None:
    """Follow what is largest to finer grids, and tell what it is from how it shrinks."""
    parts, before, order = 4 * _FINER, np.nan, np.nan
    middle, spacing, size = low, high - low, np.nan
    for look in range(_LOOKS + 1):
        spacing = (high - low) / parts
        grid = low + spacing * np.arange(-3, parts + 4)
        steps = np.abs(_steps(np.array([energy(float(t)) for t in grid])))
        k = int(np.argmax(steps))
        size, middle = float(steps[k]), float(grid[k + 2] + grid[k + 3]) / 2.0
        small = size <= 2.0 * limits.jump_warn
        if small and size <= limits.kink_at(spacing * scale) * spacing * scale:
            return None
        order = np.log(before / size) / np.log(_FINER)
        if look >= _LOOKS - 1 and (abs(order - np.round(order)) < 0.25 or order > 1.75):
            break
        before, low, high, parts = size, float(grid[k + 1]), float(grid[k + 4]), 3 * _FINER
    if order < 0.5:
        jump = size / 2.0
        return Discontinuity(middle, jump=jump) if jump > limits.jump_warn else None
    kink = size / (spacing * scale)
    if order < 1.5 and kink > limits.kink_at(spacing * scale):
        return Discontinuity(middle, kink=kink)
    return None


def _steps(values: np.ndarray) -> np.ndarray:
    """Give the sums of two second differences, less those beside them.

    A step J of the values leaves 2J at most, a step ΔF of the slope hΔF wherever it lies between
    the points, and a smooth curve −2h⁴ times its fourth derivative.
    """
    return np.convolve(values, (-1.0, 3.0, -2.0, -2.0, 3.0, -1.0), mode="valid")
