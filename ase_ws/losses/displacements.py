"""Displacements of atoms for the weak losses: random, from a pool, or bounded from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ase_ws.graphs import mean_by_graph, nearest_neighbour_distance
from ase_ws.losses.copies import Copy
from ase_ws.typing import GraphBatch

Shape = Literal["cube", "ball", "gaussian"]


@dataclass(frozen=True)
class Displacements:
    """Draws δ (n_atoms, 3), in Å, without net translation and never dangerously large.

    Parameters
    ----------
    epsilon : float, Å
        Scale: half the edge of the cube, the radius of the ball, or the Gaussian's standard
        deviation per component.
    shape : {"cube", "ball", "gaussian"}
        The paper (arXiv 2408.05215) draws from a cube.
    cap : float
        No atom moves further than this fraction of its nearest-neighbour distance. The whole
        structure's δ is scaled down, so that the net translation stays zero.
    pool : int
        0 draws anew every time. Otherwise `copy` chooses, for each frame of the data set, among
        this many fixed δ, so that what a frozen reference says of them can be kept.
    seed : int
        Of the pool.
    """

    epsilon: float
    shape: Shape = "cube"
    cap: float = 0.3
    pool: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.epsilon > 0:
            raise ValueError(f"epsilon must be positive (Å): {self.epsilon}")
        if self.shape not in get_args(Shape):
            raise ValueError(f"shape must be 'cube', 'ball' or 'gaussian': '{self.shape}'")
        if not self.cap > 0:
            raise ValueError(f"cap must be positive: {self.cap}")
        if not self.pool >= 0:
            raise ValueError(f"pool must not be negative: {self.pool}")

    @property
    def longest(self) -> float:
        """No displacement is longer than this, Å: half the skin the graphs must have."""
        return self.epsilon * {"cube": math.sqrt(3.0), "ball": 1.0, "gaussian": 4.0}[self.shape]

    @property
    def root_mean_square(self) -> float:
        """Typical size of one component of δ before the cap, Å."""
        factor = {"cube": 3.0, "ball": 5.0, "gaussian": 1.0}[self.shape]
        return self.epsilon / math.sqrt(factor)

    def __call__(self, batch: GraphBatch, generator: torch.Generator) -> Tensor:
        """Draw one δ per atom, (n_atoms, 3), Å.

        Drawn on the CPU whatever the device, so that a seed gives the same numbers everywhere.
        """
        return self.bounded(self._draw(len(batch.positions), generator), batch)

    def copy(self, batch: GraphBatch, generator: torch.Generator, *, forces: bool) -> Copy:
        """Draw a displaced copy; from the pool where there is one and the frames are known."""
        if not self.pool or batch.frame_ids is None:
            return Copy(self(batch, generator), forces)
        chosen = torch.randint(self.pool, (batch.n_graphs,), generator=generator).tolist()
        frames, sizes = batch.frame_ids.tolist(), batch.n_atoms.tolist()
        parts: list[Tensor] = []
        keys: list[Hashable] = []
        for frame, k, size in zip(frames, chosen, sizes, strict=True):
            state = np.random.SeedSequence([self.seed, frame, k]).generate_state(1, np.uint64)
            own = torch.Generator().manual_seed(int(state[0] >> 1))
            parts.append(self._draw(size, own))
            keys.append((frame, k, self.seed, self.epsilon, self.shape, self.cap))
        return Copy(self.bounded(torch.cat(parts), batch), forces, tuple(keys))

    def bounded(self, draw: Tensor, batch: GraphBatch) -> Tensor:
        """Take off the net translation of any (n_atoms, 3) displacement and respect the limits."""
        draw = draw.to(batch.positions)
        draw = draw - mean_by_graph(draw, batch)[batch.batch]
        limit = (self.cap * nearest_neighbour_distance(batch)).clamp(max=self.longest)
        ratio = limit / draw.norm(dim=1).clamp(min=1e-12)
        smallest = ratio.new_full((batch.n_graphs,), 1.0).scatter_reduce(
            0, batch.batch, ratio, reduce="amin"
        )
        return draw * smallest[batch.batch, None]

    def _draw(self, n_atoms: int, generator: torch.Generator) -> Tensor:
        size = (n_atoms, 3)
        if self.shape == "cube":
            return self.epsilon * (2 * torch.rand(size, generator=generator) - 1)
        direction = torch.randn(size, generator=generator)
        if self.shape == "gaussian":
            return self.epsilon * direction
        radius = self.epsilon * torch.rand((n_atoms, 1), generator=generator) ** (1 / 3)
        return radius * direction / direction.norm(dim=1, keepdim=True)
