"""Lengths of bonded pairs, in MD and in the training data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from ase_ws.md.observer import RunContext, Snapshot
from ase_ws.pairs import Pairs, find_pairs, longest, radii_sum
from ase_ws.results.finding import Finding
from ase_ws.results.pictures import BondLengths as Distribution
from ase_ws.stability.checks.base import close_pairs

#: Bonded means closer than this times the sum of the covalent radii, as in `BondCheck`.
BONDED = 1.3
#: Width of a bin of the histograms, Å.
BIN = 0.02

#: How often each bin (by its number, as text for JSON) was seen, for each pair of elements.
Counts = dict[str, dict[str, int]]


@dataclass
class BondLengths:
    """Observer that counts the lengths of bonded pairs, by pair of elements; it never fails.

    Attributes
    ----------
    interval : int
        Steps between two looks. Default 20, one period of an X–H stretch at 0.5 fs.
    """

    interval: int = 20
    counts: dict[str, Counter[str]] = field(init=False, default_factory=dict)

    def start(self, atoms: Atoms, context: RunContext) -> None:
        """Forget any earlier run."""
        self.counts = {}

    def check(self, snapshot: Snapshot) -> Sequence[Finding]:
        """Count."""
        if np.isfinite(snapshot.atoms.positions).all():
            _count(self.counts, snapshot.atoms.numbers, close_pairs(snapshot))
        return []

    def to_dict(self) -> Counts:
        """Plain counts."""
        return {pair: dict(counter) for pair, counter in self.counts.items()}


def count_lengths(frames: Iterable[Atoms]) -> Counts:
    """Count the lengths of bonded pairs in frames, such as training data."""
    counts: dict[str, Counter[str]] = {}
    for atoms in frames:
        _count(counts, atoms.numbers, find_pairs(atoms, longest(atoms)))
    return {pair: dict(counter) for pair, counter in counts.items()}


def _count(counts: dict[str, Counter[str]], numbers: np.ndarray, pairs: Pairs) -> None:
    first, second, distance, _ = pairs
    bonded = distance <= BONDED * radii_sum(numbers, first, second)
    # Each pair is listed in both directions.
    bonded &= numbers[first] <= numbers[second]
    # One number for both elements and the bin: a single pass of NumPy finds all that occur.
    keys = (numbers[first[bonded]] * 128 + numbers[second[bonded]]) * 4096
    keys = keys + (distance[bonded] / BIN).astype(int)
    for key, n in zip(*np.unique(keys, return_counts=True), strict=True):
        elements, number = divmod(int(key), 4096)
        pair = "-".join(sorted(chemical_symbols[z] for z in divmod(elements, 128)))
        counts.setdefault(pair, Counter())[str(number)] += int(n)


def histograms(md: Sequence[Counts], training: Counts | None = None) -> list[Distribution]:
    """Distributions for plots: one entry a pair of elements, densities in 1/Å on common edges.

    Parameters
    ----------
    md : sequence of counts
        Of each replica.
    training : counts, optional
        Of the training data.
    """
    total: dict[str, Counter[str]] = {}
    for counts in md:
        for pair, bins in counts.items():
            total.setdefault(pair, Counter()).update(bins)
    return [_histogram(pair, total[pair], (training or {}).get(pair)) for pair in sorted(total)]


def _histogram(
    pair: str, md: Mapping[str, int], training: Mapping[str, int] | None
) -> Distribution:
    seen = [int(number) for bins in (md, training or {}) for number in bins]
    low, high = min(seen), max(seen)
    edges: list[float | None] = [round(BIN * k, 6) for k in range(low, high + 2)]
    return Distribution(
        pair,
        edges,
        _density(md, low, high),
        [] if training is None else _density(training, low, high),
    )


def _density(bins: Mapping[str, int], low: int, high: int) -> list[float | None]:
    total = sum(bins.values())
    return [bins.get(str(k), 0) / (total * BIN) for k in range(low, high + 1)]
