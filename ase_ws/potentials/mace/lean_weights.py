"""Read a MACE's weights into plain dense tensors, which `lean.py` evaluates with few operations.

Nothing here knows how e3nn lays its weights out: every linear or multilinear block is evaluated on
unit vectors, so what is read is what the block does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

#: Polynomials of a higher degree, or products of more factors, would need too many monomials.
MAX_ELL, MAX_CORRELATION = 3, 3


class UnsupportedError(Exception):
    """The network has a part that is not read here; upstream's own forward is used for it."""


@dataclass(frozen=True)
class Convolution:
    """Messages of a layer: for output column q = (l, m, path), Σ_k C[y, k, q] Y[y] x[k] w[path].

    Attributes
    ----------
    coupling : Tensor, (n_sh, n_k · n_q)
        Clebsch–Gordan coefficients with their normalisation.
    paths : Tensor, (n_q,)
        Path of each column; columns are sorted by l, m, path.
    n_paths : list of int
        Paths that end in each l.
    radial : list of Tensor
        Weights of the radial network, activations' constants folded in.
    activation : callable
    mix : list of Tensor, (n_paths·c, c) for each l
        The linear map after the sum over neighbours, 1/avg_num_neighbors folded in.
    """

    coupling: Tensor
    paths: Tensor
    n_paths: list[int]
    radial: list[Tensor]
    activation: Callable[[Tensor], Tensor]
    mix: list[Tensor]


@dataclass(frozen=True)
class Layer:
    """One interaction and product, from K components (l, m) to M.

    Attributes
    ----------
    up : Tensor, (K, c_in, c)
    convolution : Convolution
    skips_message, skips : bool
        Whether the linear map of the receiver's element (`skip_map`) acts on the message, or
        carries the features past the layer.
    linear : Tensor, (M, c, c_out)
        After the product basis.
    """

    up: Tensor
    convolution: Convolution
    skips_message: bool
    skips: bool
    linear: Tensor


@dataclass(frozen=True)
class Readout:
    """Energy of an atom from its scalars: h·w, or f(h·w₁)·w₂."""

    first: Tensor
    second: Tensor | None
    activation: Callable[[Tensor], Tensor] | None


@dataclass(frozen=True)
class LeanWeights:
    """All that an evaluation needs but what belongs to one element: `product_basis`, `skip_map`."""

    embedding: Tensor
    harmonics: Tensor
    max_ell: int
    bessel: Tensor
    prefactor: float
    p: int
    r_max: float
    cutoff_on_radial: bool
    layers: list[Layer]
    readouts: list[Readout]
    scale: Tensor
    shift: Tensor


def read_weights(network: Any, head: int, dtype: torch.dtype, device: torch.device) -> LeanWeights:
    """Read a `ScaleShiftMACE`.

    Raises
    ------
    UnsupportedError
        A part of the network is of another kind.
    """
    net = copy.deepcopy(network).to("cpu", torch.float64).requires_grad_(False)
    with torch.no_grad():
        found = _read(net, head)
    return _to(found, dtype, device)


def _read(net: Any, head: int) -> LeanWeights:
    radial = net.radial_embedding
    bessel = radial.bessel_fn
    _require(type(bessel).__name__ == "BesselBasis", "radial basis")
    _require(not hasattr(radial, "distance_transform"), "distance transform")
    _require(not hasattr(net, "joint_embedding"), "joint embedding")
    _require(len(net.readouts) == len(net.interactions), "readouts")
    n_elements = len(net.atomic_numbers)
    unit = torch.eye(n_elements, dtype=torch.float64)
    max_ell = max(ir.l for _, ir in net.spherical_harmonics.irreps_out)
    _require(max_ell <= MAX_ELL, "spherical harmonics")
    pairs = zip(net.interactions, net.products, strict=True)
    return LeanWeights(
        embedding=net.node_embedding(unit),
        harmonics=_harmonics(net.spherical_harmonics, max_ell),
        max_ell=max_ell,
        bessel=bessel.bessel_weights.clone(),
        prefactor=float(bessel.prefactor),
        p=int(radial.cutoff_fn.p),
        r_max=float(radial.cutoff_fn.r_max),
        cutoff_on_radial=bool(getattr(radial, "apply_cutoff", True)),
        layers=[_layer(interaction, product) for interaction, product in pairs],
        readouts=[_readout(readout, head) for readout in net.readouts],
        scale=torch.atleast_1d(net.scale_shift.scale)[head].clone(),
        shift=torch.atleast_1d(net.scale_shift.shift)[head].clone(),
    )


