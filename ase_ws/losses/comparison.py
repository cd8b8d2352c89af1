"""What the paper compares its losses with: labels carried over to displaced copies."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ase_ws.graphs import sum_by_graph
from ase_ws.losses.copies import evaluate_copies
from ase_ws.losses.displacements import Shape
from ase_ws.losses.residual import Metric, check_metric, penalty
from ase_ws.losses.term import DisplacedTerm, labels_of, nothing
from ase_ws.typing import GraphBatch, Labels, Potential, Prediction


@dataclass(frozen=True)
class _LabelledCopyLoss(DisplacedTerm):
    """What both share: one displaced copy, held against labels of the frame it came from."""

    epsilon: float
    metric: Metric = "square"
    delta: float = 0.01
    shape: Shape = "cube"
    cap: float = 0.3
    pool: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        check_metric(self.metric)
        _ = self.displacements

    def _target(self, labels: Labels, displacement: Tensor, batch: GraphBatch) -> Tensor:
        """Energy that the copy should have, (n_graphs,), eV."""
        raise NotImplementedError

    def _usable(self, labels: Labels) -> Tensor:
        """Structures whose labels suffice, (n_graphs,), bool."""
        raise NotImplementedError

    def __call__(
        self,
        potential: Potential,
        batch: GraphBatch,
        prediction: Prediction,
        *,
        generator: torch.Generator,
    ) -> Tensor:
        """Return the loss (see `ase_ws.typing.LossTerm`)."""
        labels = labels_of(batch)
        mask = self._usable(labels)
        if not bool(mask.any()):
            return nothing(prediction)
        copy = self.displacements.copy(batch, generator, forces=False)
        (moved,) = evaluate_copies(potential, batch, [copy], self.skin)
        target = self._target(labels, copy.displacement, batch)
        # Select before any arithmetic: a NaN times zero is a NaN.
        error = (moved.energy[mask] - target[mask]) / batch.n_atoms[mask]
        return penalty(error, self.metric, self.delta).mean()


@dataclass(frozen=True)
class TaylorLabelLoss(_LabelledCopyLoss):
    """Energies of displaced copies by a first-order Taylor expansion of the labels.

    L = mean over structures with energy and forces labels of ρ(R / n_atoms), with

        R = E(r+δ) − [E_ref − Σ_i δ_i·F_ref,i]

    The truncation error of the target is ½ δᵀHδ. In eV²/atom² for squares, as `EnergyLoss`.

    Parameters
    ----------
    epsilon : float, Å
    metric : {"square", "absolute", "huber"}
    delta : float, eV/atom
        Of the Huber form.
    shape, cap, pool, seed
        See `ase_ws.losses.Displacements`.

    Raises
    ------
    ValueError
        The batch has no labels, or its edges do not reach `r_max + skin`.

    Notes
    -----
    Source: Cooper, Kästner, Urban, Artrith, npj Comput. Mater. 6, 54 (2020); a comparison method of
    arXiv 2408.05215.
    """

    def _usable(self, labels: Labels) -> Tensor:
        return labels.has_energy & labels.has_forces

    def _target(self, labels: Labels, displacement: Tensor, batch: GraphBatch) -> Tensor:
        work = sum_by_graph((displacement * labels.forces).sum(dim=1), batch)
        return labels.energy - work


@dataclass(frozen=True)
class NoisyNodesLoss(_LabelledCopyLoss):
    """Energies of displaced copies by the unperturbed label: noise as regularisation.

    L = mean over structures with an energy label of ρ(R / n_atoms), with R = E(r+δ) − E_ref. The
    target is wrong by the first-order work Σ δ·F, which averages out over draws, and by ½ δᵀHδ,
    which does not. In eV²/atom² for squares, as `EnergyLoss`.

    The auxiliary task of the original method, to predict the noise itself from a head of its own,
    is left out: a `Potential` has no such head.

    Parameters
    ----------
    epsilon, metric, delta, shape, cap, pool, seed
        As in `TaylorLabelLoss`.

    Raises
    ------
    ValueError
        The batch has no labels, or its edges do not reach `r_max + skin`.

    Notes
    -----
    Source: Godwin et al., "Simple GNN regularisation for 3D molecular property prediction and
    beyond", ICLR 2022, arXiv 2106.07971; a comparison method of arXiv 2408.05215.
    """

    def _usable(self, labels: Labels) -> Tensor:
        return labels.has_energy

    def _target(self, labels: Labels, displacement: Tensor, batch: GraphBatch) -> Tensor:
        return labels.energy
