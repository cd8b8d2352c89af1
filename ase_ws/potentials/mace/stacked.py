"""Several MACE of one architecture, evaluated side by side in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ase_ws.graphs import sum_by_graph
from ase_ws.potentials.mace.lean import LeanMACE, network
from ase_ws.potentials.mace.lean_weights import map_tensors
from ase_ws.typing import GraphBatch, Potential, Prediction


class StackedMACE:
    """Predictions of several lean MACE from one pass of stacked weights (`torch.vmap`).

    For a small structure, which is bound by the number of operations, a committee then costs
    little more than one member.

    Parameters
    ----------
    members : sequence of LeanMACE
        Of one architecture, precision and device; see `stacked`.
    """

    def __init__(self, members: Sequence[LeanMACE]):
        self.members = list(members)
        self._read_from: list[object] = []

    def __call__(self, batch: GraphBatch, *, forces: bool) -> list[Prediction]:
        """Give energies, and forces where asked, of each member."""
        first = self.members[0]
        for member in self.members:
            member.up_to_date()
        plan = first.planned(batch)
        self._stack()
        tables = map_tensors(_stack, *[m.tables(plan) for m in self.members])
        with torch.enable_grad():
            # A leaf for each member: their forces are not mixed.
            positions = batch.positions.detach().expand(len(self.members), -1, -1).clone()
            positions.requires_grad_(forces)
            edges = [first.edges(replace(batch, positions=p), plan) for p in positions]
            vectors, (_, send, receive) = torch.stack([e[0] for e in edges]), edges[0]
            energies = _side_by_side(
                self._stacked, tables, vectors, send, receive, plan.elements, plan.species
            )
            gradients: list[Tensor | None] = [None] * len(self.members)
            if forces:
                (found,) = torch.autograd.grad(energies.sum(), positions, allow_unused=True)
                gradients = list(torch.zeros_like(positions) if found is None else found)
        out = []
        for member, energy, gradient in zip(self.members, energies, gradients, strict=True):
            total = (energy.detach().double() + member.e0_of(plan))[plan.back]
            force = None if gradient is None else -gradient
            out.append(Prediction(sum_by_graph(total, batch), force, energies=total))
        return out

    def _stack(self) -> None:
        now: list[object] = [m.weights for m in self.members]
        if [id(w) for w in now] != [id(w) for w in self._read_from]:
            self._stacked = map_tensors(_stack, *now)
            self._read_from = now


def stacked(potentials: Sequence[Potential]) -> StackedMACE | None:
    """Stack potentials, or give None where they are not lean MACE of one architecture."""
    members = [p for p in potentials if isinstance(p, LeanMACE)]
    if len(members) < len(potentials):
        return None
    first = members[0]
    alike = all(
        (m.architecture, m.dtype, m.device) == (first.architecture, first.dtype, first.device)
        for m in members
    )
    if not alike or any(m.has_pair_energy or m.compiled for m in members):
        return None
    return StackedMACE(members)


def _stack(*tensors: Tensor) -> Tensor:
    """Stack floats; indices are the same for all."""
    return tensors[0] if tensors[0].dtype == torch.int64 else torch.stack(tensors)


def _side_by_side(
    weights: object,
    tables: object,
    vectors: Tensor,
    send: Tensor,
    receive: Tensor,
    elements: Tensor,
    species: list[tuple[int, int, int]],
) -> Tensor:
    """Evaluate `network` for every member: (n_members, n_atoms)."""
    stacks: list[Tensor] = []

    def collect(tensor: Tensor) -> Tensor:
        if tensor.dtype != torch.int64:
            stacks.append(tensor)
        return tensor

    map_tensors(collect, [weights, tables])

    def one(vectors: Tensor, *mine: Tensor) -> Tensor:
        rest = iter(mine)

        def give(tensor: Tensor) -> Tensor:
            return tensor if tensor.dtype == torch.int64 else next(rest)

        w, t = map_tensors(give, [weights, tables])
        return network(w, vectors, send, receive, elements, species, t)[0]

    return torch.vmap(one)(vectors, *stacks)
