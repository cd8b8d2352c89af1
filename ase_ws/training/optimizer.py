"""How the weights move: the optimiser, the learning rate of each step, the average of weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ase_ws.potentials.base import PotentialModule
from ase_ws.training.low_rank import LowRank
from ase_ws.training.parts import by_rate
from ase_ws.training.settings import OptimizerConfig

#: Factor of the learning rate by the part of the steps that is done after the warm-up.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda done: 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)),
    "trapezoid": lambda done: min(1.0, 0.01 + 0.99 * (1 - done) / 0.3),
    "exponential": lambda done: 0.01**done,
    "step": lambda done: 1.0 if done < 0.5 else 0.1 if done < 0.8 else 0.01,
    "constant": lambda done: 1.0,
    # Beside what validations say, see `Rate`.
    "plateau": lambda done: 1.0,
}
#: On a plateau the rate is multiplied with this.
_LOWERED = 0.5


def make_optimizer(
    potential: PotentialModule, settings: OptimizerConfig, low_rank: LowRank | None
) -> torch.optim.Optimizer:
    """Make AdamW (amsgrad), or its schedule-free form (Defazio et al., arXiv 2405.15682).

    Raises
    ------
    UserError
        A name in `optimizer.rates` that fits nothing.
    """
    rate = settings.learning_rate or 1e-3
    if low_rank is not None:
        groups = [{"params": low_rank.weights, "lr": rate}]
    else:
        groups = [
            {"params": weights, "lr": factor * rate}
            for factor, weights in by_rate(potential, settings.rates)
        ]
    for group in groups:
        group["initial_lr"] = group["lr"]
    if settings.kind == "schedule-free":
        from schedulefree import AdamWScheduleFree

        return AdamWScheduleFree(groups, weight_decay=settings.weight_decay)
    return torch.optim.AdamW(groups, weight_decay=settings.weight_decay, amsgrad=True)


class Rate:
    """The learning rate: a linear warm-up, then the schedule, times what plateaus have left of it.

    Parameters
    ----------
    settings : OptimizerConfig
        Resolved.
    """

    def __init__(self, settings: OptimizerConfig):
        self._settings = settings
        self._last = settings.max_steps or 1
        #: What plateaus have left.
        self.left = 1.0

    def factor(self, step: int) -> float:
        """Factor of the rate at a step, counted from 0."""
        settings, warmup = self._settings, self._settings.warmup_steps or 0
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if settings.in_second_stage(step):
            return settings.second_rate
        end = (settings.second_stage or 1.0) * self._last
        done = min(1.0, (step - warmup) / max(1, end - warmup))
        return SCHEDULES[settings.schedule or "cosine"](done) * self.left

    def apply(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Set the rate of the step."""
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.factor(step)

    def validated(self, *, stale: int) -> None:
        """Lower the rate on a plateau: after so many validations without improvement, and again."""
        on_plateau = stale > 0 and stale % self._settings.plateau == 0
        if self._settings.schedule == "plateau" and on_plateau:
            self.left *= _LOWERED


class Average:
    """Exponential moving average of weights that forgets its start.

    w̄ ← d w̄ + (1 − d) w with d = min(decay, (1 + n) / (10 + n)) at the n-th update: a plain average
    with decay 0.99 would still hold a third of the untrained weights after a hundred steps.

    Parameters
    ----------
    weights : sequence of Tensor
        Those of the network; read at every update.
    decay : float
        Final decay, in [0, 1); 0: no average.
    """

    def __init__(self, weights: Sequence[Tensor], decay: float):
        self._weights, self._decay = list(weights), decay
        self.n = 0
        self.mean = [w.detach().clone() for w in self._weights] if decay > 0 else []

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights as they are now into the average."""
        d = min(self._decay, (1 + self.n) / (10 + self.n)) if self.n else 0.0
        self.n += 1
        for mean, weight in zip(self.mean, self._weights, strict=False):
            mean.lerp_(weight, 1 - d)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Let the network have the averaged weights inside the block."""
        if not self.mean:
            yield
            return
        own = [w.detach().clone() for w in self._weights]
        self._put(self.mean)
        try:
            yield
        finally:
            self._put(own)

    @torch.no_grad()
    def _put(self, values: Sequence[Tensor]) -> None:
        for weight, value in zip(self._weights, values, strict=True):
            weight.copy_(value)

    def state(self) -> dict[str, Any]:
        """Give what a resumed run needs."""
        return {"n": self.n, "mean": self.mean}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.n = state["n"]
        for mine, value in zip(self.mean, state["mean"], strict=True):
            mine.copy_(value)
