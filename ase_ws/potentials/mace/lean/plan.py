"""What stays the same while the atoms move: elements and edges of a batch, in a handy order."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ase_ws.typing import GraphBatch

#: Element, first atom and end of each kind of atoms that is there, atoms sorted by kind.
Species = list[tuple[int, int, int]]


#: Slots without an edge that are put up with, as a part of the edges.
_EMPTY = 0.5
#: By how much the numbers of neighbours in a block may differ, else.
_ALIKE = 1.5


class Slots(NamedTuple):
    """The neighbours of each atom in a row of slots; rows of equal length make a block.

    Attributes
    ----------
    edge : Tensor, (n_slots,)
        Which edge stands there; the number of edges where there is none.
    send, receive : Tensor, (n_slots,)
        Its ends.
    blocks : list of (n_atoms, width)
        One, unless the numbers of neighbours differ much.
    back : Tensor, (n_atoms,), or None
        From the order of the blocks to that of the atoms, where it is another.
    pair, first : Tensor, (n_slots,) and (n_pairs,), or None
        Slots of one number are as long as each other, such as both directions of an edge; and a
        slot for each number.
    """

    edge: Tensor
    send: Tensor
    receive: Tensor
    blocks: list[tuple[int, int]]
    back: Tensor | None
    pair: Tensor | None = None
    first: Tensor | None = None


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
        In the sorted order of the atoms; edges sorted by receiver.
    owner : Tensor, (n_edges,)
        Structure of each edge.
    shift : Tensor, (n_edges, 3), or None
        Where periodic boundaries are crossed.
    slots : Slots
        Of all edges.
    pair : Tensor, (n_edges,), or None
        Both directions of an edge have one number.
    leads : Tensor, (n_edges,), bool, or None
        The first edge of each number.
    far : Tensor, (1, 3)
        A vector beyond the cutoff, for slots without an edge.
    dtype : torch.dtype
    """

    key: tuple[Tensor | None, ...]
    order: Tensor
    back: Tensor
    species: Species
    elements: Tensor
    send: Tensor
    receive: Tensor
    owner: Tensor
    shift: Tensor | None
    slots: Slots
    pair: Tensor | None
    leads: Tensor | None
    far: Tensor
    dtype: torch.dtype

    def fits(self, batch: GraphBatch) -> bool:
        """Whether elements and edges of the batch are those of this plan."""
        return all(a is b for a, b in zip(self.key, _key(batch), strict=True))

    def vectors(self, batch: GraphBatch) -> Tensor:
        """Vectors of the edges, (n_edges, 3), Å."""
        ordered = batch.positions.to(self.dtype).index_select(0, self.order)
        vectors = ordered.index_select(0, self.receive) - ordered.index_select(0, self.send)
        if self.shift is not None:
            cell = batch.cell.to(self.dtype)
            vectors = vectors + torch.einsum("ei,eij->ej", self.shift, cell[self.owner])
        return vectors

    def within(self, vectors: Tensor, cutoff: float) -> Slots:
        """Give the slots of those edges that are shorter than the cutoff."""
        square = vectors.detach().square().sum(dim=1)
        # NaN and infinity stay: they are to be seen in what comes out.
        near = (~((square >= cutoff**2) & (square < torch.inf))).nonzero()[:, 0]
        found = slots_of(self.send[near], self.receive[near], len(self.order))
        nothing = near.new_full((1,), len(self.send))
        found = found._replace(edge=torch.cat([near, nothing])[found.edge])
        return found if self.pair is None else self._paired(found)

    def _paired(self, slots: Slots) -> Slots:
        """Give each slot the number of its pair; empty ones have a number of their own."""
        assert self.pair is not None
        assert self.leads is not None
        n_edges, nobody = len(self.send), self.pair.new_full((1,), len(self.send))
        # An edge and its reverse are of exactly the same length: both are here, or none.
        leading = torch.cat([self.leads, self.leads.new_zeros(1)])[slots.edge].nonzero()[:, 0]
        empty = (slots.edge == n_edges).nonzero()[:1, 0]
        first = torch.cat([leading, empty])
        named = torch.cat([self.pair, nobody])[slots.edge]
        number = named.new_zeros(n_edges + 1)
        number[named[first]] = torch.arange(len(first), device=named.device)
        return slots._replace(pair=number[named], first=first)


