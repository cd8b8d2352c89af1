"""Read what belongs to one element in a layer: how it sends, its linear map, its product basis."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import torch
from torch import Tensor

from ase_ws.potentials.mace.lean.probe import by_component, linear_blocks, require
from ase_ws.potentials.mace.lean.weights import Layer

#: Products of more factors would be too many.
MAX_CORRELATION = 4

#: Interactions that apply their element's map to the message.
FIRST = ("RealAgnosticInteractionBlock", "RealAgnosticDensityInteractionBlock")


def sender_maps(layer: Layer, features: Tensor) -> list[Tensor]:
    """How radial functions of the first layer become messages where such an atom sends.

    `features` are those before the first layer, (c_in,). Returns (n_hidden, c') for each degree.
    """
    x = features @ layer.up[0]
    return [(p.last[0] * x) @ p.mix[0] for p in layer.paths]


def skip_map(interaction: Any, product: Any, n_elements: int, element: int) -> Tensor:
    """Linear map of one element that acts on the message, or past the layer: (M, c_in, c_out)."""
    skip = getattr(interaction, "skip_linear", None) or interaction.skip_tp
    weight = skip.weight
    one_hot = torch.eye(n_elements, dtype=weight.dtype, device=weight.device)[element]
    of_element = hasattr(skip, "irreps_in2")

    def of(x: Tensor) -> Tensor:
        x = x.to(weight.device)
        return skip(x, one_hot.expand(len(x), -1)) if of_element else skip(x)

    if type(interaction).__name__ in FIRST:
        irreps_in = irreps_out = interaction.irreps_out
    else:
        irreps_in, irreps_out = interaction.node_feats_irreps, product.linear.irreps_out
    # Only components that are in both go past the layer; those of lower l come first.
    common = irreps_out[: min(len(irreps_in), len(irreps_out))]
    blocks = linear_blocks(of, irreps_in, irreps_out, weight.dtype)
    return by_component(blocks[: len(common)], common)


def factors_of(product: Any) -> Tensor:
    """Which components of x̃ = (1, x) make each product, (correlation − 1, n_products).

    Their order does not count: each combination is there once.
    """
    contraction = product.symmetric_contractions.contractions[0]
    require(contraction.correlation <= MAX_CORRELATION, "correlation")
    size = dict(contraction.named_buffers())["U_matrix_1"].shape[-2] + 1
    chosen = itertools.combinations_with_replacement(range(size), contraction.correlation - 1)
    return torch.tensor(list(chosen), dtype=torch.int64).T


def product_weights(product: Any, element: int) -> Tensor:
    """Weights of the symmetric contraction of one element, (n_weights, c), as `coupling` has them.

    They are in the order of the output's irreps, and for each from the most factors to one.
    """
    if getattr(product, "use_agnostic_product", False):
        element = 0
    parts = [
        weight[element]
        for contraction in product.symmetric_contractions.contractions
        for weight in (contraction.weights_max, *contraction.weights)
    ]
    return torch.cat(parts)


def product_coupling(product: Any, factors: Tensor) -> Tensor:
    """Give what each weight adds to the product basis, (n_products, n·M, n_weights), float64.

    A factor 1 stands for every factor x that is missing.
    """
    found, start = [], 0
    contractions = product.symmetric_contractions.contractions
    total = sum(len(w[0]) for c in contractions for w in (c.weights_max, *c.weights))
    for contraction in contractions:
        order = contraction.correlation
        require(order == len(factors) + 1, "correlations")
        buffers = dict(contraction.named_buffers())
        n, n_m = _sizes(buffers["U_matrix_1"])
        mine = torch.zeros(factors.shape[1], n, n_m, total, dtype=torch.float64)
        for nu in range(order, 0, -1):
            u = buffers[f"U_matrix_{nu}"].double().cpu()
            u = u[None] if u.dim() == nu + 1 else u
            rows = torch.tensor(_rows(len(factors), n + 1)).reshape([n + 1] * (order - 1))
            index = [0] * (order - nu) + [slice(1, None)] * (nu - 1)
            row = rows[tuple(index)].flatten()
            # (m, a.., n, k): to (a.., n, m, k).
            part = u.movedim(0, -2).reshape(len(row), n, n_m, -1)
            stop = start + part.shape[-1]
            mine[..., start:stop].index_add_(0, row, part)
            start = stop
        found.append(mine)
    return torch.cat(found, dim=2).flatten(1, 2)


def _sizes(u_1: Tensor) -> tuple[int, int]:
    """Components in and out, from the coupling of a single factor, (m, n, k), or (n, k)."""
    return u_1.shape[-2], len(u_1) if u_1.dim() == 3 else 1


def product_basis(coupling: Tensor, weights: Tensor) -> Tensor:
    """Coefficients of the symmetric contraction of one element.

    With x̃ = (1, x), output component m of channel c is Σ H[c, a.., k, m] x̃_a .. x_k over one
    factor x and (correlation − 1) factors x̃, whose combinations a.. are `factors_of`.

    Parameters
    ----------
    coupling : Tensor, (n_products, n·M, n_weights)
    weights : Tensor, (n_weights, c)

    Returns
    -------
    Tensor, (c, n_products, n·M)
    """
    return (coupling @ weights).permute(2, 0, 1).contiguous()


@functools.cache
def _rows(n_factors: int, size: int) -> list[int]:
    """For each ordered choice of factors, the number of the combination that it is."""
    chosen = itertools.combinations_with_replacement(range(size), n_factors)
    numbers = {combination: row for row, combination in enumerate(chosen)}
    ordered = itertools.product(range(size), repeat=n_factors)
    return [numbers[tuple(sorted(choice))] for choice in ordered]
