"""Read a `ScaleShiftMACE` into `LeanWeights`: what is read is what each of its blocks does."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from ase_ws.potentials.mace.lean.probe import (
    by_component,
    linear_blocks,
    offsets,
    require,
    same_multiplicity,
    scalar_block,
    spherical_harmonics,
    tensor_product,
)
from ase_ws.potentials.mace.lean.weights import (
    Activation,
    Convolution,
    Layer,
    LeanWeights,
    Readout,
    is_weight,
    map_leaves,
)

#: Polynomials of a higher degree, or products of more factors, would need too many monomials.
MAX_ELL, MAX_CORRELATION = 3, 3


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

    def move(leaf: Any) -> Any:
        if is_weight(leaf):
            return leaf.to(device, dtype)
        return leaf.to(device) if isinstance(leaf, Tensor) else leaf

    return map_leaves(move, found)


def _read(net: Any, head: int) -> LeanWeights:
    radial = net.radial_embedding
    bessel = radial.bessel_fn
    require(type(bessel).__name__ == "BesselBasis", "radial basis")
    require(not hasattr(radial, "distance_transform"), "distance transform")
    require(not hasattr(net, "joint_embedding"), "joint embedding")
    require(len(net.readouts) == len(net.interactions), "readouts")
    n_elements = len(net.atomic_numbers)
    unit = torch.eye(n_elements, dtype=torch.float64)
    max_ell = max(ir.l for _, ir in net.spherical_harmonics.irreps_out)
    require(max_ell <= MAX_ELL, "spherical harmonics")
    pairs = zip(net.interactions, net.products, strict=True)
    return LeanWeights(
        embedding=net.node_embedding(unit),
        harmonics=spherical_harmonics(net.spherical_harmonics, max_ell),
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
    require(kind in known, f"interaction {kind}")
    require(not getattr(product, "use_agnostic_product", False), "agnostic product")
    n_in = interaction.node_feats_irreps
    mid = interaction.irreps_out
    hidden = product.linear.irreps_out
    tp = interaction.conv_tp
    residual = kind == known[1]

    up = linear_blocks(interaction.linear_up, n_in, interaction.linear_up.irreps_out)
    mix = linear_blocks(interaction.linear, tp.irreps_out, mid)
    return Layer(
        up=by_component(up, interaction.linear_up.irreps_out),
        convolution=_convolution(
            tp, interaction.conv_tp_weights, [w / interaction.avg_num_neighbors for w in mix]
        ),
        skips_message=not residual,
        skips=residual and product.use_sc,
        linear=by_component(linear_blocks(product.linear, hidden, hidden), hidden),
    )


def _convolution(tp: Any, network: Any, mix: list[Tensor]) -> Convolution:
    channels = same_multiplicity(tp.irreps_in1)
    require(tp.weight_numel == len(tp.instructions) * channels, "weights of the tensor product")
    require(all(i.connection_mode == "uvu" for i in tp.instructions), "tensor product")
    starts = offsets(tp.irreps_out)
    columns = []
    for path, instruction in enumerate(tp.instructions):
        block = instruction.i_out
        mul, ir = tp.irreps_out[block]
        require(mul == channels, "multiplicities")
        columns += [(ir.l, m, block, path, starts[block] + m) for m in range(2 * ir.l + 1)]
    # By l, m and the order of the output's blocks, which is that of the linear map that follows.
    columns.sort()
    # All channels do alike, and the columns of a path are its own.
    coupling = tensor_product(tp)[:, :, [c[4] for c in columns]]
    degrees = [tp.irreps_out[i.i_out].ir.l for i in tp.instructions]
    weights, activation = _radial_network(network)
    return Convolution(
        coupling=coupling.permute(1, 2, 0).reshape(coupling.shape[1], -1),
        paths=torch.tensor([c[3] for c in columns]),
        n_paths=[degrees.count(degree) for degree in range(max(degrees) + 1)],
        radial=weights,
        activation=activation,
        mix=mix,
    )


def _radial_network(network: Any) -> tuple[list[Tensor], Activation]:
    weights, constant, activation = [], 1.0, torch.nn.functional.silu
    for layer in network:
        last = layer.act is None
        norm = layer.h_in * layer.var_in / (layer.var_out if last else 1.0)
        weights.append(layer.weight * (constant / norm**0.5))
        if not last:
            activation, constant = _activation(layer.act)
            constant *= layer.var_out**0.5
    return weights, activation


def _activation(act: Any) -> tuple[Activation, float]:
    if act is None:
        return _unchanged, 1.0
    return act.f, 1.0 if act._is_id else act.cst


def _unchanged(x: Tensor) -> Tensor:
    return x


def _readout(readout: Any, head: int) -> Readout:
    if type(readout).__name__ == "LinearReadoutBlock":
        first = scalar_block(readout.linear)
        return Readout(first[:, head : head + 1], None, None)
    require(type(readout).__name__ == "NonLinearReadoutBlock", "readout")
    first, second = scalar_block(readout.linear_1), scalar_block(readout.linear_2)
    require(len(readout.non_linearity.acts) == 1, "readout")
    activation, constant = _activation(readout.non_linearity.acts[0])
    if readout.num_heads > 1:
        # The heads' hidden units stand one head after the other.
        width = first.shape[1] // readout.num_heads
        mine = slice(head * width, (head + 1) * width)
        first, second = first[:, mine], second[mine]
    return Readout(first, constant * second[:, head : head + 1], activation)


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
    blocks = linear_blocks(of, irreps_in, irreps_out, weight.dtype)
    return by_component(blocks[: len(common)], common)


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
        require(order <= MAX_CORRELATION, "correlation")
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
