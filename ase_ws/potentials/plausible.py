"""Hold a description against the weights beside it, before anything is built from it.

Building costs what the description says: in a damaged file that may be gigabytes, or days.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise

import torch
from pydantic import ValidationError
from torch import Tensor

from ase_ws.errors import UserError
from ase_ws.files.mistakes import first_mistake
from ase_ws.potentials.architecture import MACEArchitecture, irreps_terms

_DTYPES = (torch.float32, torch.float64, torch.int64, torch.int32, torch.bool)
_CONTRACTION = "products.0.symmetric_contractions.contractions.0."


def reason(error: Exception) -> str:
    """Give what an error says, in one line: of a description the first field that is wrong."""
    if isinstance(error, ValidationError):
        field, message = first_mistake(error, MACEArchitecture)
        return f"{field:.80}: {message}" if field else message
    return " ".join(str(error).split())


def check_tensors(tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights that no network can use.

    Raises
    ------
    UserError
        Another precision than float32 or float64; more numbers than are stored; NaN or infinity.
    """
    for name, value in tensors.items():
        if value.dtype not in _DTYPES or value.layout != torch.strided:
            dtype = str(value.dtype).removeprefix("torch.")
            raise UserError(f"'{name:.80}' holds {dtype}: expected float32 or float64")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise UserError(f"'{name:.80}' is larger than what is stored of it")
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise UserError(
                f"the weights hold NaN or infinity ('{name:.80}'); the training had failed"
            )


def check_sizes(a: MACEArchitecture, tensors: Mapping[str, Tensor]) -> None:
    """Refuse a description that asks for another network than the weights are of.

    Raises
    ------
    UserError
        Names the first number that cannot be.
    """
    radial = [1, a.num_bessel, *a.radial_MLP]
    outputs = len(a.heads) * sum(n for n, _, _ in irreps_terms(a.MLP_irreps))
    # A lower bound for each block: a wrong width shows, and what is built stays near what is there.
    for what, size in {
        "atomic_numbers": len(a.atomic_numbers) * a.scalars,
        "hidden_irreps": max(n * n for n, _, _ in irreps_terms(a.hidden_irreps)),
        "radial_MLP": max(m * n for m, n in pairwise(radial)),
        "MLP_irreps": a.scalars * outputs if a.num_interactions > 1 else 0,
        "edge_irreps": max((n for n, _, _ in irreps_terms(a.edge_irreps or "")), default=0),
    }.items():
        if not _unused(what, a):
            check_total(what, size, tensors)
    named = {
        "num_interactions": (a.num_interactions, _count(r"interactions\.(\d+)\.", tensors)),
        "correlation": (
            a.correlation,
            1 + _count(re.escape(_CONTRACTION) + r"weights\.(\d+)$", tensors),
        ),
        "max_ell": ((a.max_ell + 1) ** 2, _couplings(tensors)),
    }
    for what, (said, found) in named.items():
        if found is not None and said != found:
            raise UserError(f"the weights do not fit the architecture: {what} is another")


def check_total(what: str, size: int, tensors: Mapping[str, Tensor]) -> None:
    """Refuse a size that would need at least so many weights, where there are fewer.

    Raises
    ------
    UserError
    """
    if size > sum(value.numel() for value in tensors.values()):
        raise UserError(f"the weights do not fit the architecture: {what} is too large")


def _unused(what: str, a: MACEArchitecture) -> bool:
    """Whether no block is built from this: attention has a radial network of its own size."""
    attention = "RealAgnosticAttResidualInteractionBlock"
    return what == "radial_MLP" and {a.interaction, a.interaction_first} == {attention}


def _count(pattern: str, tensors: Mapping[str, Tensor]) -> int:
    return len({found[1] for name in tensors if (found := re.match(pattern, name))})


def _couplings(tensors: Mapping[str, Tensor]) -> int | None:
    """Components (l, m) that the first product takes; its coefficients may be absent."""
    matrix = tensors.get(_CONTRACTION + "U_matrix_1")
    return None if matrix is None or matrix.dim() < 2 else matrix.shape[-2]
