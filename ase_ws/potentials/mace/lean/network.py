"""The lean evaluation: messages, products and readouts of all layers as dense products."""

from __future__ import annotations

import torch
from torch import Tensor

from ase_ws.potentials.mace.lean.plan import Species
from ase_ws.potentials.mace.lean.probe import monomials
from ase_ws.potentials.mace.lean.weights import Activation, Convolution, Layer, LeanWeights, Tables


def network(
    w: LeanWeights,
    vectors: Tensor,
    send: Tensor,
    receive: Tensor,
    elements: Tensor,
    species: Species,
    tables: Tables,
) -> tuple[Tensor, list[Tensor]]:
    """Interaction energy of each atom, and the features of each layer, (M, n, c)."""
    length = vectors.norm(dim=1, keepdim=True)
    harmonics = monomials(vectors / length, w.max_ell) @ w.harmonics
    cutoff = _envelope(length / w.r_max, w.p)
    radial = w.prefactor * torch.sin(w.bessel * length) / length
    if w.cutoff_on_radial:
        radial = radial * cutoff
    h = w.embedding[elements][None]
    energies = h.new_zeros(len(elements), 1)
    kept = []
    for layer, readout, table in zip(w.layers, w.readouts, tables, strict=True):
        conv = layer.convolution
        gates = _radial_network(radial, conv.radial, conv.activation)
        if not w.cutoff_on_radial:
            gates = gates * cutoff
        x = torch.bmm(h, layer.up)[:, send].transpose(0, 1)
        message = _messages(x, harmonics, gates, conv, receive, len(elements))
        h = _product(layer, h, message, species, table)
        first = h[0] @ readout.first
        if readout.second is not None:
            assert readout.activation is not None
            first = readout.activation(first) @ readout.second
        energies = energies + first
        kept.append(h)
    return w.scale * energies[:, 0] + w.shift, kept


def _messages(
    x: Tensor, harmonics: Tensor, gates: Tensor, conv: Convolution, receive: Tensor, n_atoms: int
) -> list[Tensor]:
    """Sum over neighbours and mix: for each l, (n_atoms, 2l+1, c)."""
    n_edges, n_k, channels = x.shape
    n_q = len(conv.paths)
    coupled = (harmonics @ conv.coupling).view(n_edges, n_q, n_k)
    weight = gates.view(n_edges, sum(conv.n_paths), channels).index_select(1, conv.paths)
    edge = (torch.bmm(coupled, x) if n_k > 1 else coupled * x) * weight
    summed = x.new_zeros((n_atoms, n_q, channels)).index_add(0, receive, edge)
    out, start = [], 0
    for degree, n_paths in enumerate(conv.n_paths):
        stop = start + (2 * degree + 1) * n_paths
        part = summed[:, start:stop].reshape(n_atoms, 2 * degree + 1, n_paths * channels)
        out.append(part @ conv.mix[degree])
        start = stop
    return out


def _product(
    layer: Layer,
    h: Tensor,
    message: list[Tensor],
    species: Species,
    table: list[tuple[Tensor, Tensor]],
) -> Tensor:
    """Apply the product basis of every element and the linear map; add what skips the layer."""
    outs, skips = [], []
    for (_, start, stop), (basis, skip) in zip(species, table, strict=True):
        x = torch.cat([part[start:stop] for part in message], dim=1).transpose(0, 1)
        if layer.skips_message:
            x = torch.bmm(x, skip)
        outs.append(_contract(x.permute(2, 1, 0), basis))
        if layer.skips:
            skips.append(torch.bmm(h[: len(skip), start:stop], skip))
    out = outs[0] if len(outs) == 1 else torch.cat(outs, dim=1)
    out = torch.bmm(out, layer.linear)
    if not skips:
        return out
    past = skips[0] if len(skips) == 1 else torch.cat(skips, dim=1)
    if len(past) == len(out):
        return out + past
    return torch.cat([out[: len(past)] + past, out[len(past) :]])


def _contract(x: Tensor, basis: Tensor) -> Tensor:
    """Σ H x̃ .. x (see `product_basis`) for atoms of one element: (c, n, K) to (M, n, c)."""
    channels, n, k = x.shape
    one = x.new_ones(channels, n, 1)
    factor = torch.cat([one, x], dim=2)
    product = factor if basis.shape[1] > 1 else one
    while product.shape[2] < basis.shape[1]:
        product = (product[:, :, :, None] * factor[:, :, None, :]).flatten(2)
    half = torch.bmm(product, basis).view(channels, n, k, -1)
    return (half * x[..., None]).sum(dim=2).permute(2, 1, 0)


def _radial_network(x: Tensor, weights: list[Tensor], activation: Activation) -> Tensor:
    for weight in weights[:-1]:
        x = activation(x @ weight)
    return x @ weights[-1]


def _envelope(x: Tensor, p: int) -> Tensor:
    """Upstream's polynomial cutoff of x = r/r_max: 1 at 0, 0 from 1 on."""
    a, b, c = (p + 1.0) * (p + 2.0) / 2.0, p * (p + 2.0), p * (p + 1.0) / 2
    return (1.0 - x**p * (a - x * (b - c * x))) * (x < 1)
