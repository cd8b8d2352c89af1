"""What stays the same while the atoms move: elements and edges of a batch, in a handy order."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ase_ws.typing import GraphBatch

#: Index, first atom and end of each element that is there, atoms sorted by element.
Species = list[tuple[int, int, int]]


@dataclass(frozen=True)
class Plan:
    """Order of the atoms and edges of a batch.

    Attributes
    ----------
    key : tuple of Tensor
        The batch's own tensors; a batch that holds these very tensors has this plan.
    order, back : Tensor, (n_atoms,)
        Atoms sorted by element, and the way back.
    species : list of (element, start, stop)
    elements : Tensor, (n_atoms,)
        Sorted.
    send, receive : Tensor, (n_edges,)
        In the sorted order.
    shift : Tensor, (n_edges, 3), or None
        Where periodic boundaries are crossed.
    n_padding : int
    far : Tensor, (n_edges, 3), or None
        Takes the padding beyond the cutoff.
    dtype : torch.dtype
    """

    key: tuple[Tensor, ...]
    order: Tensor
    back: Tensor
    species: Species
    elements: Tensor
    send: Tensor
    receive: Tensor
    shift: Tensor | None
    n_padding: int
    far: Tensor | None
    dtype: torch.dtype

    def fits(self, batch: GraphBatch) -> bool:
        """Whether elements and edges of the batch are those of this plan."""
        return all(a is b for a, b in zip(self.key, _key(batch), strict=True))

    def vectors(self, batch: GraphBatch) -> Tensor:
        """Vectors of the edges, (n_edges, 3), Å."""
        ordered = batch.positions.to(self.dtype)[self.order]
        vectors = ordered[self.receive] - ordered[self.send]
        if self.shift is not None:
            owner = batch.batch[batch.edge_index[0]]
            cell = batch.cell.to(self.dtype)
            shift = torch.einsum("ei,eij->ej", self.shift, cell[owner])
            vectors = vectors + torch.nn.functional.pad(shift, (0, 0, 0, self.n_padding))
        return vectors if self.far is None else vectors + self.far


def make_plan(
    batch: GraphBatch, elements: Tensor, *, dtype: torch.dtype, n_padding: int, beyond: float
) -> Plan:
    """Plan a batch whose atoms have these `elements`, (n_atoms,), as indices.

    `n_padding` edges are added from an atom to itself, as if it were `beyond` (Å, further than
    the cutoff) away: they add exactly nothing.
    """
    order = torch.argsort(elements, stable=True)
    back = torch.argsort(order)
    species, start = [], 0
    for element, count in enumerate(torch.bincount(elements).tolist()):
        if count:
            species.append((element, start, start + count))
        start += count
    send, receive = back[batch.edge_index]
    far = None
    if n_padding:
        send, receive = (torch.nn.functional.pad(e, (0, n_padding)) for e in (send, receive))
        far = torch.zeros(len(send), 3, dtype=dtype, device=send.device)
        far[-n_padding:, 0] = beyond
    return Plan(
        key=_key(batch),
        order=order,
        back=back,
        species=species,
        elements=elements[order],
        send=send,
        receive=receive,
        shift=batch.shifts.to(dtype) if bool((batch.shifts != 0).any()) else None,
        n_padding=n_padding,
        far=far,
        dtype=dtype,
    )


def _key(batch: GraphBatch) -> tuple[Tensor, ...]:
    return batch.numbers, batch.edge_index, batch.shifts
