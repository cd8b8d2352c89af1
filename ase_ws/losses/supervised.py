"""Losses against labels. A structure without the label contributes nothing, never a zero target."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ase_ws.losses.metrics import Metric, penalty
from ase_ws.typing import GraphBatch, Labels, Potential, Prediction


def _labels(batch: GraphBatch) -> Labels:
    if batch.labels is None:
        raise ValueError("a supervised loss needs a batch with labels")
    return batch.labels


def _nothing(prediction: Prediction) -> Tensor:
    """Exactly zero, with zero gradients: what a batch without the label contributes."""
    return 0.0 * prediction.energy.sum()


@dataclass(frozen=True)
class EnergyLoss:
    """L = mean over labelled structures of ρ((E − E_ref) / n_atoms), in eV²/atom² for squares.

    Parameters
    ----------
    metric : {"square", "absolute", "huber"}
    delta : float, eV/atom
        Of the Huber form.
    """

    metric: Metric = "square"
    delta: float = 0.01

    def needs_forces(self, batch: GraphBatch) -> bool:
        """Tell that none are needed."""
        return False

    def n_labelled(self, batch: GraphBatch) -> int:
        """Count the structures that the mean is over."""
        return int(_labels(batch).has_energy.sum())

    def __call__(
        self,
        potential: Potential,
        batch: GraphBatch,
        prediction: Prediction,
        *,
        generator: torch.Generator,
    ) -> Tensor:
        """Return the loss (see `ase_ws.typing.LossTerm`)."""
        labels = _labels(batch)
        mask = labels.has_energy
        if not bool(mask.any()):
            return _nothing(prediction)
        # Select before any arithmetic: a NaN times zero is a NaN.
        error = (prediction.energy[mask] - labels.energy[mask]) / batch.n_atoms[mask]
        return penalty(error, self.metric, self.delta).mean()


@dataclass(frozen=True)
class ForcesLoss:
    """L = mean over labelled structures of (1 / 3 n_atoms) Σ ρ(F − F_ref), in eV²/Å² for squares.

    Every structure counts the same, whatever its size.

    Parameters
    ----------
    metric : {"square", "absolute", "huber"}
    delta : float, eV/Å
        Of the Huber form.
    """

    metric: Metric = "square"
    delta: float = 0.1

    def needs_forces(self, batch: GraphBatch) -> bool:
        """Tell whether the batch has force labels."""
        return bool(_labels(batch).has_forces.any())

    def n_labelled(self, batch: GraphBatch) -> int:
        """Count the structures that the mean is over."""
        return int(_labels(batch).has_forces.sum())

    def __call__(
        self,
        potential: Potential,
        batch: GraphBatch,
        prediction: Prediction,
        *,
        generator: torch.Generator,
    ) -> Tensor:
        """Return the loss (see `ase_ws.typing.LossTerm`)."""
        labels = _labels(batch)
        if prediction.forces is None or not self.needs_forces(batch):
            return _nothing(prediction)
        atoms = labels.has_forces[batch.batch]
        per_atom = penalty(
            prediction.forces[atoms] - labels.forces[atoms], self.metric, self.delta
        ).mean(dim=1)
        n_atoms = batch.n_atoms[batch.batch[atoms]]
        return (per_atom / n_atoms).sum() / labels.has_forces.sum()


@dataclass(frozen=True)
class StressLoss:
    """L = mean over labelled structures of (1/9) Σ (σ − σ_ref)², in eV²/Å⁶."""

    def needs_forces(self, batch: GraphBatch) -> bool:
        """Tell that none are needed: stress is asked for by itself."""
        return False

    def n_labelled(self, batch: GraphBatch) -> int:
        """Count the structures that the mean is over."""
        return int(_labels(batch).has_stress.sum())

    def __call__(
        self,
        potential: Potential,
        batch: GraphBatch,
        prediction: Prediction,
        *,
        generator: torch.Generator,
    ) -> Tensor:
        """Return the loss (see `ase_ws.typing.LossTerm`)."""
        labels = _labels(batch)
        if prediction.stress is None or not bool(labels.has_stress.any()):
            return _nothing(prediction)
        mask = labels.has_stress
        return (prediction.stress[mask] - labels.stress[mask]).square().mean()
