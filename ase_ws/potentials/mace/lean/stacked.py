"""Several MACE of one architecture, evaluated side by side in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ase_ws.graphs import sum_by_graph
from ase_ws.potentials.mace.lean.network import network
from ase_ws.potentials.mace.lean.weights import is_weight, map_leaves
from ase_ws.typing import GraphBatch, Prediction

if TYPE_CHECKING:
    from ase_ws.potentials.mace.lean.model import LeanMACE


#: Slots of neighbours up to which one pass is faster than one a member: measured on 32 to 128
#: channels 1.0 to 1.4 times at 70 to 130 slots (ethanol, benzene), 0.5 to 1.2 at 400 to 2,000,
#: 0.6 to 0.9 beyond.
MOST_SLOTS = 150


class StackedMACE:
    """Predictions of several lean MACE from one pass of stacked weights (`torch.vmap`).

    For a small structure, which is bound by the number of operations, a committee then costs
    little more than one member; a large one is given to one member after the other.

    Parameters
    ----------
    members : sequence of LeanMACE
        Of one architecture, precision and device; see `LeanMACE.side_by_side`.
    """

    def __init__(self, members: Sequence[LeanMACE]):
        self.members = list(members)
        self._read_from: list[object] = []

    def __call__(self, batch: GraphBatch, *, forces: bool) -> list[Prediction]:
        """Give energies, and forces where asked, of each member."""
        first = self.members[0]
        for member in self.members:
            member.up_to_date()
        self._stack()
        plan = first.planned(batch)
        if len(plan.slots.send) > MOST_SLOTS:
            with torch.no_grad():
                return [member(batch, forces=forces) for member in self.members]
        starts = [m.start(batch, plan) for m in self.members]
        tables = map_leaves(_stacked, *[start.tables for start in starts])
        features = torch.stack([start.features for start in starts])
        evaluate = torch.vmap(network, in_dims=(self._dims, 0, 0, None, None, None, 0))
        with torch.enable_grad():
            # A leaf for each member: their forces are not mixed.
            positions = batch.positions.detach().expand(len(self.members), -1, -1).clone()
            positions.requires_grad_(forces)
            edges = [first.edges(replace(batch, positions=p), plan) for p in positions]
            vectors, slots = torch.stack([e[0] for e in edges]), edges[0][1]
            energies, _ = evaluate(
                self._weights, features, vectors, slots, plan.elements, plan.species, tables
            )
            gradients: list[Tensor | None] = [None] * len(self.members)
            if forces:
                (found,) = torch.autograd.grad(energies.sum(), positions, allow_unused=True)
                gradients = list(torch.zeros_like(positions) if found is None else found)
        out = []
        for start, energy, gradient in zip(starts, energies, gradients, strict=True):
            total = (energy.detach().double() + start.e0)[plan.back]
            force = None if gradient is None else -gradient
            out.append(Prediction(sum_by_graph(total, batch), force, energies=total))
        return out

    def _stack(self) -> None:
        """Stack the weights again if a member has read its own again."""
        now = [m.weights for m in self.members]
        if [id(w) for w in now] != [id(w) for w in self._read_from]:
            self._weights = map_leaves(_stacked, *now)
            self._dims = map_leaves(lambda leaf: 0 if is_weight(leaf) else None, now[0])
            self._read_from = list(now)


def _stacked(*same: Any) -> Any:
    """Stack weights; indices, numbers and functions are the same for all."""
    return torch.stack(same) if is_weight(same[0]) else same[0]