def _layer(interaction: Any, product: Any) -> Layer:
    kind = type(interaction).__name__
    known = ("RealAgnosticInteractionBlock", "RealAgnosticResidualInteractionBlock")
    _require(kind in known, f"interaction {kind}")
    _require(not getattr(product, "use_agnostic_product", False), "agnostic product")
    n_in = interaction.node_feats_irreps
    mid = interaction.irreps_out
    hidden = product.linear.irreps_out
    tp = interaction.conv_tp
    residual = kind == known[1]

    up = _blocks(interaction.linear_up, n_in, interaction.linear_up.irreps_out)
    mix = _blocks(interaction.linear, tp.irreps_out, mid)
    return Layer(
        up=_by_component(up, interaction.linear_up.irreps_out),
        convolution=_convolution(
            tp, interaction.conv_tp_weights, [w / interaction.avg_num_neighbors for w in mix]
        ),
        skips_message=not residual,
        skips=residual and product.use_sc,
        linear=_by_component(_blocks(product.linear, hidden, hidden), hidden),
    )


def _convolution(tp: Any, network: Any, mix: list[Tensor]) -> Convolution:
    """Probe the tensor product with unit vectors in every component; all channels alike."""
    channels = _same_multiplicity(tp.irreps_in1)
    n_k, n_y = _dimension(tp.irreps_in1), _dimension(tp.irreps_in2)
    n_paths = len(tp.instructions)
    _require(tp.weight_numel == n_paths * channels, "weights of the tensor product")
    _require(all(i.connection_mode == "uvu" for i in tp.instructions), "tensor product")
    x = _to_e3nn(torch.eye(n_k, dtype=torch.float64), tp.irreps_in1, channels)
    y = torch.eye(n_y, dtype=torch.float64)
    # Every pair of components; the weights are all one, so the columns of a path are its own.
    out = tp(
        x.repeat_interleave(n_y, 0),
        y.repeat(n_k, 1),
        torch.ones(n_k * n_y, tp.weight_numel, dtype=torch.float64),
    )
    offsets = _offsets(tp.irreps_out)
    columns = []
    for path, instruction in enumerate(tp.instructions):
        mul, ir = tp.irreps_out[instruction.i_out]
        _require(mul == channels, "multiplicities")
        start = offsets[instruction.i_out]
        columns += [(ir.l, m, instruction.i_out, path, start + m) for m in range(2 * ir.l + 1)]
    # By l, m and the order of the output's blocks, which is that of the linear map that follows.
    columns.sort()
    coupling = torch.stack([out[:, c[4]].reshape(n_k, n_y).T for c in columns], dim=-1)
    degrees = [tp.irreps_out[i.i_out].ir.l for i in tp.instructions]
    weights, activation = _radial_network(network)
    return Convolution(
        coupling=coupling.transpose(1, 2).reshape(n_y, -1),
        paths=torch.tensor([c[3] for c in columns]),
        n_paths=[degrees.count(degree) for degree in range(max(degrees) + 1)],
        radial=weights,
        activation=activation,
        mix=mix,
    )


def _radial_network(network: Any) -> tuple[list[Tensor], Callable[[Tensor], Tensor]]:
    weights, constant, activation = [], 1.0, torch.nn.functional.silu
    for layer in network:
        last = layer.act is None
        norm = layer.h_in * layer.var_in / (layer.var_out if last else 1.0)
        weights.append(layer.weight * (constant / norm**0.5))
        if not last:
            activation, constant = _activation(layer.act)
            constant *= layer.var_out**0.5
    return weights, activation


