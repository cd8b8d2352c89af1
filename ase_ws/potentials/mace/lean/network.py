"""The lean evaluation: messages, products and readouts of all layers as dense products.

Every atom has its neighbours in a row of slots, so that the sum over neighbours is a product of
matrices, (components, slots) times (slots, channels), and no message of a single edge is ever
formed. In the first layer all atoms of an element send the same: there the last layer of the radial
network acts after that sum, on atoms and not on edges.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ase_ws.potentials.mace.lean.edges import Edges, apply, harmonics
from ase_ws.potentials.mace.lean.plan import Slots, Species
from ase_ws.potentials.mace.lean.weights import (
    AllPaths,
    ElementTable,
    Gate,
    Layer,
    LeanWeights,
    Paths,
    Readout,
    Tables,
)


def network(
    w: LeanWeights,
    start: Tensor,
    vectors: Tensor,
    slots: Slots,
    elements: Tensor,
    species: Species,
    tables: Tables,
) -> tuple[Tensor, list[Tensor]]:
    """Interaction energy of each atom, and the features of each layer, (M, n, c).

    Parameters
    ----------
    w : LeanWeights
    start : Tensor, (n_atoms, c)
        Features before the first layer; atoms of one kind have the same.
    vectors : Tensor, (n_slots, 3)
        Of the edges in the slots, Å.
    slots : Slots
    elements : Tensor, (n_atoms,)
        Sorted.
    species : list of (element, start, stop)
    tables : list of list of ElementTable
    """
    n_atoms = len(elements)
    length = vectors.norm(dim=1, keepdim=True)
    directions = harmonics(vectors / length, w.harmonics)
    edges = Edges(length, directions, slots, elements, w.basis)
    radial = edges.radial()
    h = start[None]
    energies = h.new_zeros(n_atoms, 1)
    kept = []
    for number, (layer, readout, table) in enumerate(
        zip(w.layers, w.readouts, tables, strict=True)
    ):
        hidden = edges.hidden(radial, layer.radial, h, on_radial=w.basis.on_radial)
        hidden = hidden if layer.radial.sides is not None else edges.spread(hidden)
        x = torch.bmm(h, layer.up)
        message = (
            _first_messages(hidden, edges, layer.paths, species, table)
            if number == 0 and len(species) <= _FEW_KINDS
            else _few_messages(x, hidden, edges, layer.together)
            if len(slots.send) <= _FEW_SLOTS
            else _messages(x, hidden, edges, layer.paths)
        )
        if layer.density is not None:
            total = edges.density(radial, layer.density, h)
            message = [part / total for part in message]
        if layer.gate is not None:
            message = _gated(message, x, layer.gate)
        h = _product(layer, h, message, species, table)
        if readout is not None:
            energies = energies + _read_out(h[0], readout)
        kept.append(h)
    return w.scale * energies[:, 0] + w.shift, kept


#: Up to so many slots the number of operations counts, and not their size.
_FEW_SLOTS = 600
#: With more kinds of atoms the sum over each of them costs more than it saves: some 16·64 products
#: for each edge and kind, where the last layer of a radial network has 4·64 for each channel.
_FEW_KINDS = 10


def _first_messages(
    hidden: Tensor,
    edges: Edges,
    paths: list[Paths],
    species: Species,
    table: list[ElementTable],
) -> list[Tensor]:
    """Messages for each l, (n_atoms, 2l+1, c), where the sender's element says all."""
    n, n_hidden = len(edges.elements), hidden.shape[1]
    y = torch.cat([edges.harmonics @ p.coupling for p in paths], dim=1)
    rows = y.shape[1]
    if len(species) > 1:
        send = edges.slots.send
        starts = send.new_tensor([start for _, start, _ in species[1:]])
        which = torch.bucketize(send, starts, right=True)
        y = torch.nn.functional.one_hot(which, len(species)).to(y.dtype)[:, :, None] * y[:, None]
    summed = edges.summed(y.flatten(1), lambda a, b: torch.bmm(a.transpose(1, 2), b), hidden)
    summed = summed.view(n, len(species), rows, n_hidden).transpose(1, 2)
    out, start = [], 0
    for number, p in enumerate(paths):
        weight = torch.cat([element.sender[number] for element in table])
        part = summed[:, start : start + p.n_m].reshape(n, p.n_m, -1)
        out.append(part @ weight)
        start += p.n_m
    return out


