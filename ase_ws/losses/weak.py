"""The physics-informed weakly supervised losses.

Takamoto, Zaverkin, Niepert, "Physics-informed weakly supervised learning for interatomic
potentials", ICML 2025, arXiv 2408.05215. They need no labels: energy and forces of one potential
at displaced copies of a structure must fit each other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ase_ws.losses.adversarial import adversarial_direction
from ase_ws.losses.copies import Copy
from ase_ws.losses.displacements import Shape
from ase_ws.losses.evaluation import weak_values
from ase_ws.losses.reference import Reference
from ase_ws.losses.residual import Metric, check_metric, forces_of, path_residual, penalty
from ase_ws.losses.term import DisplacedTerm
from ase_ws.typing import GraphBatch, Potential, Prediction


@dataclass(frozen=True)
class WeakLoss(DisplacedTerm, ABC):
    """What the weak losses share: displaced copies are asked for, evaluated, and judged.

    The two halves, `copies` and `residual`, are apart so that the copies of several losses can go
    through the potential together (`weak_values`).
    """

    epsilon: float
    order: Literal[1, 2] = 1
    metric: Metric = "square"
    delta: float = 0.1
    shape: Shape = "cube"
    cap: float = 0.3
    reference: Potential | Reference | None = field(default=None, repr=False)
    detach_target: bool = False
    detach_forces: bool = False
    direction: Literal["random", "adversarial"] = "random"
    pool: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.order not in (1, 2):
            raise ValueError(f"order must be 1 or 2: {self.order}")
        check_metric(self.metric)
        if self.direction not in ("random", "adversarial"):
            raise ValueError(f"direction must be 'random' or 'adversarial': '{self.direction}'")
        _ = self.displacements

    @abstractmethod
    def copies(
        self,
        potential: Potential,
        batch: GraphBatch,
        prediction: Prediction,
        generator: torch.Generator,
    ) -> list[Copy]:
        """Draw the displaced copies that the residual needs."""

    @abstractmethod
    def residual(
        self,
        batch: GraphBatch,
        start: Prediction,
        copies: Sequence[Copy],
        predictions: Sequence[Prediction],
    ) -> Tensor:
        """R of each structure, (n_graphs,), eV, from the predictions at r and at the copies."""

    def __call__(
        self,
        potential: Potential,
        batch: GraphBatch,
        prediction: Prediction,
        *,
        generator: torch.Generator,
    ) -> Tensor:
        """Return the loss (see `ase_ws.typing.LossTerm`)."""
        return weak_values({"": self}, prediction, potential, batch, generator)[""]

    def of(
        self,
        batch: GraphBatch,
        start: Prediction,
        copies: Sequence[Copy],
        predictions: Sequence[Prediction],
    ) -> Tensor:
        """Return the loss of predictions that are already there, less the reference's if any."""
        if self.detach_forces:
            start, *predictions = map(_without_force_gradients, (start, *predictions))
        residual = self.residual(batch, start, copies, predictions)
        return (penalty(residual, self.metric, self.delta) / batch.n_atoms).mean()

    def _copy(
        self,
        potential: Potential,
        batch: GraphBatch,
        prediction: Prediction,
        generator: torch.Generator,
        *,
        forces: bool,
    ) -> Copy:
        """Draw the copy at the end of the path, where the direction matters."""
        if self.direction == "random":
            return self.displacements.copy(batch, generator, forces=forces)
        field_ = adversarial_direction(
            potential, batch, prediction, self.displacements, self.order, generator
        )
        return Copy(self.displacements.bounded(field_, batch), forces)

    def _target(self, prediction: Prediction) -> Prediction:
        if not self.detach_target:
            return prediction
        return Prediction(prediction.energy.detach(), forces_of(prediction).detach())


def _without_force_gradients(prediction: Prediction) -> Prediction:
    forces = prediction.forces
    return prediction._replace(forces=None if forces is None else forces.detach())


