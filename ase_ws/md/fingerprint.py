"""What a calculator is, by content: whether a run goes on with the same potential."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from ase.calculators.calculator import BaseCalculator
from ase.calculators.mixing import LinearCombinationCalculator

from ase_ws.calculators import PotentialCalculator
from ase_ws.content import class_name, content, short_hash
from ase_ws.potentials.base import PotentialModule


def fingerprint(calculator: Any) -> str:
    """Name and hash of a calculator: the same for the same potential, wherever its file lies.

    Hashed are all that decides what a potential of this package answers, the weights of every
    other torch module that it holds, in their precision, ASE's `parameters`, and the weights of
    ASE's sums. What a foreign calculator holds beside these is its own, and may change with
    every call.
    """
    return f"{type(calculator).__name__} {short_hash(_calculator(calculator))}"


def _calculator(calculator: Any) -> Iterator[bytes]:
    yield class_name(calculator)
    yield from content(getattr(calculator, "parameters", None) or {})
    if isinstance(calculator, PotentialCalculator):
        yield from _potential(calculator.potential)
        return
    held = vars(calculator)
    if isinstance(calculator, LinearCombinationCalculator):
        # ASE's sums, such as a potential with a dispersion correction.
        held = {**held, **vars(calculator.mixer)}
        yield from content([float(weight) for weight in held["weights"]])
    for name, value in sorted(held.items()):
        if not name.startswith("_"):
            for item in value if isinstance(value, list | tuple) else [value]:
                if isinstance(item, torch.nn.Module):
                    yield from _potential(item)
                elif isinstance(item, BaseCalculator):
                    yield from _calculator(item)


def _potential(potential: Any) -> Iterator[bytes]:
    """All of one of this package; of others weights, and settings that cannot count calls."""
    yield class_name(potential)
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
    yield from content({**settings, **weights})