def slots_of(send: Tensor, receive: Tensor, n_atoms: int, *, width: int = 0) -> Slots:
    """Give each edge a slot at its receiver; edges are sorted by receiver.

    With a `width` there is one block, with at least so many slots for each atom.
    """
    counts = torch.bincount(receive, minlength=n_atoms)
    widest = max(1, width, int(counts.max()) if n_atoms else 0)
    atoms, back = torch.arange(n_atoms, device=send.device), None
    blocks = [(n_atoms, widest)]
    if not width and n_atoms * widest > (1.0 + _EMPTY) * (len(send) + n_atoms):
        few = torch.log(widest / counts.clamp(min=1)) / math.log(_ALIKE)
        atoms = torch.argsort(few.long(), stable=True)
        sizes = [size for size in torch.bincount(few.long()).tolist() if size]
        blocks = [(len(some), max(1, int(counts[some].max()))) for some in atoms.split(sizes)]
        back = torch.argsort(atoms)
    widths = torch.cat([torch.full((n,), w, device=send.device) for n, w in blocks])
    starts = torch.empty_like(atoms)
    starts[atoms] = torch.cumsum(widths, 0) - widths
    first = torch.cumsum(counts, 0) - counts
    edges = torch.arange(len(send), device=send.device)
    place = starts[receive] + edges - first[receive]
    edge = torch.full((int(widths.sum()),), len(send), device=send.device)
    edge[place] = edges
    receiver = atoms.repeat_interleave(widths)
    # To an empty slot the atom sends itself, times zero: the NaN of another would spread.
    sender = receiver.clone()
    sender[place] = send
    return Slots(edge, sender, receiver, blocks, back)


def _pairs(send: Tensor, receive: Tensor, shift: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """Give both directions of an edge one number below that of edges, and tell the first of each.

    None where the numbers would be too large.
    """
    whole = (torch.zeros(len(send), 3) if shift is None else shift).to(send)
    most, n = (int(whole.abs().max()), int(send.max()) + 1) if len(send) else (0, 1)
    base = 2 * most + 1
    if n * n * base**3 > 2**62:
        return None
    code = ((whole[:, 0] + most) * base + whole[:, 1] + most) * base + whole[:, 2] + most
    back = base**3 - 1 - code
    code = torch.where(send < receive, code, torch.where(send > receive, back, code.max(back)))
    key = (torch.minimum(send, receive) * n + torch.maximum(send, receive)) * base**3 + code
    _, pair = torch.unique(key, return_inverse=True)
    edges = torch.arange(len(send), device=send.device)
    first = torch.full_like(edges, len(send)).scatter_reduce(0, pair, edges, "amin")
    return pair, first[pair] == edges


def kinds_of(batch: GraphBatch, elements: Tensor) -> Tensor:
    """Give each atom a number for its element, and the charge and spin of its structure."""
    if batch.state is None:
        return elements
    own = batch.state[batch.batch]
    rows = torch.cat([elements[:, None].to(own), own], dim=1)
    return torch.unique(rows, dim=0, return_inverse=True)[1]


def make_plan(
    batch: GraphBatch,
    elements: Tensor,
    kinds: Tensor,
    *,
    dtype: torch.dtype,
    width: int = 0,
    beyond: float,
    paired: bool = False,
) -> Plan:
    """Plan a batch whose atoms have these `elements`, as indices, and `kinds`, (n_atoms,).

    Kinds that differ in their elements come in the order of these.

    `width` is as in `slots_of`. Slots without a neighbour are as if it were `beyond` (Å, further
    than the cutoff) away: they add exactly nothing. `paired`: for `Slots.pair`.
    """
    order = torch.argsort(kinds, stable=True)
    back = torch.argsort(order)
    species, start = [], 0
    for count in torch.bincount(kinds).tolist():
        if count:
            species.append((int(elements[order[start]]), start, start + count))
        start += count
    by_receiver = torch.argsort(back[batch.edge_index[1]], stable=True)
    send, receive = back[batch.edge_index[:, by_receiver]]
    far = torch.zeros(1, 3, dtype=dtype, device=send.device)
    far[0, 0] = beyond
    crossing = bool((batch.shifts != 0).any())
    shift = batch.shifts.to(dtype)[by_receiver] if crossing else None
    pair, leads = (_pairs(send, receive, shift) if paired else None) or (None, None)
    return Plan(
        key=_key(batch),
        order=order,
        back=back,
        species=species,
        elements=elements[order],
        send=send,
        receive=receive,
        owner=batch.batch[batch.edge_index[0, by_receiver]],
        shift=shift,
        slots=slots_of(send, receive, len(order), width=width),
        pair=pair,
        leads=leads,
        far=far,
        dtype=dtype,
    )


def roomy(width: int) -> int:
    """Give a width with headroom for the fluctuations of MD."""
    return 4 * math.ceil(1.15 * width / 4)


def _key(batch: GraphBatch) -> tuple[Tensor | None, ...]:
    return batch.numbers, batch.edge_index, batch.shifts, batch.state
