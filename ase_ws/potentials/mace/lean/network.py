"""The lean evaluation: messages, products and readouts of all layers as dense products.

Every atom has its neighbours in a row of slots, so that the sum over neighbours is a product of
matrices, (components, slots) times (slots, channels), and no message of a single edge is ever
formed. In the first layer all atoms of an element send the same: there the last layer of the radial
network acts after that sum, on atoms and not on edges.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ase_ws.potentials.mace.lean.plan import Slots, Species
from ase_ws.potentials.mace.lean.weights import (
    Basis,
    Dense,
    Density,
    ElementTable,
    Gate,
    Layer,
    LeanWeights,
    Paths,
    Radial,
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
    harmonics = _harmonics(vectors / length, w.harmonics)
    edges = _Edges(length, harmonics, slots, elements, w.basis)
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


#: With more kinds of atoms the sum over each of them costs more than it saves: some 16·64 products
#: for each edge and kind, where the last layer of a radial network has 4·64 for each channel.
_FEW_KINDS = 10


class _Edges:
    """The edges in their slots, (n_slots, ...), and what depends on their lengths alone.

    The latter is the same for both directions of an edge: where the slots have numbers, it is
    computed for each number, (n_pairs, ...), unless a radial network looks at sender and receiver.
    """

    def __init__(
        self, length: Tensor, harmonics: Tensor, slots: Slots, elements: Tensor, basis: Basis
    ):
        self.harmonics, self.slots, self.elements, self.basis = harmonics, slots, elements, basis
        ends = slots.send, slots.receive
        if slots.first is not None:
            length = length.index_select(0, slots.first)
            ends = slots.send[slots.first], slots.receive[slots.first]
        self.length, self.ends = length, ends
        self.cutoff = _envelope(length / basis.r_max, basis.p)

    def radial(self) -> Tensor:
        """Radial functions, (n_pairs, n_basis)."""
        length, basis = self.length, self.basis
        if basis.transform is not None:
            radii = basis.radii[self.elements][:, None]
            send, receive = (radii.index_select(0, end) for end in self.ends)
            length = basis.transform(length, send, receive, basis.constants)
        out = basis.function(length, basis.weights)
        return out * self.cutoff if basis.on_radial else out

    def hidden(self, x: Tensor, radial: Radial, h: Tensor, *, on_radial: bool) -> Tensor:
        """Last hidden layer of a radial network; zero where there is no edge.

        (n_pairs, n_hidden), or (n_slots, n_hidden) where it looks at both ends.
        """
        for number, dense in enumerate(radial.layers):
            x = _dense(x, dense)
            if number == 0 and radial.sides is not None:
                x = self.spread(x) + self._sides(radial, h)
            x = radial.activation(_normalised(x, dense))
        if radial.biased:
            x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        return self.ended(x, radial, on_radial=on_radial)

    def ended(self, x: Tensor, radial: Radial, *, on_radial: bool) -> Tensor:
        """Let it end at the cutoff, where the radial functions do not see to that."""
        if on_radial and not radial.biased and radial.sides is None:
            return x
        # A network with biases is not zero where its input is.
        end = (self.length < self.basis.r_max).to(x.dtype) if on_radial else self.cutoff
        return x * (end if radial.sides is None else self.spread(end))

    def density(self, x: Tensor, density: Density, h: Tensor) -> Tensor:
        """Give α + β Σ tanh(f²) for each atom, (n_atoms, 1, 1)."""
        hidden = self.hidden(x, density.radial, h, on_radial=True)
        each = torch.tanh((hidden @ density.last) ** 2)
        each = self.ended(each, density.radial, on_radial=self.basis.on_radial)
        each = each if density.radial.sides is not None else self.spread(each)
        total = self.summed(each, lambda block: block.sum(dim=1, keepdim=True))
        return total * density.beta + density.alpha

    def spread(self, x: Tensor) -> Tensor:
        """From pairs to slots."""
        return x if self.slots.pair is None else x.index_select(0, self.slots.pair)

    def sender(self, x: Tensor) -> Tensor:
        """Rows of the senders."""
        return x.index_select(0, self.slots.send)

    def receiver(self, x: Tensor) -> Tensor:
        """Rows of the receivers."""
        return x.index_select(0, self.slots.receive)

    def summed(self, x: Tensor, over: Callable[..., Tensor], *others: Tensor) -> Tensor:
        """Apply to each block of slots, (n_atoms, width, ...), what gives a row for each atom."""
        start, out = 0, []
        for n, width in self.slots.blocks:
            stop = start + n * width
            parts = [y[start:stop].view(n, width, *y.shape[1:]) for y in (x, *others)]
            out.append(over(*parts))
            start = stop
        whole = out[0] if len(out) == 1 else torch.cat(out)
        return whole if self.slots.back is None else whole.index_select(0, self.slots.back)

    def coupled(self, coupling: Tensor, sent: Tensor) -> Tensor:
        """Sum over neighbours and components k: (n_slots, n_p, n_m, n_k), (n_p, n_slots, n_k, c).

        Returns
        -------
        Tensor, (n_p, n_atoms · n_m, c)
        """
        n_p, _, n_k, channels = sent.shape
        n_m, start, out = coupling.shape[2], 0, []
        for n, width in self.slots.blocks:
            stop = start + n * width
            left = coupling[start:stop].view(n, width, n_p, n_m, n_k).permute(2, 0, 3, 1, 4)
            left = left.reshape(n_p * n, n_m, width * n_k)
            right = sent[:, start:stop].reshape(n_p * n, width * n_k, channels)
            out.append(torch.bmm(left, right).view(n_p, n, n_m * channels))
            start = stop
        whole = out[0] if len(out) == 1 else torch.cat(out, dim=1)
        if self.slots.back is not None:
            whole = whole.index_select(1, self.slots.back)
        return whole.view(n_p, -1, channels)

    def _sides(self, radial: Radial, h: Tensor) -> Tensor:
        sides = radial.sides
        assert sides is not None
        if sides.by_element:
            send, receive = sides.sender[self.elements], sides.receiver[self.elements]
        else:
            send, receive = h[0] @ sides.sender, h[0] @ sides.receiver
        return self.sender(send) + self.receiver(receive)


def _first_messages(
    hidden: Tensor,
    edges: _Edges,
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


def _messages(x: Tensor, hidden: Tensor, edges: _Edges, paths: list[Paths]) -> list[Tensor]:
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
        h = _dense(h, dense)
        h = h if readout.activation is None else readout.activation(h)
    return _dense(h, last)


def _dense(x: Tensor, dense: Dense) -> Tensor:
    x = x @ dense.weight
    return x if dense.bias is None else x + dense.bias


def _normalised(x: Tensor, dense: Dense) -> Tensor:
    if dense.norm is None:
        return x
    return torch.nn.functional.layer_norm(x, x.shape[-1:], *dense.norm)


def _harmonics(u: Tensor, maps: list[Tensor]) -> Tensor:
    """Spherical harmonics of directions, (n, (l + 1)²): each degree from the one before."""
    out = [maps[0].expand(len(u), 1)]
    for degree, onwards in enumerate(maps[1:], 1):
        products = u if degree == 1 else (out[-1][:, :, None] * u[:, None, :]).flatten(1)
        out.append(products @ onwards)
    return torch.cat(out, dim=1)


def _envelope(x: Tensor, p: int) -> Tensor:
    """Upstream's polynomial cutoff of x = r/r_max: 1 at 0, 0 from 1 on."""
    a, b, c = (p + 1.0) * (p + 2.0) / 2.0, p * (p + 2.0), p * (p + 1.0) / 2
    return (1.0 - x**p * (a - x * (b - c * x))) * (x < 1)


