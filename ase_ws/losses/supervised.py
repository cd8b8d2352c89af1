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


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the values under the mask; exactly zero, with no gradient, where there are none."""
    # Select before any arithmetic: a NaN times zero is a NaN.
    chosen = values[mask]
    return chosen.mean() if chosen.numel() else values.new_zeros(())


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
        error = (prediction.energy[mask] - labels.energy[mask]) / batch.n_atoms[mask]
        return _masked_mean(
            penalty(error, self.metric, self.delta), torch.ones_like(error, dtype=torch.bool)
        )


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
            return prediction.energy.new_zeros(())
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
            return prediction.energy.new_zeros(())
        mask = labels.has_stress
        return (prediction.stress[mask] - labels.stress[mask]).square().mean()
