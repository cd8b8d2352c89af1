"""How each lean weight follows from the network's own, so that gradients flow back to those.

What is read (`read.tree`) is made of the network's weights by taking one of them and multiplying it
with a constant, entry by entry. So reading with weights that are numbered tells which one stands
where, whatever the layout; reading with random ones proves it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ase_ws.potentials.mace.lean.probe import UnsupportedError
from ase_ws.potentials.mace.lean.weights import is_weight, map_leaves


@dataclass(frozen=True, eq=False)
class Copies:
    """A lean weight: constant + factor · θ[index], entry by entry.

    Attributes
    ----------
    parameters : tuple of int
        Of the network's, in its order: θ is those, flat, one after the other.
    index : Tensor, int64, or None
        None: θ in order, from `start` on.
    start : int
    factor, constant : Tensor
        () where they are the same for all entries.
    shape : tuple of int
    """

    parameters: tuple[int, ...]
    index: Tensor | None
    start: int
    factor: Tensor
    constant: Tensor
    shape: tuple[int, ...]

    def of(self, weights: Sequence[Tensor]) -> Tensor:
        """Give the lean weight."""
        parts = [weights[k].reshape(-1) for k in self.parameters]
        theta = parts[0] if len(parts) == 1 else torch.cat(parts)
        if self.index is None:
            size = torch.Size(self.shape).numel()
            taken = theta[self.start : self.start + size]
        else:
            taken = theta.index_select(0, self.index)
        return self.constant + self.factor * taken.view(self.shape)

    def to(self, device: torch.device, dtype: torch.dtype) -> Copies:
        """Move it; the numbers take the precision."""
        index = None if self.index is None else self.index.to(device)
        return replace(
            self,
            index=index,
            factor=self.factor.to(device, dtype),
            constant=self.constant.to(device, dtype),
        )


class Followed:
    """A network whose lean weights are followed back to its own.

    Parameters
    ----------
    network : torch.nn.Module
        Stays as it is.
    """

    def __init__(self, network: torch.nn.Module):
        self._net: Any = copy.deepcopy(network).to("cpu", torch.float64).requires_grad_(False)
        self._weights = list(self._net.parameters())
        sizes = torch.tensor([0] + [w.numel() for w in self._weights])
        self._ends = torch.cumsum(sizes, 0)

    def copies(self, read: Callable[[Any], Any]) -> Any:
        """Give what `read(network)` reads, with `Copies` in the place of all that has weights.

        Raises
        ------
        UserError, UnsupportedError
            Of `read`; something is no copy of a weight.
        """
        total = int(self._ends[-1])
        generator = torch.Generator().manual_seed(0)
        random = 0.5 + torch.rand(total, generator=generator, dtype=torch.float64)
        numbers = torch.arange(1, total + 1, dtype=torch.float64)
        values = (torch.zeros(total, dtype=torch.float64), numbers.new_ones(total), numbers, random)
        trees = [self._read(read, value) for value in values]
        return map_leaves(lambda *same: self._copies(random, *same), *trees)

    def _read(self, read: Callable[[Any], Any], value: Tensor) -> Any:
        with torch.no_grad():
            parts = value.split([w.numel() for w in self._weights])
            for weight, part in zip(self._weights, parts, strict=True):
                weight.copy_(part.view(weight.shape))
            # What is read may be a view of the weights, which are changed again.
            return map_leaves(lambda x: x.clone() if is_weight(x) else x, read(self._net))

    def _copies(self, random: Tensor, zero: Any, one: Any, numbered: Any, proof: Any) -> Any:
        if not is_weight(zero):
            return zero
        factor = one - zero
        if not bool(factor.any()):
            return zero
        here = factor != 0
        which = torch.where(here, (numbered - zero) / torch.where(here, factor, 1.0), 1.0)
        which = (which.round().long() - 1).flatten()
        made = zero + factor * random[which.clamp(0, len(random) - 1)].view(factor.shape)
        if not torch.allclose(made, proof, rtol=1e-9, atol=1e-12):
            raise UnsupportedError("a weight that is made of several")
        used = here.flatten()
        owner = torch.bucketize(which, self._ends[1:], right=True)
        parameters = owner[used].unique()
        starts, offset = torch.zeros(len(self._weights), dtype=torch.int64), 0
        for k in parameters.tolist():
            starts[k], offset = offset, offset + self._weights[k].numel()
        index = torch.where(used, which - self._ends[owner] + starts[owner], 0)
        first = int(index[0])
        in_order = torch.equal(index, torch.arange(first, first + len(index)))
        return Copies(
            tuple(parameters.tolist()),
            None if in_order else index,
            first if in_order else 0,
            _short(factor),
            _short(zero),
            tuple(factor.shape),
        )


def _short(x: Tensor) -> Tensor:
    """One number for all where they are the same, up to rounding."""
    first = x.flatten()[0]
    return first.clone() if torch.allclose(x, first, rtol=1e-13, atol=0.0) else x
