"""Names of devices and precisions, as users write them."""

from __future__ import annotations

import torch

from ase_ws.errors import UserError


def resolve_device(name: str | torch.device) -> torch.device:
    """Give the device of a name: auto (CUDA where there is one), cpu, cuda, cuda:1, ..."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
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
