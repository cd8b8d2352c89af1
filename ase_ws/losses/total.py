"""The weighted sum of loss terms, with every component kept for the log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ase_ws.errors import UserError
from ase_ws.losses.supervised import EnergyLoss, ForcesLoss, StressLoss
from ase_ws.losses.weak import PISCLoss, PITCLoss
from ase_ws.typing import GraphBatch, Potential, Prediction

Term = EnergyLoss | ForcesLoss | StressLoss | PITCLoss | PISCLoss


@dataclass(frozen=True)
class WeightedTerm:
    """One term of the total: `weight` times `loss`."""

    name: str
    weight: float
    loss: Term


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
    """L = Σ_k w_k L_k. Weights are never renormalised; a term of zero weight costs nothing."""

    def __init__(self, terms: Sequence[WeightedTerm]):
        negative = [t.name for t in terms if not t.weight >= 0]
        if negative:
            raise ValueError(f"loss weights must not be negative or NaN: {negative}")
        self.terms = tuple(t for t in terms if t.weight > 0)
        if not self.terms:
            raise UserError(
                "every loss weight is zero, or has no labels: nothing to train on; set "
                "loss.energy_weight or loss.forces_weight"
            )

    @property
    def skin(self) -> float:
        """How far beyond `r_max` the edges must reach for the weak terms, Å."""
        weak = [t.loss for t in self.terms if isinstance(t.loss, PITCLoss | PISCLoss)]
        return max((loss.skin for loss in weak), default=0.0)

    def __call__(
        self,
        potential: Potential,
        batch: GraphBatch,
        *,
        generator: torch.Generator,
        create_graph: bool = True,
    ) -> LossValue:
        """Evaluate the potential once on the batch, and every active term on the prediction."""
        forces = any(t.loss.needs_forces(batch) for t in self.terms)
        stress = any(isinstance(t.loss, StressLoss) for t in self.terms) and bool(
            batch.labels is not None and batch.labels.has_stress.any()
        )
        prediction = potential(
            batch, forces=forces, stress=stress, create_graph=create_graph and (forces or stress)
        )
        return self.of(prediction, potential, batch, generator=generator)

    def of(
        self,
        prediction: Prediction,
        potential: Potential,
        batch: GraphBatch,
        *,
        generator: torch.Generator,
    ) -> LossValue:
        """Evaluate every active term on a prediction that is already there."""
        raw = {
            t.name: t.loss(potential, batch, prediction, generator=generator) for t in self.terms
        }
        weighted = {t.name: t.weight * raw[t.name] for t in self.terms}
        return LossValue(torch.stack(list(weighted.values())).sum(), raw, weighted)