def _activation(act: Any) -> tuple[Callable[[Tensor], Tensor], float]:
    if act is None:
        return _unchanged, 1.0
    return act.f, 1.0 if act._is_id else act.cst


def _unchanged(x: Tensor) -> Tensor:
    return x


def _readout(readout: Any, head: int) -> Readout:
    if type(readout).__name__ == "LinearReadoutBlock":
        first = _scalars(readout.linear)
        return Readout(first[:, head : head + 1], None, None)
    _require(type(readout).__name__ == "NonLinearReadoutBlock", "readout")
    first, second = _scalars(readout.linear_1), _scalars(readout.linear_2)
    _require(len(readout.non_linearity.acts) == 1, "readout")
    activation, constant = _activation(readout.non_linearity.acts[0])
    if readout.num_heads > 1:
        # The heads' hidden units stand one head after the other.
        width = first.shape[1] // readout.num_heads
        mine = slice(head * width, (head + 1) * width)
        first, second = first[:, mine], second[mine]
    return Readout(first, constant * second[:, head : head + 1], activation)


def _scalars(linear: Any) -> Tensor:
    """Matrix of a linear block between its scalars."""
    return _blocks(linear, linear.irreps_in, linear.irreps_out)[0]


def skip_map(interaction: Any, product: Any, n_elements: int, element: int) -> Tensor:
    """Linear map of one element that acts on the message, or past the layer: (M, c_in, c_out)."""
    weight = interaction.skip_tp.weight
    one_hot = torch.eye(n_elements, dtype=weight.dtype, device=weight.device)[element]

    def of(x: Tensor) -> Tensor:
        x = x.to(weight.device)
        return interaction.skip_tp(x, one_hot.expand(len(x), -1))

    if type(interaction).__name__ == "RealAgnosticInteractionBlock":
        irreps_in = irreps_out = interaction.irreps_out
    else:
        irreps_in, irreps_out = interaction.node_feats_irreps, product.linear.irreps_out
    # Only components that are in both go past the layer; those of lower l come first.
    common = irreps_out[: min(len(irreps_in), len(irreps_out))]
    blocks = _blocks(of, irreps_in, irreps_out, weight.dtype)
    return _by_component(blocks[: len(common)], common)


def product_basis(product: Any, element: int) -> Tensor:
    """Coefficients of the symmetric contraction of one element.

    With x̃ = (1, x), output component m of channel c is Σ H[c, a.., k, m] x̃_a .. x_k over one
    factor x and (correlation − 1) factors x̃.

    Returns
    -------
    Tensor, (c, (n+1)^(correlation−1), n·M), float64
    """
    out = []
    for contraction in product.symmetric_contractions.contractions:
        order = contraction.correlation
        _require(order <= MAX_CORRELATION, "correlation")
        buffers = dict(contraction.named_buffers())
        weights = [contraction.weights_max, *contraction.weights]
        total: Tensor | None = None
        for nu, weight in zip(range(order, 0, -1), weights, strict=True):
            u = buffers[f"U_matrix_{nu}"].double()
            n = u.shape[-2]
            if u.dim() == nu + 1:
                u = u[None]
            part = torch.einsum("m...k,kc->cm...", u, weight[element].double())
            # A factor 1 for every factor x that is missing.
            whole = part.new_zeros((*part.shape[:2], *([n + 1] * (order - 1)), n))
            index = [0] * (order - nu) + [slice(1, None)] * (nu - 1) + [slice(None)]
            whole[(slice(None), slice(None), *index)] = part
            total = whole if total is None else total + whole
        assert total is not None
        c, m, n = total.shape[0], total.shape[1], total.shape[-1]
        out.append(total.reshape(c, m, -1, n).permute(0, 2, 3, 1))
    return torch.cat(out, dim=3).flatten(2)


