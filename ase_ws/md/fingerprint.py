"""What a calculator is, by content: whether a run goes on with the same potential."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from ase.calculators.calculator import BaseCalculator
from ase.calculators.mixing import LinearCombinationCalculator

from ase_ws.calculators import PotentialCalculator
from ase_ws.potentials.base import PotentialModule


def fingerprint(calculator: Any) -> str:
    """Name and hash of a calculator: the same for the same potential, wherever its file lies.

    Hashed are all that decides what a potential of this package answers, the weights of every
    other torch module that it holds, in their precision, ASE's `parameters`, and the weights of
    ASE's sums. What a foreign calculator holds beside these is its own, and may change with
    every call.
    """
    digest = hashlib.sha256()
    for part in _calculator(calculator):
        digest.update(part)
    return f"{type(calculator).__name__} {digest.hexdigest()[:16]}"


def _calculator(calculator: Any) -> Iterator[bytes]:
    yield _class(calculator)
    yield from _content(getattr(calculator, "parameters", None) or {})
    if isinstance(calculator, PotentialCalculator):
        yield from _potential(calculator.potential)
        return
    held = vars(calculator)
    if isinstance(calculator, LinearCombinationCalculator):
        # ASE's sums, such as a potential with a dispersion correction.
        held = {**held, **vars(calculator.mixer)}
        yield from _content([float(weight) for weight in held["weights"]])
    for name, value in sorted(held.items()):
        if not name.startswith("_"):
            for item in value if isinstance(value, list | tuple) else [value]:
                if isinstance(item, torch.nn.Module):
                    yield from _potential(item)
                elif isinstance(item, BaseCalculator):
                    yield from _calculator(item)


def _potential(potential: Any) -> Iterator[bytes]:
    """All of one of this package; of others weights, and settings that cannot count calls."""
    yield _class(potential)
    if isinstance(potential, PotentialModule):
        yield potential.fingerprint().encode()
        return
    weights = potential.state_dict() if isinstance(potential, torch.nn.Module) else {}
    settings = {
        name: value
        for name, value in vars(potential).items()
        if not name.startswith("_")
        and isinstance(value, float | str | tuple | np.ndarray | torch.Tensor)
    }
    yield from _content({**settings, **weights})


def _content(value: Any) -> Iterator[bytes]:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        # Not every precision of torch has one in NumPy; the bytes of all can be read.
        yield f"{value.dtype}{tuple(value.shape)}".encode()
        if not value.is_sparse and not value.is_quantized:
            yield value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(value, np.ndarray) and value.dtype != object:
        yield f"{value.dtype}{value.shape}".encode()
        yield value.tobytes()
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield str(key).encode()
            yield from _content(value[key])
    elif isinstance(value, list | tuple | np.ndarray):
        yield str(len(value)).encode()
        for item in value:
            yield from _content(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from _content(vars(value))
    elif value is None or isinstance(value, bool | int | float | complex | str | np.generic):
        yield repr(value).encode()
    else:
        # Anything else may be shown with its address in memory.
        yield _class(value)


def _class(value: Any) -> bytes:
    return f"{type(value).__module__}.{type(value).__qualname__}".encode()
