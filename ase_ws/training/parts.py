"""Which weights are meant by a name: what is frozen, and what has a rate of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch

import torch

from ase_ws.errors import UserError
from ase_ws.potentials.base import PotentialModule


def weights_called(
    potential: PotentialModule, pattern: str, setting: str
) -> list[torch.nn.Parameter]:
    """Give the weights whose names fit a pattern, as a shell has them ("interactions.0.*").

    The name of a part stands for all below it. `setting` is what the pattern was given to.

    Raises
    ------
    UserError
        There is none.
    """
    # With direct forces the network is the body of the potential.
    named = [
        (name.removeprefix("body.").removeprefix("network."), weight)
        for name, weight in potential.named_parameters()
    ]
    found = [w for name, w in named if fnmatch(name, pattern) or fnmatch(name, f"{pattern}.*")]
    if not found:
        parts = sorted({name.split(".")[0] for name, _ in named})
        raise UserError(
            f"{setting}: no weight is called '{pattern:.60}'; the network's parts are "
            f"{', '.join(parts)}"
        )
    return found


def freeze(potential: PotentialModule, patterns: Sequence[str]) -> int:
    """Let the weights whose names fit a pattern stay as they are; give how many numbers.

    Raises
    ------
    UserError
        A pattern that fits none, or nothing is left to train.
    """
    count = 0
    for pattern in patterns:
        for weight in weights_called(potential, pattern, "model.freeze"):
            count += weight.numel() * weight.requires_grad
            weight.requires_grad_(False)
    if not any(w.requires_grad for w in potential.parameters()):
        raise UserError("model.freeze: nothing is left to train: leave some of it out")
    return count


def by_rate(
    potential: PotentialModule, factors: Mapping[str, float]
) -> list[tuple[float, list[torch.nn.Parameter]]]:
    """Part the weights that are trained by the factor of their learning rate; the last name wins.

    Raises
    ------
    UserError
        A pattern that fits none.
    """
    factor_of: dict[int, float] = {}
    for pattern, factor in factors.items():
        for weight in weights_called(potential, pattern, "optimizer.rates"):
            factor_of[id(weight)] = factor
    groups: dict[float, list[torch.nn.Parameter]] = {}
    for weight in potential.parameters():
        if weight.requires_grad:
            groups.setdefault(factor_of.get(id(weight), 1.0), []).append(weight)
    return list(groups.items())
