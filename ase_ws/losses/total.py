"""The weighted sum of loss terms, with every component kept for the log."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass, replace
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ase_ws.errors import UserError
from ase_ws.losses.evaluation import weak_values
from ase_ws.losses.term import Needs, has_copies, nothing, ramped, skin_of
from ase_ws.typing import GraphBatch, LossTerm, Potential, Prediction

#: Numbers of a term, and the largest that each may be.
_BOUNDS = {
    "weight": sys.float_info.max,
    "weight_ramp": 1.0,
    "epsilon_ramp": 1.0,
    "fraction": 1.0,
}


@dataclass(frozen=True)
class WeightedTerm:
    """One term of the total: `weight` times `loss`, and when.

    Parameters
    ----------
    name : str
        Letters, digits, spaces and `_ . + -`: it becomes the column `train_NAME` of the metrics.
    weight : float
        Finite, not negative.
    loss : LossTerm
    weight_ramp, epsilon_ramp : float
        Part of the training, from its start, over which the weight rises linearly from 0, and the
        term's own scale (ε of displacements: from a tenth of its value), where it has a method
        `at`. 0: at full strength from the first step.
    fraction : float
        Part of the steps on which the term is evaluated, evenly spread. The weight is not rescaled:
        on average the term counts as `fraction` times its weight.

    Raises
    ------
    UserError
        A name or number that is none of these.
    """

    name: str
    weight: float
    loss: LossTerm
    weight_ramp: float = 0.0
    epsilon_ramp: float = 0.0
    fraction: float = 1.0

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and re.fullmatch(r"[A-Za-z_][\w .+-]*", self.name)):
            raise UserError(
                f"loss term {self.name!r:.60}: its name becomes a column of metrics.csv: begin it "
                "with a letter, and go on with letters, digits, spaces and _ . + - only"
            )
        for what, most in _BOUNDS.items():
            value = getattr(self, what)
            if not (isinstance(value, Real) and 0 <= float(value) <= most):
                raise UserError(
                    f"loss term '{self.name}': {what} is {value!r:.40}: expected a number from 0 "
                    f"to {most:.3g}"
                )

    def __str__(self) -> str:
        """Name, weight, when, and what, as the model file tells it."""
        kind = self.loss if hasattr(self.loss, "__qualname__") else type(self.loss)
        what = f"{kind.__module__}.{kind.__qualname__}"  # pyright: ignore[reportAttributeAccessIssue]
        if is_dataclass(self.loss):  # its repr names its settings
            what = f"{kind.__module__}: {self.loss!r}"
        ramps = f"ramps {self.weight_ramp!r} and {self.epsilon_ramp!r}"
        return f"{self.name}: {self.weight!r} of {what}, {ramps}, on {self.fraction!r} of the steps"

    @property
    def counts(self) -> bool:
        """Whether the term ever adds anything."""
        return self.weight > 0 and self.fraction > 0

    def at(self, step: int, n_steps: int) -> WeightedTerm:
        """Give the term as it counts at this step: weight zero where it is left out."""
        # Evenly spread, and the same after a resume: floor(step f) rises on a fraction f of steps.
        on = math.floor((step + 1) * self.fraction) > math.floor(step * self.fraction)
        done = step / n_steps if n_steps > 0 else 1.0
        weight = self.weight * _risen(done, self.weight_ramp) * on
        loss = ramped(self.loss, _risen(done, self.epsilon_ramp))
        return replace(self, weight=weight, loss=loss)


def _risen(done: float, ramp: float) -> float:
    return 1.0 if done >= ramp else done / ramp


class LossValue(NamedTuple):
    """The total and its parts.

    Attributes
    ----------
    total : Tensor, ()
    raw : dict of str to Tensor
        Unweighted value of each active term.
    weighted : dict of str to Tensor
        What each adds to the total.
    """

    total: Tensor
    raw: dict[str, Tensor]
    weighted: dict[str, Tensor]


class TotalLoss:
    """L = Σ_k w_k L_k. Weights are never renormalised; a term of zero weight costs nothing.

    The displaced copies of all weak terms go through the potential together, and with them through
    the frozen reference where there is one.
    """

    def __init__(self, terms: Sequence[WeightedTerm]):
        self.terms = tuple(t for t in terms if t.counts)
        if not self.terms:
            raise UserError(
                "every loss weight is zero, or has no labels: nothing to train on; set "
                "loss.energy_weight or loss.forces_weight"
            )

    @property
    def skin(self) -> float:
        """How far beyond `r_max` the edges must reach for the displaced copies, Å."""
        return max((skin_of(t.loss) for t in self.terms), default=0.0)

    def __call__(
        self,
        potential: Potential,
        batch: GraphBatch,
        *,
        generator: torch.Generator,
        create_graph: bool = True,
        step: int = 0,
        n_steps: int = 0,
    ) -> LossValue:
        """Evaluate the potential on the batch, and every active term on the prediction.

        `step` of `n_steps` decides on ramps and fractions; by default everything counts in full.
        """
        active = [term for t in self.terms if (term := t.at(step, n_steps)).weight > 0]
        needs = [Needs.of(t.loss, batch) for t in active]
        forces, stress = any(need.forces for need in needs), any(need.stress for need in needs)
        prediction = potential(
            batch, forces=forces, stress=stress, create_graph=create_graph and (forces or stress)
        )
        return _sum(active, prediction, potential, batch, generator)

    def of(
        self,
        prediction: Prediction,
        potential: Potential,
        batch: GraphBatch,
        *,
        generator: torch.Generator,
    ) -> LossValue:
        """Evaluate every term on a prediction that is already there."""
        return _sum(self.terms, prediction, potential, batch, generator)


def _sum(
    terms: Sequence[WeightedTerm],
    prediction: Prediction,
    potential: Potential,
    batch: GraphBatch,
    generator: torch.Generator,
) -> LossValue:
    # Terms that say which copies they need go through the potential together.
    weak: dict[str, Any] = {t.name: t.loss for t in terms if has_copies(t.loss)}
    raw = weak_values(weak, prediction, potential, batch, generator)
    for t in terms:
        if t.name not in raw:
            raw[t.name] = t.loss(potential, batch, prediction, generator=generator)
    weighted = {t.name: t.weight * raw[t.name] for t in terms}
    total = torch.stack(list(weighted.values())).sum() if weighted else nothing(prediction)
    return LossValue(total, {t.name: raw[t.name] for t in terms}, weighted)
