"""Means, spreads and ratios of the runs of one cell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

Result = dict[str, Any]
#: Of a test, in a result: name and unit.
QUANTITIES = {
    "energy_mev": "energy, meV",
    "forces_mev_per_angstrom": "forces, meV/Å",
    "consistency_mev_per_angstrom": "forces against −dE/dr, meV/Å",
}


class Spread(NamedTuple):
    """Mean over seeds, smallest and largest."""

    mean: float
    low: float
    high: float

    def text(self, digits: int) -> str:
        """Give "mean (low–high)", the mean alone where there is one seed."""
        if self.low == self.high:
            return f"{self.mean:.{digits}f}"
        return f"{self.mean:.{digits}f} ({self.low:.{digits}f}–{self.high:.{digits}f})"


def spread(values: Iterable[float]) -> Spread | None:
    """Give mean and range; None of nothing."""
    values = list(values)
    if not values:
        return None
    low, high = min(values), max(values)
    # The mean of equal numbers may be off them by rounding, and a bar must not be negative.
    return Spread(float(np.clip(np.mean(values), low, high)), low, high)


def paired_ratio(
    mine: Sequence[float], other: Sequence[float], *, draws: int = 2000
) -> Spread | None:
    """Give the geometric mean of ratios of pairs, with a 95 % bootstrap interval over the pairs.

    With three seeds the interval is hardly more than their range, and is meant as that.
    """
    if not mine or len(mine) != len(other):
        return None
    logs = np.log(np.array(mine) / np.array(other))
    rng = np.random.default_rng(0)
    means = logs[rng.integers(len(logs), size=(draws, len(logs)))].mean(axis=1)
    low, high = np.exp(np.quantile(means, (0.025, 0.975)))
    return Spread(float(np.exp(logs.mean())), float(low), float(high))


def values(results: Iterable[Result], test: str, quantity: str) -> dict[int, float]:
    """Give a quantity by seed, where it was measured."""
    found = {}
    for r in results:
        value = r["tests"].get(test, {}).get(quantity)
        if value is not None:
            found[r["case"]["seed"]] = value
    return found


def ratio(
    mine: Sequence[Result], supervised: Sequence[Result], test: str, quantity: str
) -> Spread | None:
    """Give the paired ratio of a quantity over the seeds that both have."""
    found = pairs(mine, supervised, test, quantity)
    return paired_ratio([a for a, _ in found], [b for _, b in found])


def pairs(
    mine: Sequence[Result], supervised: Sequence[Result], test: str, quantity: str
) -> list[tuple[float, float]]:
    """Give a quantity of both, for each seed that both have."""
    a, b = values(mine, test, quantity), values(supervised, test, quantity)
    return [(a[s], b[s]) for s in sorted(a.keys() & b.keys())]