def bessel(x: Tensor, weights: Tensor) -> Tensor:
    """Bessel functions, the prefactor first among the weights."""
    return weights[0] * torch.sin(weights[1:] * x) / x


def gaussian(x: Tensor, weights: Tensor) -> Tensor:
    """Gaussians, the factor of the exponent first among the weights."""
    return torch.exp(weights[0] * (x - weights[1:]) ** 2)


def agnesi(x: Tensor, sender: Tensor, receiver: Tensor, constants: Tensor) -> Tensor:
    """Transform lengths as in Witt et al., J. Chem. Phys. 159, 164101 (2023); constants a, q, p."""
    a, q, p = constants
    scaled = x / (0.5 * (sender + receiver))
    return 1.0 / (1.0 + a * scaled**q / (1.0 + scaled ** (q - p)))


def soft(x: Tensor, sender: Tensor, receiver: Tensor, constants: Tensor) -> Tensor:
    """Transform lengths: 3/4 of the radii sum far within it, the length itself far beyond."""
    radii = sender + receiver
    low, high = 0.75 * radii, 4.0 / 3.0 * radii
    steepness = constants[0] / (high - low)
    part = 0.5 * (1.0 + torch.tanh(steepness * (x - 0.5 * (low + high))))
    return low + (x - low) * part
