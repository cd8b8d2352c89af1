"""Read a `ScaleShiftMACE` into `LeanWeights`: what is read is what each of its blocks does."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from ase_ws.potentials.mace.lean.edges import agnesi, bessel, gaussian, soft
from ase_ws.potentials.mace.lean.elements import FIRST, factors_of
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
    AllPaths,
    Basis,
    Dense,
    Density,
    Gate,
    Layer,
    LeanWeights,
    Paths,
    Product,
    Radial,
    Readout,
    Sides,
    is_weight,
    map_leaves,
    multiplied,
)

#: Interactions by how they are built.
DENSITY = ("RealAgnosticDensityInteractionBlock", "RealAgnosticDensityResidualInteractionBlock")
ATTENTION = "RealAgnosticAttResidualInteractionBlock"
NON_LINEAR = "RealAgnosticResidualNonLinearInteractionBlock"
KNOWN = (*FIRST, *DENSITY, ATTENTION, NON_LINEAR, "RealAgnosticResidualInteractionBlock")


def read_weights(network: Any, head: int, dtype: torch.dtype, device: torch.device) -> LeanWeights:
    """Read a `ScaleShiftMACE`.

    Raises
    ------
    UnsupportedError
        A part of the network is of another kind.
    """
    net = copy.deepcopy(network).to("cpu", torch.float64).requires_grad_(False)
    with torch.no_grad():
        found = multiplied(tree(net, head))

    def move(leaf: Any) -> Any:
        if is_weight(leaf):
            return leaf.to(device, dtype)
        return leaf.to(device) if isinstance(leaf, Tensor) else leaf

    return map_leaves(move, found)


def tree(net: Any, head: int) -> LeanWeights:
    """Read a network on the CPU in float64, with products of weights apart."""
    max_ell = max(ir.l for _, ir in net.spherical_harmonics.irreps_out)
    pairs = zip(net.interactions, net.products, strict=True)
    readouts = [_readout(readout, head) for readout in net.readouts]
    n_silent = len(net.interactions) - len(readouts)
    require(n_silent == 0 or len(readouts) == 1, "readouts")
    return LeanWeights(
        harmonics=spherical_harmonics(net.spherical_harmonics, max_ell),
        basis=_basis(net),
        layers=[_layer(interaction, product) for interaction, product in pairs],
        readouts=[None] * n_silent + readouts,
        scale=torch.atleast_1d(net.scale_shift.scale)[head].clone(),
        shift=torch.atleast_1d(net.scale_shift.shift)[head].clone(),
    )


def _basis(net: Any) -> Basis:
    radial, functions = net.radial_embedding, net.radial_embedding.bessel_fn
    kind = type(functions).__name__
    require(kind in ("BesselBasis", "GaussianBasis"), "radial basis")
    if kind == "BesselBasis":
        function, first, rest = bessel, functions.prefactor, functions.bessel_weights
    else:
        function, first, rest = gaussian, functions.coeff, functions.gaussian_weights
    transform, constants = None, torch.zeros(0, dtype=torch.float64)
    radii = torch.zeros(len(net.atomic_numbers), dtype=torch.float64)
    if hasattr(radial, "distance_transform"):
        form = radial.distance_transform
        known = {"AgnesiTransform": (agnesi, "aqp"), "SoftTransform": (soft, ["alpha"])}
        require(type(form).__name__ in known, "distance transform")
        transform, names = known[type(form).__name__]
        constants = torch.stack([getattr(form, name).detach().reshape(()) for name in names])
        radii = form.covalent_radii[net.atomic_numbers]
    return Basis(
        function=function,
        weights=torch.cat([torch.as_tensor(first).double().reshape(1), rest.flatten()]),
        transform=transform,
        constants=constants,
        radii=radii,
        p=int(radial.cutoff_fn.p),
        r_max=float(radial.cutoff_fn.r_max),
        on_radial=bool(getattr(radial, "apply_cutoff", True)),
    )


def _layer(interaction: Any, product: Any) -> Layer:
    kind = type(interaction).__name__
    require(kind in KNOWN, f"interaction {kind}")
    n_in, lift = interaction.node_feats_irreps, interaction.linear_up
    # Edges may have degrees that nothing leads to: they stay zero.
    up = [block for block in linear_blocks(lift, n_in, lift.irreps_out) if len(block)]
    hidden = product.linear.irreps_out
    density = _density(interaction)
    # What is not divided by the density is divided by the mean number of neighbours.
    divisor = interaction.avg_num_neighbors if density is None else 1.0
    linear = interaction.linear_1 if kind == NON_LINEAR else interaction.linear
    target = interaction.irreps_nonlin if kind == NON_LINEAR else interaction.irreps_out
    mix = linear_blocks(linear, interaction.conv_tp.irreps_out, target)
    radial, last = _radial(interaction.conv_tp_weights, interaction)
    skips_message = kind in FIRST
    paths = _paths(interaction.conv_tp, last, [w / divisor for w in mix], len(up))
    return Layer(
        up=by_component(up, lift.irreps_out[: len(up)]),
        radial=radial,
        paths=paths,
        together=_together(paths, sum(2 * degree + 1 for degree in range(len(up)))),
        density=density,
        gate=_gate(interaction, len(up)) if kind == NON_LINEAR else None,
        skips_message=skips_message,
        skips=not skips_message and product.use_sc,
        linear=by_component(linear_blocks(product.linear, hidden, hidden), hidden),
        factors=factors_of(product),
        alike=bool(getattr(product, "use_agnostic_product", False)),
    )


def _paths(tp: Any, last: Tensor, mix: list[Tensor], n_degrees: int) -> list[Paths]:
    """Sort the paths from the first degrees by degree out and in; last is (n_hidden, n_paths·c)."""
    channels = same_multiplicity(tp.irreps_in1)
    require(tp.weight_numel == len(tp.instructions) * channels, "weights of the tensor product")
    require(all(i.connection_mode == "uvu" for i in tp.instructions), "tensor product")
    degrees_in = [ir.l for _, ir in tp.irreps_in1]
    require(degrees_in == list(range(len(degrees_in))), f"features {tp.irreps_in1}")
    starts, coupling = offsets(tp.irreps_out), tensor_product(tp)
    weights = last.view(len(last), len(tp.instructions), channels).permute(1, 0, 2)
    # The linear map takes the output's blocks in their order.
    rows: dict[int, int] = {}
    seen: dict[int, int] = {}
    for block, (mul, ir) in enumerate(tp.irreps_out):
        require(mul == channels, "multiplicities")
        rows[block] = seen.get(ir.l, 0)
        seen[ir.l] = rows[block] + channels
    groups: dict[tuple[int, int], list[int]] = {}
    for number, path in enumerate(tp.instructions):
        key = tp.irreps_out[path.i_out].ir.l, tp.irreps_in1[path.i_in1].ir.l
        if key[1] < n_degrees:
            groups.setdefault(key, []).append(number)
    out = []
    for (degree, degree_in), numbers in sorted(groups.items()):
        n_m, n_k, start = 2 * degree + 1, 2 * degree_in + 1, degree_in**2
        blocks = [tp.instructions[number].i_out for number in numbers]
        each = [
            # All channels do alike: the first tells.
            coupling[start : start + n_k, :, starts[block] : starts[block] + n_m].permute(1, 2, 0)
            for block in blocks
        ]
        out.append(
            Paths(
                start=start,
                n_k=n_k,
                n_m=n_m,
                degree=degree,
                coupling=torch.stack(each, dim=1).flatten(1),
                last=weights[numbers],
                mix=torch.stack([mix[degree][rows[b] : rows[b] + channels] for b in blocks]),
            )
        )
    return out


def _together(paths: list[Paths], n_k: int) -> AllPaths:
    """Give all paths at once: columns by degree, component and path."""
    last = torch.cat([p.last for p in paths])
    n_sh = len(paths[0].coupling)
    columns, which, mix, number = [], [], [], 0
    for degree in sorted({p.degree for p in paths}):
        mine = [p for p in paths if p.degree == degree]
        blocks = []
        for p in mine:
            block = p.coupling.new_zeros(n_sh, len(p.last), p.n_m, n_k)
            block[..., p.start : p.start + p.n_k] = p.coupling.view(n_sh, -1, p.n_m, p.n_k)
            blocks.append(block)
        whole = torch.cat(blocks, dim=1)
        columns.append(whole.transpose(1, 2).reshape(n_sh, -1, n_k))
        numbers = torch.arange(number, number + whole.shape[1])
        which.append(numbers.repeat(2 * degree + 1))
        mix.append(torch.cat([p.mix.flatten(0, 1) for p in mine]))
        number += whole.shape[1]
    return AllPaths(
        coupling=torch.cat(columns, dim=1).flatten(1),
        path=torch.cat(which),
        last=last.permute(1, 0, 2).flatten(1),
        mix=mix,
    )


def _radial(network: Any, interaction: Any) -> tuple[Radial, Tensor]:
    """Give a radial network, and its last layer apart, (n_hidden, n_out), the bias as a row."""
    biased = hasattr(network, "net")
    layers, last, activation = _with_norms(network.net) if biased else _fully_connected(network)
    sides, n_basis = None, interaction.edge_feats_irreps.num_irreps
    if layers and len(layers[0].weight) > n_basis:
        sides = _sides(interaction, layers[0].weight[n_basis:])
        layers[0] = layers[0]._replace(weight=layers[0].weight[:n_basis])
    return Radial(layers, activation, sides, biased), last


def _with_norms(net: Any) -> tuple[list[Dense], Tensor, Activation]:
    modules = list(net)
    *inner, end = [k for k, module in enumerate(modules) if hasattr(module, "in_features")]
    layers = []
    for k in inner:
        linear, norm, act = modules[k : k + 3]
        require(type(norm).__name__ == "LayerNorm" and norm.eps == 1e-5, "radial network")
        require(type(act).__name__ == "SiLU", "radial network")
        layers.append(Dense(linear.weight.T.clone(), linear.bias, (norm.weight, norm.bias)))
    last = torch.cat([modules[end].weight.T, modules[end].bias[None]])
    return layers, last, torch.nn.functional.silu


def _fully_connected(network: Any) -> tuple[list[Dense], Tensor, Activation]:
    weights, constant, activation = [], 1.0, torch.nn.functional.silu
    for layer in network:
        last = layer.act is None
        norm = layer.h_in * layer.var_in / (layer.var_out if last else 1.0)
        weights.append(layer.weight * (constant / norm**0.5))
        if not last:
            activation, constant = _activation(layer.act)
            constant *= layer.var_out**0.5
    return [Dense(weight, None, None) for weight in weights[:-1]], weights[-1], activation


def _sides(interaction: Any, weight: Tensor) -> Sides:
    """Read what a radial network takes of sender and receiver, by what its first layer does."""
    if hasattr(interaction, "source_embedding"):
        unit = torch.eye(interaction.node_attrs_irreps.dim, dtype=torch.float64)
        sender, receiver = interaction.source_embedding(unit), interaction.target_embedding(unit)
        return _apart(sender, receiver, weight, by_element=True)
    down = interaction.linear_down
    scalars = linear_blocks(down, interaction.node_feats_irreps, down.irreps_out)[0]
    return _apart(scalars, scalars, weight, by_element=False)


def _apart(sender: Tensor, receiver: Tensor, weight: Tensor, *, by_element: bool) -> Sides:
    half = len(weight) // 2
    parts: Any = Product(sender, weight[:half]), Product(receiver, weight[half:])
    return Sides(*parts, by_element=by_element)


def _density(interaction: Any) -> Density | None:
    if not hasattr(interaction, "density_fn"):
        return None
    radial, last = _radial(interaction.density_fn, interaction)
    one = torch.ones((), dtype=torch.float64)
    alpha, beta = getattr(interaction, "alpha", one), getattr(interaction, "beta", one)
    return Density(radial, last, alpha.detach().clone(), beta.detach().clone())


def _gate(interaction: Any, n_degrees: int) -> Gate:
    irreps, block = interaction.irreps_nonlin, interaction.equivariant_nonlin
    up = interaction.linear_up.irreps_out
    residual = linear_blocks(interaction.linear_res, up, irreps)[:n_degrees]
    out = interaction.irreps_out
    after = linear_blocks(interaction.linear_2, out, out)
    # All scalars and gates one, and the gated, too: what comes out shows the constants.
    seen = block(torch.ones(1, irreps.dim, dtype=torch.float64))[0]
    one = torch.ones((), dtype=torch.float64)
    return Gate(
        residual=residual,
        scalars=seen[0] / torch.nn.functional.silu(one),
        gates=seen[-1] / torch.sigmoid(one),
        after=after,
    )


def _activation(act: Any) -> tuple[Activation, float]:
    if act is None:
        return _unchanged, 1.0
    return act.f, 1.0 if act._is_id else act.cst


def _unchanged(x: Tensor) -> Tensor:
    return x


def _readout(readout: Any, head: int) -> Readout:
    kind = type(readout).__name__
    if kind == "LinearReadoutBlock":
        return Readout([Dense(scalar_block(readout.linear)[:, head : head + 1], None, None)], None)
    require(kind in ("NonLinearReadoutBlock", "NonLinearBiasReadoutBlock"), "readout")
    require(len(readout.non_linearity.acts) == 1, "readout")
    activation, constant = _activation(readout.non_linearity.acts[0])
    first = Dense(scalar_block(readout.linear_1), None, None)
    others = [readout.linear_mid] if hasattr(readout, "linear_mid") else []
    layers = [first, *(_with_bias(linear, constant) for linear in [*others, readout.linear_2])]
    # The heads' hidden units stand one head after the other.
    width = first.weight.shape[1] // readout.num_heads
    mine = slice(head * width, (head + 1) * width)
    ends = [slice(None), *([mine] * len(others)), mine]
    columns = [*([mine] * (len(layers) - 1)), slice(head, head + 1)]
    return Readout(
        [
            Dense(
                layer.weight[rows][:, cols], None if layer.bias is None else layer.bias[cols], None
            )
            for layer, rows, cols in zip(layers, ends, columns, strict=True)
        ],
        activation,
    )


def _with_bias(linear: Any, constant: float) -> Dense:
    """Read a linear map of scalars that come out of an activation with this constant."""
    bias = linear(torch.zeros(1, linear.irreps_in.dim, dtype=torch.float64))
    weight = linear_blocks(lambda x: linear(x) - bias, linear.irreps_in, linear.irreps_out)[0]
    return Dense(constant * weight, bias[0], None)
