"""Losses against labels. A structure without the label contributes nothing, never a zero target."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ase_ws.losses.residual import penalty
from ase_ws.losses.term import labels_of, nothing
from ase_ws.typing import GraphBatch, Labels, Potential, Prediction

#: ρ of `penalty`, and the two that mace-torch calls universal and l1l2energyforces.
SupervisedMetric = Literal["square", "absolute", "huber", "universal", "l1l2"]
#: Of the universal form: forces of labels up to so many eV/Å, and the factor of δ there.
_STEEP = ((100.0, 1.0), (200.0, 0.7), (300.0, 0.4))
_STEEPEST = 0.1


def _elementwise(error: Tensor, metric: SupervisedMetric, delta: Tensor | float) -> Tensor:
    """ρ of each error; the universal form is Huber's, l1l2 the absolute value."""
    if metric == "universal":
        return penalty(error, "huber", delta)
    return penalty(error, "absolute" if metric == "l1l2" else metric, delta)


class SupervisedLoss:
    """What they share: one label, the structures that have it, and the mean over these.

    w is the weight that a structure brings (`Labels.weights`); the mean is not divided by it.
    """

    #: Of `Prediction` and of `Labels`, where `has_` of it tells who has one.
    label: ClassVar[str]

    def labelled(self, batch: GraphBatch) -> Tensor:
        """Structures that have the label, (n_graphs,), bool."""
        return getattr(labels_of(batch), f"has_{self.label}")

    def n_labelled(self, batch: GraphBatch) -> int:
        """Count the structures that the mean is over."""
        return int(self.labelled(batch).sum())

    def weighted(self, each: Tensor, labels: Labels, mask: Tensor) -> Tensor:
        """Mean over the structures of `mask` of w_k L_k, with w_k the structure's own weight."""
        if labels.weights is not None:
            column = ("energy", "forces", "stress").index(self.label)
            each = each * labels.weights[mask, column].to(each.dtype)
        return each.mean()

    def needs_forces(self, batch: GraphBatch) -> bool:
        """Tell whether the batch has force labels that are looked at."""
        return self.label == "forces" and bool(self.labelled(batch).any())

    def needs_stress(self, batch: GraphBatch) -> bool:
        """Tell whether the batch has stress labels that are looked at."""
        return self.label == "stress" and bool(self.labelled(batch).any())

    def __call__(
        self,
        potential: Potential,
        batch: GraphBatch,
        prediction: Prediction,
        *,
        generator: torch.Generator,
    ) -> Tensor:
        """Return the loss (see `ase_ws.typing.LossTerm`)."""
        mask, value = self.labelled(batch), getattr(prediction, self.label)
        if value is None or not bool(mask.any()):
            return nothing(prediction)
        return self.of(value, labels_of(batch), mask, batch)

    @abstractmethod
    def of(self, value: Tensor, labels: Labels, mask: Tensor, batch: GraphBatch) -> Tensor:
        """Mean over the structures of `mask`; select first: NaN times zero is NaN."""


@dataclass(frozen=True)
class EnergyLoss(SupervisedLoss):
    """L = mean over labelled structures of w ρ((E − E_ref) / n_atoms), in eV²/atom² for squares.

    Parameters
    ----------
    metric : {"square", "absolute", "huber", "universal", "l1l2"}
        Universal is Huber's, l1l2 the absolute value.
    delta : float, eV/atom
        Of the Huber form.
    """

    metric: SupervisedMetric = "square"
    delta: float = 0.01

    label: ClassVar[str] = "energy"

    def of(self, value: Tensor, labels: Labels, mask: Tensor, batch: GraphBatch) -> Tensor:
        """Mean over the structures of `mask`."""
        error = (value[mask] - labels.energy[mask]) / batch.n_atoms[mask]
        return self.weighted(_elementwise(error, self.metric, self.delta), labels, mask)


@dataclass(frozen=True)
class ForcesLoss(SupervisedLoss):
    """L = mean over labelled structures of (w / 3 n_atoms) Σ ρ(F − F_ref), in eV²/Å² for squares.

    Every structure counts the same, whatever its size.

    Parameters
    ----------
    metric : {"square", "absolute", "huber", "universal", "l1l2"}
        Universal: Huber's with δ times 1, 0.7, 0.4, 0.1 for labels of up to 100, 200, 300 eV/Å and
        beyond. l1l2: w/n Σ_i |F_i − F_ref,i|, the length of an atom's error.
    delta : float, eV/Å
        Of the Huber form.
    """

    metric: SupervisedMetric = "square"
    delta: float = 0.1

    label: ClassVar[str] = "forces"

    def of(self, value: Tensor, labels: Labels, mask: Tensor, batch: GraphBatch) -> Tensor:
        """Mean over the structures of `mask`."""
        atoms = mask[batch.batch]
        error = value[atoms] - labels.forces[atoms]
        per_atom = self._per_atom(error, labels.forces[atoms])
        graph = batch.batch[atoms]
        each = per_atom.new_zeros(batch.n_graphs).index_add(0, graph, per_atom) / batch.n_atoms
        return self.weighted(each[mask], labels, mask)

    def _per_atom(self, error: Tensor, reference: Tensor) -> Tensor:
        if self.metric == "l1l2":
            return torch.linalg.vector_norm(error, dim=1)
        delta: Tensor | float = self.delta
        if self.metric == "universal":
            size = torch.linalg.vector_norm(reference, dim=1, keepdim=True)
            factor = torch.full_like(size, _STEEPEST)
            for limit, smaller in reversed(_STEEP):
                factor = torch.where(size < limit, smaller, factor)
            delta = self.delta * factor
        return _elementwise(error, self.metric, delta).mean(dim=1)


@dataclass(frozen=True)
class StressLoss(SupervisedLoss):
    """L = mean over labelled structures of (w/9) Σ ρ(σ − σ_ref), in eV²/Å⁶ for squares.

    Parameters
    ----------
    metric : {"square", "absolute", "huber", "universal", "l1l2"}
        Universal is Huber's, l1l2 the absolute value.
    delta : float, eV/Å³
        Of the Huber form.
    """

    metric: SupervisedMetric = "square"
    delta: float = 0.01

    label: ClassVar[str] = "stress"

    def of(self, value: Tensor, labels: Labels, mask: Tensor, batch: GraphBatch) -> Tensor:
        """Mean over the structures of `mask`."""
        error = value[mask] - labels.stress[mask]
        each = _elementwise(error, self.metric, self.delta).mean(dim=(1, 2))
        return self.weighted(each, labels, mask)