def _harmonics(module: Any, max_ell: int) -> Tensor:
    """Spherical harmonics as polynomials: Y(u) = `monomials(u)` @ this, by least squares."""
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(400, 3, dtype=torch.float64, generator=generator)
    u = u / u.norm(dim=1, keepdim=True)
    return torch.linalg.pinv(monomials(u, max_ell)) @ module(u)


def monomials(u: Tensor, degree: int) -> Tensor:
    """All products of `degree` factors from (1, x, y, z), (n, 4^degree)."""
    one = torch.cat([torch.ones_like(u[:, :1]), u], dim=1)
    out = one
    for _ in range(degree - 1):
        out = (out[:, :, None] * one[:, None, :]).flatten(1)
    return out if degree else one[:, :1]


def _blocks(
    module: Callable[[Tensor], Tensor],
    irreps_in: Any,
    irreps_out: Any,
    dtype: torch.dtype = torch.float64,
) -> list[Tensor]:
    """Matrix of a linear equivariant block for each l of the output, (n_in, n_out)."""
    rows, columns = _offsets(irreps_in), _offsets(irreps_out)
    # One component of each channel tells all: the others do the same.
    probed = [
        start + u * ir.dim for start, (n, ir) in zip(rows, irreps_in, strict=True) for u in range(n)
    ]
    unit = torch.zeros(len(probed), irreps_in.dim, dtype=dtype)
    unit[torch.arange(len(probed)), probed] = 1.0
    dense = module(unit)
    out = []
    for k, (mul, ir) in enumerate(irreps_out):
        _require(ir.p == (-1) ** ir.l and ir.l == k, f"features {irreps_out}")
        mine = [
            probed.index(rows[j] + u * ir.dim)
            for j, (n, other) in enumerate(irreps_in)
            if other == ir
            for u in range(n)
        ]
        theirs = [columns[k] + v * ir.dim for v in range(mul)]
        out.append(dense[mine][:, theirs])
    return out


def _by_component(blocks: Sequence[Tensor], irreps: Any) -> Tensor:
    """Repeat the matrix of each l for its 2l + 1 components: (n_components, n_in, n_out)."""
    _same_multiplicity(irreps)
    shapes = {b.shape for b in blocks}
    _require(len(shapes) == 1, "multiplicities")
    return torch.stack(
        [b for b, (_, ir) in zip(blocks, irreps, strict=True) for _ in range(ir.dim)]
    )


def _to_e3nn(values: Tensor, irreps: Any, channels: int) -> Tensor:
    """From components (n, K), the same for every channel, to e3nn's layout (n, dim)."""
    parts, start = [], 0
    for _, ir in irreps:
        part = values[:, start : start + ir.dim]
        parts.append(part[:, None, :].expand(-1, channels, -1).flatten(1))
        start += ir.dim
    return torch.cat(parts, dim=1)


def _offsets(irreps: Any) -> list[int]:
    out, start = [], 0
    for mul, ir in irreps:
        out.append(start)
        start += mul * ir.dim
    return out


def _dimension(irreps: Any) -> int:
    return sum(ir.dim for _, ir in irreps)


def _same_multiplicity(irreps: Any) -> int:
    found = {mul for mul, _ in irreps}
    _require(len(found) == 1, f"features {irreps}")
    return found.pop()


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise UnsupportedError(what)


def _to(value: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """Move every tensor inside."""

    def move(tensor: Tensor) -> Tensor:
        return tensor.to(device) if tensor.dtype == torch.int64 else tensor.to(device, dtype)

    return map_tensors(move, value)


def map_tensors(function: Callable[..., Tensor], value: Any, *others: Any) -> Any:
    """Apply a function to every tensor inside, with the tensors in the same place of the others."""
    if isinstance(value, Tensor):
        return function(value, *others)
    if isinstance(value, list | tuple):
        parts = zip(value, *others, strict=True)
        return type(value)(map_tensors(function, *part) for part in parts)
    if isinstance(value, LeanWeights | Layer | Convolution | Readout):
        return type(value)(
            **{
                name: map_tensors(function, part, *(getattr(o, name) for o in others))
                for name, part in vars(value).items()
            }
        )
    return value
