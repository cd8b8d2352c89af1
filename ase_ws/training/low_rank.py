"""`LowRank`: weights that move by matrices of low rank (LoRA, Hu et al., arXiv 2106.09685)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ase_ws.errors import UserError
from ase_ws.potentials.base import PotentialModule
from ase_ws.potentials.weights import Matrix


def trained_matrices(potential: PotentialModule) -> list[Matrix]:
    """Give the matrices that are not frozen.

    Raises
    ------
    UserError
        All are.
    """
    found = [matrix for matrix in potential.matrices() if matrix.weight.requires_grad]
    if not found:
        raise UserError("model.lora_rank: every matrix is frozen, nothing is left to train")
    return found


class LowRank:
    """W = W0 + (α / r) A B for each matrix of a network; all else stays.

    The network always holds the whole W: what evaluates or saves it needs to know nothing of A and
    B, which are what an optimiser moves and an average is of. Their gradients follow from that of W
    by the chain rule, dL/dA = (α / r) dL/dW Bᵀ and dL/dB = (α / r) Aᵀ dL/dW.

    Parameters
    ----------
    potential : PotentialModule
        At W0. Weights that belong to no matrix, or to none that trains, are frozen.
    rank : int
        r; smaller matrices have fewer.
    alpha : float
        α; with α = r, the rate is that of the whole matrix.
    seed : int
        Of A, which is normal with variance 1/r; B starts at zero.

    Raises
    ------
    UserError
        Every matrix is frozen.
    """

    def __init__(self, potential: PotentialModule, rank: int, alpha: float, seed: int):
        generator = torch.Generator().manual_seed(seed)
        blocks = trained_matrices(potential)
        self._blocks = blocks
        self._start = [b.of(b.weight.detach()).clone() for b in blocks]
        self._factors: list[tuple[Tensor, Tensor]] = []
        self._scale = alpha / rank
        for block in blocks:
            r = min(rank, block.rows, block.columns)
            left = torch.randn(block.rows, r, generator=generator) / math.sqrt(rank)
            like: dict[str, Any] = {"device": block.weight.device, "dtype": block.weight.dtype}
            self._factors.append(
                (
                    left.to(**like).requires_grad_(),
                    torch.zeros(r, block.columns, **like).requires_grad_(),
                )
            )
        trained = {id(b.weight) for b in blocks}
        for weight in potential.parameters():
            weight.requires_grad_(id(weight) in trained)

    @property
    def weights(self) -> list[Tensor]:
        """A and B of each matrix: what an optimiser moves."""
        return [factor for pair in self._factors for factor in pair]

    def pull(self) -> None:
        """Give A and B the gradients that follow from those of the network."""
        with torch.no_grad():
            for block, (a, b) in zip(self._blocks, self._factors, strict=True):
                gradient = block.weight.grad
                if gradient is None:
                    continue
                slope = self._scale * block.of(gradient)
                a.grad, b.grad = slope @ b.T, a.T @ slope

    def push(self) -> None:
        """Put W0 + (α / r) A B into the network."""
        with torch.no_grad():
            for block, start, (a, b) in zip(self._blocks, self._start, self._factors, strict=True):
                block.of(block.weight).copy_(start + self._scale * (a @ b))

    def state(self) -> list[Tensor]:
        """Give what a resumed run needs."""
        return [*self._start, *self.weights]

    def load(self, state: Sequence[Tensor]) -> None:
        """Go on from there."""
        with torch.no_grad():
            for mine, value in zip([*self._start, *self.weights], state, strict=True):
                mine.copy_(value)
