"""Random displacements of atoms for the weak losses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ase_ws.graphs import mean_by_graph, nearest_neighbour_distance
from ase_ws.typing import GraphBatch


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
    """

    epsilon: float
    shape: Literal["cube", "ball", "gaussian"] = "cube"
    cap: float = 0.3

    def __post_init__(self) -> None:
        if not self.epsilon > 0:
            raise ValueError(f"epsilon must be positive (Å): {self.epsilon}")
        if self.shape not in ("cube", "ball", "gaussian"):
            raise ValueError(f"shape must be 'cube', 'ball' or 'gaussian': '{self.shape}'")
        if not self.cap > 0:
            raise ValueError(f"cap must be positive: {self.cap}")

    @property
    def longest(self) -> float:
        """No displacement is longer than this, Å: half the skin the graphs must have."""
        return self.epsilon * {"cube": math.sqrt(3.0), "ball": 1.0, "gaussian": 4.0}[self.shape]

    def __call__(self, batch: GraphBatch, generator: torch.Generator) -> Tensor:
        """Draw one δ per atom, (n_atoms, 3), Å.

        Drawn on the CPU whatever the device, so that a seed gives the same numbers everywhere.
        """
        size = (len(batch.positions), 3)
        draw = self._draw(size, generator).to(batch.positions)
        draw = draw - mean_by_graph(draw, batch)[batch.batch]
        limit = (self.cap * nearest_neighbour_distance(batch)).clamp(max=self.longest)
        ratio = limit / draw.norm(dim=1).clamp(min=1e-12)
        smallest = ratio.new_full((batch.n_graphs,), 1.0).scatter_reduce(
            0, batch.batch, ratio, reduce="amin"
        )
        return draw * smallest[batch.batch, None]

    def _draw(self, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        if self.shape == "cube":
            return self.epsilon * (2 * torch.rand(size, generator=generator) - 1)
        direction = torch.randn(size, generator=generator)
        if self.shape == "gaussian":
            return self.epsilon * direction
        radius = self.epsilon * torch.rand((size[0], 1), generator=generator) ** (1 / 3)
        return radius * direction / direction.norm(dim=1, keepdim=True)
