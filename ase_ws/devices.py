"""Devices, precisions and threads, as users name them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ase_ws.errors import UserError


def resolve_device(name: str | torch.device) -> torch.device:
    """Give the device of a name: auto (CUDA where there is one), cpu, cuda, cuda:1, ..."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"device '{name}': expected auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device '{name}': expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device '{name}': this machine has no such CUDA device; use cpu")
    return device


def resolve_dtype(name: str | torch.dtype) -> torch.dtype:
    """Give the precision of a name: float32 or float64."""
    dtype = getattr(torch, name, None) if isinstance(name, str) else name
    if dtype not in (torch.float32, torch.float64):
        raise UserError(f"dtype '{name}': expected float32 or float64")
    return dtype


#: Below this many atoms in one evaluation, a second thread costs more than it brings.
FEW_ATOMS = 200


def sensible_threads(n_atoms: float) -> int | None:
    """Give 1 for evaluations of few atoms, else None: torch's own choice."""
    return 1 if n_atoms < FEW_ATOMS else None


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """Let torch use this many threads inside the block; None leaves it alone."""
    before = torch.get_num_threads()
    try:
        if number is not None:
            if number < 1:
                raise UserError(f"threads {number}: expected at least 1")
            torch.set_num_threads(number)
        yield
    finally:
        torch.set_num_threads(before)
