"""Weights as a file holds them: looked at before they are used, then put into a network.

Building a network costs what its description says: in a damaged file that may be gigabytes, or
days. So a description is held against the weights beside it before anything is built from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ase_ws.errors import UserError


@dataclass(frozen=True, eq=False)
class Matrix:
    """A matrix within a weight, such as what takes the channels of one degree to others.

    Attributes
    ----------
    weight : Parameter
    start : int
        Where it begins in the flat weight.
    rows, columns : int
    """

    weight: torch.nn.Parameter
    start: int
    rows: int
    columns: int

    def of(self, values: Tensor) -> Tensor:
        """Give the view of it in values of the weight's shape."""
        stop = self.start + self.rows * self.columns
        return values.view(-1)[self.start : stop].view(self.rows, self.columns)


_DTYPES = (torch.float32, torch.float64, torch.int64, torch.int32, torch.bool)


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


def check_total(what: str, size: int, tensors: Mapping[str, Tensor]) -> None:
    """Refuse a size that would need at least so many weights, where there are fewer.

    Raises
    ------
    UserError
    """
    if size > sum(value.numel() for value in tensors.values()):
        raise UserError(f"the weights do not fit the architecture: {what} is too large")


def load_weights(network: torch.nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put weights into a network; every weight must be there, buffers may be absent.

    Raises
    ------
    UserError
        Weights are missing, unknown, or of another shape than the architecture says.
    """
    try:
        missing, unexpected = network.load_state_dict(dict(tensors), strict=False)
    except RuntimeError as error:
        detail = " ".join(str(error).split())
        raise UserError(f"the weights do not fit the architecture: {detail:.300}") from error
    weights = {name for name, _ in network.named_parameters()}
    # Buffers (coupling coefficients, masks) are rebuilt from the architecture.
    lost = [name for name in missing if name in weights]
    if lost or unexpected:
        raise UserError(
            f"the weights do not fit the architecture: missing {lost[:3]}, "
            f"unexpected {list(unexpected)[:3]}"
        )