def _few_messages(x: Tensor, hidden: Tensor, edges: Edges, all_: AllPaths) -> list[Tensor]:
    """Give the same as `_messages`, in fewer operations, each of them on every edge and path."""
    n_k, n, channels = x.shape
    sent = edges.sender(x.transpose(0, 1).reshape(n, -1)).view(-1, n_k, channels)
    gates = (hidden @ all_.last).view(len(sent), -1, channels).index_select(1, all_.path)
    coupled = (edges.harmonics @ all_.coupling).view(len(sent), -1, n_k)
    each = (torch.bmm(coupled, sent) if n_k > 1 else coupled * sent) * gates
    summed = edges.summed(each, lambda block: block.sum(dim=1))
    out, start = [], 0
    for degree, mix in enumerate(all_.mix):
        stop = start + (2 * degree + 1) * (len(mix) // channels)
        out.append(summed[:, start:stop].reshape(n, 2 * degree + 1, -1) @ mix)
        start = stop
    return out


def _messages(x: Tensor, hidden: Tensor, edges: Edges, paths: list[Paths]) -> list[Tensor]:
    """Sum over neighbours and mix: for each l, (n_atoms, 2l+1, c); x is (K, n_atoms, c)."""
    n_k, n, channels = x.shape
    sent = edges.sender(x.transpose(0, 1).reshape(n, -1)).view(1, -1, n_k, channels)
    out: list[Tensor | None] = [None] * (1 + max(p.degree for p in paths))
    for p in paths:
        n_p = len(p.last)
        gates = torch.matmul(hidden, p.last)[:, :, None]
        each = gates * sent[:, :, p.start : p.start + p.n_k]
        coupled = (edges.harmonics @ p.coupling).view(-1, n_p, p.n_m, p.n_k)
        mixed = torch.bmm(edges.coupled(coupled, each), p.mix)
        part = (mixed[0] if n_p == 1 else mixed.sum(dim=0)).view(n, p.n_m, -1)
        before = out[p.degree]
        out[p.degree] = part if before is None else before + part
    return [part for part in out if part is not None]


def _gated(message: list[Tensor], x: Tensor, gate: Gate) -> list[Tensor]:
    """Add the atom's own features, and apply the non-linearity and the linear map after it."""
    own = x.transpose(0, 1)
    start, full = 0, []
    for degree, part in enumerate(message):
        stop = start + 2 * degree + 1
        mine = gate.residual[degree] if degree < len(gate.residual) else None
        full.append(part if mine is None else part + own[:, start:stop] @ mine)
        start = stop
    channels = gate.after[0].shape[0]
    scalars = gate.scalars * torch.nn.functional.silu(full[0][:, :, :channels])
    gates = (gate.gates * torch.sigmoid(full[0][:, :, channels:])).split(channels, dim=2)
    gated = [scalars, *(g * part for g, part in zip(gates, full[1:], strict=True))]
    return [part @ after for part, after in zip(gated, gate.after, strict=True)]


def _product(
    layer: Layer,
    h: Tensor,
    message: list[Tensor],
    species: Species,
    table: list[ElementTable],
) -> Tensor:
    """Apply the product basis of every element and the linear map; add what skips the layer."""
    x = torch.cat(message, dim=1).transpose(0, 1)
    pieces = [x[:, start:stop] for _, start, stop in species]
    if layer.skips_message:
        pieces = [torch.bmm(part, one.skip) for part, one in zip(pieces, table, strict=True)]
    if layer.alike and len(pieces) > 1:
        pieces = [_joined(pieces) if layer.skips_message else x]
    bases = [element.basis for element in table][: len(pieces)]
    outs = [
        _contract(part, basis, layer.factors) for part, basis in zip(pieces, bases, strict=True)
    ]
    out = torch.bmm(_joined(outs), layer.linear)
    if not layer.skips:
        return out
    past = _joined(
        [
            torch.bmm(h[: len(element.skip), start:stop], element.skip)
            for (_, start, stop), element in zip(species, table, strict=True)
        ]
    )
    if len(past) == len(out):
        return out + past
    return torch.cat([out[: len(past)] + past, out[len(past) :]])


def _joined(parts: list[Tensor]) -> Tensor:
    """Put the atoms of all elements together again, (M, n_atoms, c)."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


#: From so many atoms of an element on the products are laid out atom by atom: measured, 1.5 to 4.5
#: times sooner with 72 atoms, and half as soon with 9.
_MANY = 32


def _contract(x: Tensor, basis: Tensor, factors: Tensor) -> Tensor:
    """Σ H x̃ .. x (see `product_basis`) for atoms of one element: (K, n, c) to (M, n, c)."""
    k, n, channels = x.shape
    if n < _MANY:
        x = x.permute(2, 1, 0)
        half = torch.bmm(_products(x, factors, 2), basis).view(channels, n, k, -1)
        return (half * x[..., None]).sum(dim=2).permute(2, 1, 0)
    x = x.permute(2, 0, 1)
    half = torch.bmm(basis.transpose(1, 2), _products(x, factors, 1)).view(channels, k, -1, n)
    return (half * x[:, :, None]).sum(dim=1).permute(1, 2, 0)


def _products(x: Tensor, factors: Tensor, dim: int) -> Tensor:
    """All products of x̃ = (1, x), whose components are along `dim`."""
    one = torch.ones_like(x.narrow(dim, 0, 1))
    if not len(factors):
        return one
    several = torch.cat([one, x], dim=dim)
    if len(factors) == 1:
        return several
    out = several.index_select(dim, factors[0])
    for row in factors[1:]:
        out = out * several.index_select(dim, row)
    return out


def _read_out(h: Tensor, readout: Readout) -> Tensor:
    *inner, last = readout.layers
    for dense in inner:
        h = apply(h, dense)
        h = h if readout.activation is None else readout.activation(h)
    return apply(h, last)
