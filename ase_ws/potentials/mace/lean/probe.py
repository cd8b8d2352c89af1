"""What an equivariant block does, found by evaluating it on unit vectors.

Nothing here knows how e3nn lays its weights out. Irreps are e3nn's: pairs of a multiplicity and an
irrep with a degree `l`, a parity `p` and a dimension `dim`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


class UnsupportedError(Exception):
    """The network has a part that is not read here; upstream's own forward is used for it."""


def require(condition: bool, what: str) -> None:
    """Raise an `UnsupportedError` that names the part, unless the condition holds."""
    if not condition:
        raise UnsupportedError(what)


def linear_blocks(
    module: Callable[[Tensor], Tensor],
    irreps_in: Any,
    irreps_out: Any,
    dtype: torch.dtype = torch.float64,
) -> list[Tensor]:
    """Matrix of a linear equivariant block for each l of the output, (n_in, n_out)."""
    rows, columns = offsets(irreps_in), offsets(irreps_out)
    # One component of each channel tells all: the others do the same.
    probed = [
        start + u * ir.dim for start, (n, ir) in zip(rows, irreps_in, strict=True) for u in range(n)
    ]
    unit = torch.zeros(len(probed), irreps_in.dim, dtype=dtype)
    unit[torch.arange(len(probed)), probed] = 1.0
    dense = module(unit)
    out = []
    for k, (mul, ir) in enumerate(irreps_out):
        require(ir.l == k, f"features {irreps_out}")
        mine = [
            probed.index(rows[j] + u * ir.dim)
            for j, (n, other) in enumerate(irreps_in)
            if other == ir
            for u in range(n)
        ]
        theirs = [columns[k] + v * ir.dim for v in range(mul)]
        out.append(dense[mine][:, theirs])
    return out


def scalar_block(linear: Any) -> Tensor:
    """Matrix of a linear block between its scalars."""
    return linear_blocks(linear, linear.irreps_in, linear.irreps_out)[0]


def by_component(blocks: Sequence[Tensor], irreps: Any) -> Tensor:
    """Repeat the matrix of each l for its 2l + 1 components: (n_components, n_in, n_out)."""
    same_multiplicity(irreps)
    require(len({b.shape for b in blocks}) == 1, "multiplicities")
    return torch.stack(
        [b for b, (_, ir) in zip(blocks, irreps, strict=True) for _ in range(ir.dim)]
    )


def tensor_product(tp: Any) -> Tensor:
    """Give its output for every pair of components of the inputs, (n_k, n_y, dim), weights one."""
    channels = same_multiplicity(tp.irreps_in1)
    n_k, n_y = (sum(ir.dim for _, ir in irreps) for irreps in (tp.irreps_in1, tp.irreps_in2))
    x = _to_e3nn(torch.eye(n_k, dtype=torch.float64), tp.irreps_in1, channels)
    out = tp(
        x.repeat_interleave(n_y, 0),
        torch.eye(n_y, dtype=torch.float64).repeat(n_k, 1),
        torch.ones(n_k * n_y, tp.weight_numel, dtype=torch.float64),
    )
    return out.reshape(n_k, n_y, -1)


def spherical_harmonics(module: Any, max_ell: int) -> list[Tensor]:
    """Give Y_0, and for each higher l how Y_l follows from the products of Y_(l-1) and u.

    Found by least squares: Y_l is in the span of these products, as their part of degree l.
    """
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(400, 3, dtype=torch.float64, generator=generator)
    u = u / u.norm(dim=1, keepdim=True)
    wanted = module(u).split([2 * degree + 1 for degree in range(max_ell + 1)], dim=1)
    out, before = [wanted[0][:1]], wanted[0] / wanted[0]
    for mine in wanted[1:]:
        products = (before[:, :, None] * u[:, None, :]).flatten(1)
        out.append(torch.linalg.pinv(products) @ mine)
        before = mine
    return out


def _to_e3nn(values: Tensor, irreps: Any, channels: int) -> Tensor:
    """From components (n, K), the same for every channel, to e3nn's layout (n, dim)."""
    parts = values.split([ir.dim for _, ir in irreps], dim=1)
    return torch.cat([p[:, None, :].expand(-1, channels, -1).flatten(1) for p in parts], dim=1)


def offsets(irreps: Any) -> list[int]:
    """Where each term begins in e3nn's layout."""
    out, start = [], 0
    for mul, ir in irreps:
        out.append(start)
        start += mul * ir.dim
    return out


def same_multiplicity(irreps: Any) -> int:
    """Give the multiplicity that all terms have."""
    found = {mul for mul, _ in irreps}
    require(len(found) == 1, f"features {irreps}")
    return found.pop()
