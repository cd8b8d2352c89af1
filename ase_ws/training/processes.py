"""Several processes that train one model: `torchrun --nproc-per-node=N -m ase_ws.cli finetune`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ase_ws.errors import UserError


@dataclass(frozen=True)
class Processes:
    """Those that take a step together, and which of them this one is.

    Attributes
    ----------
    rank : int
        From 0; only the first writes and speaks.
    size : int
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Go on when all have come so far."""
        if self.size > 1:
            dist.barrier()

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Add up what each process has, in place."""
        if self.size == 1:
            return
        flat = torch.cat([t.reshape(-1) for t in tensors])
        dist.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view(tensor.shape))

    def gathered(self, value: Any) -> list[Any]:
        """Give the values of all processes, in their order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """Join the processes that torchrun started with this one; alone where it did not.

    Raises
    ------
    UserError
        More processes than GPUs, where these are to be used.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size < 2 or "RANK" not in os.environ:
        yield Processes()
        return
    on_gpus = device.type == "cuda"
    if on_gpus:
        rank = int(os.environ.get("LOCAL_RANK", "0"))
        if rank >= torch.cuda.device_count():
            raise UserError(
                f"process {rank} of this machine, and {torch.cuda.device_count()} GPUs: start one "
                "process for each (--nproc-per-node), or say device=cpu"
            )
        torch.cuda.set_device(rank)
    mine = not dist.is_initialized()
    if mine:
        # The others wait while the first one solves a closed form.
        dist.init_process_group("nccl" if on_gpus else "gloo", timeout=timedelta(days=7))
    try:
        yield Processes(dist.get_rank(), dist.get_world_size())
    finally:
        if mine:
            dist.destroy_process_group()
