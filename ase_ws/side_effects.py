"""What libraries do to the process that imports and uses them, undone."""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from collections.abc import Iterator

import torch

#: What is changed and put back belongs to the process: two threads at it would leave it changed.
_ONE_AT_A_TIME = threading.RLock()


@contextlib.contextmanager
def unchanged_environment() -> Iterator[None]:
    """Put the environment variables back as they were before the block."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


@contextlib.contextmanager
def without_side_effects() -> Iterator[None]:
    """Let a network's library do what it must on import and on building, and undo the rest."""
    # mace sets TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD, which would disarm every later torch.load; e3nn
    # loads constants that hold a slice; they warn and print of what does not concern the user.
    with (
        _ONE_AT_A_TIME,
        unchanged_environment(),
        torch.serialization.safe_globals([slice]),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(None),
    ):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def building(dtype: torch.dtype, seed: int = 0) -> Iterator[None]:
    """Build a network of this precision, its weights from this seed, without side effects."""
    with without_side_effects(), torch.random.fork_rng(devices=[]), default_dtype(dtype):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Give libraries that allocate in torch's default precision the right one."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
