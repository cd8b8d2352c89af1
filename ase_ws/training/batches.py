"""The graphs of each training step, which follow from (seed, step) alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from ase_ws.frames import Frame
from ase_ws.graphs import collate
from ase_ws.typing import GraphBatch

#: What a seed is for, so that no two streams of random numbers are alike.
DISPLACEMENTS, SHUFFLE = 0, 1


def seed_of(*numbers: int) -> int:
    """Mix run seed, purpose and step into one seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


@contextmanager
def reproducible(seed: int) -> Iterator[None]:
    """Seed torch for the run and give the caller's random state back afterwards."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def graphs_of(frames: Sequence[Frame], cutoff: float, dtype: torch.dtype) -> list[GraphBatch]:
    """Build the graphs once; a step only joins them."""
    return [frame.graph(cutoff, k, dtype) for k, frame in enumerate(frames)]


class Batches:
    """Graphs that are shuffled, dealt in batches, and shuffled anew.

    What does not fill a batch waits for the next deal. A resumed run goes on with exactly the
    batches it would have seen.

    Parameters
    ----------
    graphs : sequence of GraphBatch
        One structure each.
    size : int
        Structures a step; fewer where there are not so many.
    seed : int
    """

    def __init__(self, graphs: Sequence[GraphBatch], size: int, seed: int):
        self.graphs, self.size, self.seed = graphs, min(size, len(graphs)), seed
        self._shuffled, self._order = -1, []

    def numbers(self, step: int) -> list[int]:
        """Which structures the step sees."""
        pass_number, k = divmod(step, len(self.graphs) // self.size)
        if pass_number != self._shuffled:
            generator = torch.Generator().manual_seed(seed_of(self.seed, SHUFFLE, pass_number))
            self._order = torch.randperm(len(self.graphs), generator=generator).tolist()
            self._shuffled = pass_number
        return self._order[k * self.size : (k + 1) * self.size]

    def parts(
        self, step: int, n_parts: int, first: int = 0, every: int = 1
    ) -> Iterator[tuple[int, float, GraphBatch]]:
        """Deal the step's structures to `n_parts`; give number, share and graphs of each.

        Of these only the parts `first`, `first` + `every` and so on are joined.
        """
        numbers = self.numbers(step)
        for part in range(first, min(n_parts, len(numbers)), every):
            mine = numbers[part::n_parts]
            yield part, len(mine) / len(numbers), collate([self.graphs[k] for k in mine])