@dataclass(frozen=True)
class PITCLoss(WeakLoss):
    """Physics-informed Taylor-expansion consistency.

    L = mean over structures of ρ(R) / n_atoms, with

        order 1 (the paper):  R = E(r+δ) − [E(r) − Σ_i δ_i·F_i(r)]
        order 2 (trapezoid):  R = E(r+δ) − [E(r) − ½ Σ_i δ_i·(F_i(r) + F_i(r+δ))]

    and, with a `reference` potential, E and F replaced by their differences to it. On the true
    surface R is the truncation error, ½ δᵀHδ at order 1 and O(δ³) at order 2: at order 1 a
    conservative potential sees nothing but a penalty on (the difference's) curvature.

    Parameters
    ----------
    epsilon : float, Å
        Scale of the displacements.
    order : {1, 2}
    metric : {"square", "absolute", "huber"}
    delta : float, eV
        Of the Huber form.
    shape : {"cube", "ball", "gaussian"}
    cap : float
        See `ase_ws.losses.Displacements`.
    reference : Potential or Reference, optional
        A frozen potential; the residual is that of the difference. A `Reference` remembers what it
        said of the frames of a data set.
    detach_target : bool
        Let no gradient flow through the right-hand side (E and F at r).
    detach_forces : bool
        Let no gradient flow through any force: the energy follows the forces, not the reverse.
    direction : {"random", "adversarial"}
        Adversarial: along the force error where forces are labelled, else uphill in R² (see
        `adversarial_direction`).
    pool, seed : int
        See `ase_ws.losses.Displacements`.

    Raises
    ------
    ValueError
        The batch's edges do not reach `r_max + skin`, or its prediction has no forces.

    Notes
    -----
    Source: Takamoto, Zaverkin, Niepert, arXiv 2408.05215, eq. for PITC; order 2 and the reference
    are this package's.
    """

    def needs_forces(self, batch: GraphBatch) -> bool:
        """Tell that forces at r are needed, always."""
        return True

    def copies(
        self,
        potential: Potential,
        batch: GraphBatch,
        prediction: Prediction,
        generator: torch.Generator,
    ) -> list[Copy]:
        """One copy, with forces at order 2."""
        forces = self.order == 2
        return [self._copy(potential, batch, prediction, generator, forces=forces)]

    def residual(
        self,
        batch: GraphBatch,
        start: Prediction,
        copies: Sequence[Copy],
        predictions: Sequence[Prediction],
    ) -> Tensor:
        """R of each structure, (n_graphs,), eV."""
        step = copies[0].displacement
        return path_residual(predictions[0], self._target(start), step, batch, self.order)


@dataclass(frozen=True)
class PISCLoss(WeakLoss):
    """Physics-informed spatial (path) consistency of conservative forces.

    Two displaced copies must agree along the path between them. L = mean over structures of
    ρ(R) / n_atoms, with

        order 1 (the paper):  R = E(r+δ1) − [E(r+δ2) − Σ_i (δ1−δ2)_i·F_i(r+δ2)]
        order 2 (trapezoid):  the same with the mean of F(r+δ1) and F(r+δ2)

    and, with a `reference` potential, E and F replaced by their differences to it.

    Parameters
    ----------
    epsilon, order, metric, delta, shape, cap, reference, detach_target, detach_forces,
    direction, pool, seed
        As in `PITCLoss`; `detach_target` stops gradients through E and F at r+δ2, and `direction`
        is that of δ1.

    Raises
    ------
    ValueError
        The batch's edges do not reach `r_max + skin`.

    Notes
    -----
    Source: Takamoto, Zaverkin, Niepert, arXiv 2408.05215, eq. for PISC; order 2 and the reference
    are this package's.
    """

    def copies(
        self,
        potential: Potential,
        batch: GraphBatch,
        prediction: Prediction,
        generator: torch.Generator,
    ) -> list[Copy]:
        """Two copies; the second with forces, the first with forces at order 2."""
        forces = self.order == 2
        return [
            self._copy(potential, batch, prediction, generator, forces=forces),
            self.displacements.copy(batch, generator, forces=True),
        ]

    def residual(
        self,
        batch: GraphBatch,
        start: Prediction,
        copies: Sequence[Copy],
        predictions: Sequence[Prediction],
    ) -> Tensor:
        """R of each structure, (n_graphs,), eV."""
        path = copies[0].displacement - copies[1].displacement
        return path_residual(predictions[0], self._target(predictions[1]), path, batch, self.order)
