"""The linearisation of the energies in the weights: kernel, products and updates, by blocks.

J (n_frames, n_weights) has a row for each structure, √w_k dE_k/dθ / n_k, with w_k the weight that
it brings. It is never there as a whole where it is large: its rows are computed again, which costs
less than to keep them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ase_ws.frames import Frame
from ase_ws.graphs import collate
from ase_ws.potentials.base import PotentialModule
from ase_ws.typing import GraphBatch

#: Numbers of J that are held at a time: 4 GiB in float64. Where all are not more, no row is made
#: twice; else two blocks of the half of it are multiplied.
MOST_NUMBERS = 2**29
#: Up to so many, to look for weights that count would save nothing.
_FEW_NUMBERS = 2**27
#: Atoms of a batch that is evaluated at once.
_ATOMS = 500


class Tangent:
    """A potential whose weights move, and the derivatives of its energies there.

    Parameters
    ----------
    potential : PotentialModule
        Copied, in float64. Frozen weights stay.
    frames : sequence of Frame
    progress : callable
        Called with the part, 0 to 1, of the gradients of a kernel that are done.
    """

    def __init__(
        self,
        potential: PotentialModule,
        frames: Sequence[Frame],
        progress: Callable[[float], None] = lambda part: None,
    ):
        self.potential = copy.deepcopy(potential).to(torch.float64)
        self._form = self.potential.trainable()
        self._weights = [w for w in self.potential.parameters() if w.requires_grad]
        self._n_weights = sum(w.numel() for w in self._weights)
        r_max, dtype = self.potential.r_max, self.potential.dtype
        self._graphs = [frame.graph(r_max, k, dtype) for k, frame in enumerate(frames)]
        self.progress = progress
        n_atoms = torch.tensor([len(f.numbers) for f in frames], dtype=torch.float64)
        weights = torch.tensor([f.weights[0] for f in frames], dtype=torch.float64)
        self.divisors = n_atoms / weights.sqrt()
        self._together = max(1, int(_ATOMS / float(n_atoms.mean())))
        self._active: Tensor | None = None

    @property
    def weights(self) -> Tensor:
        """All weights that are not frozen, (n_weights,), on the CPU."""
        return torch.cat([w.detach().reshape(-1) for w in self._weights]).cpu()

    @weights.setter
    def weights(self, values: Tensor) -> None:
        parts = values.split([w.numel() for w in self._weights])
        with torch.no_grad():
            for weight, part in zip(self._weights, parts, strict=True):
                weight.copy_(part.view(weight.shape))

    def energies(self) -> Tensor:
        """Energies per atom times √w, (n_frames,), eV."""
        with torch.no_grad():
            found = [self._energies(batch) for batch in self._batches()]
        return torch.cat(found).cpu() / self.divisors

    def transposed(self, values: Tensor) -> Tensor:
        """Jᵀ v, (n_weights,) or (n_weights, n_columns), for v of (n_frames,) or more columns.

        Of many columns of a small J by that, else each as the gradient of Σ v_k √w_k E_k / n_k.
        """
        if values.dim() == 1:
            return self._transposed(values)
        if self._is_small and values.shape[1] > len(self._graphs):
            return self._rows(range(len(self._graphs)), None).T @ values
        return torch.stack([self._transposed(column) for column in values.T], dim=1)

    def _transposed(self, values: Tensor) -> Tensor:
        total, start = torch.zeros(self._n_weights, dtype=torch.float64), 0
        for batch in self._batches():
            stop = start + batch.n_graphs
            factors = (values / self.divisors)[start:stop].to(self.potential.device)
            with torch.enable_grad():
                total += self._gradient((self._energies(batch) * factors).sum())
            start = stop
        return total

    def kernel(self, moved: Tensor) -> tuple[Tensor, Tensor]:
        """J Jᵀ, (n_frames, n_frames), and J · moved, (n_frames,) or (n_frames, n_columns)."""
        n = len(self._graphs)
        active = self._which()
        within = moved if active is None else moved[active]
        together = n * len(within) <= MOST_NUMBERS
        size = n if together else max(1, MOST_NUMBERS // 2 // max(1, len(within)))
        blocks = [range(start, min(start + size, n)) for start in range(0, n, size)]
        kernel = torch.empty(n, n, dtype=torch.float64)
        along = torch.empty(n, *moved.shape[1:], dtype=torch.float64)
        # While a block is held, the rows of those before it are made again.
        work, done = sum(block.stop for block in blocks), 0
        for number, block in enumerate(blocks):
            rows = self._rows(block, active)
            along[block] = rows @ within
            kernel[block.start : block.stop, block.start : block.stop] = rows @ rows.T
            done += len(block)
            self.progress(done / work)
            for other in blocks[:number]:
                part = rows @ self._rows(other, active).T
                kernel[block.start : block.stop, other.start : other.stop] = part
                kernel[other.start : other.stop, block.start : block.stop] = part.T
                done += len(other)
                self.progress(done / work)
            del rows
        return kernel, along

    def _which(self) -> Tensor | None:
        """Weights that the energies depend on; None for all where they are few."""
        return None if self._is_small else self.active()

    @property
    def _is_small(self) -> bool:
        return len(self._graphs) * self._n_weights <= min(_FEW_NUMBERS, MOST_NUMBERS)

    def active(self) -> Tensor:
        """Give the numbers of the weights that the energies depend on."""
        if self._active is None:
            # A random sum of all rows is zero only where all of them are: elements that no
            # structure has are most of the weights of a foundation model.
            generator = torch.Generator().manual_seed(0)
            random = 0.5 + torch.rand(len(self._graphs), generator=generator, dtype=torch.float64)
            self._active = self.transposed(random).nonzero()[:, 0]
        return self._active

    def all_weights(self, index: Tensor) -> Tensor:
        """Give the place among all weights, frozen ones too, of those that are not."""
        free = [torch.full((w.numel(),), w.requires_grad) for w in self.potential.parameters()]
        return torch.cat(free).nonzero()[:, 0][index]

    @property
    def numbers(self) -> list[np.ndarray]:
        """Atomic numbers of each structure."""
        return [graph.numbers.cpu().numpy() for graph in self._graphs]

    def _rows(self, block: range, active: Tensor | None) -> Tensor:
        n_weights = self._n_weights if active is None else len(active)
        rows = torch.empty(len(block), n_weights, dtype=torch.float64)
        for row, k in enumerate(block):
            with torch.enable_grad():
                gradient = self._gradient(self._energies(self._graphs[k]).sum())
            rows[row] = (gradient if active is None else gradient[active]) / self.divisors[k]
        return rows

    def _gradient(self, value: Tensor) -> Tensor:
        found = torch.autograd.grad(value, self._weights, allow_unused=True)
        parts: list[Any] = [
            torch.zeros_like(w) if g is None else g
            for g, w in zip(found, self._weights, strict=True)
        ]
        # On the CPU, where the linear algebra is done.
        return torch.cat([part.reshape(-1) for part in parts]).cpu()

    def _energies(self, batch: GraphBatch) -> Tensor:
        here = batch.to(self.potential.device, self.potential.dtype)
        return self._form(here, forces=False).energy

    def _batches(self) -> Iterator[GraphBatch]:
        for start in range(0, len(self._graphs), self._together):
            yield collate(self._graphs[start : start + self._together])
