"""The physics-informed weakly supervised losses.

Takamoto, Zaverkin, Niepert, "Physics-informed weakly supervised learning for interatomic
potentials", ICML 2025, arXiv 2408.05215. They need no labels: energy and forces of one potential
at displaced copies of a structure must fit each other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from ase_ws.graphs import rebuilt, sum_by_graph
from ase_ws.losses.displacements import Displacements
from ase_ws.losses.metrics import Metric, penalty
from ase_ws.typing import GraphBatch, Potential, Prediction


def path_residual(
    end: Prediction, start: Prediction, step: Tensor, batch: GraphBatch, order: int
) -> Tensor:
    """Energy that is left when the work along a short straight path is taken off.

    R = E(end) − [E(start) − Σ_i step_i · F_i], with F = F(start) at first order and the mean of
    F(start) and F(end) (the trapezoid) at second. Zero for a conservative potential but for the
    truncation error: ½ stepᵀ H step at first order, O(step³) at second.

    Parameters
    ----------
    end, start : Prediction
        With forces at `start`, and at `end` for second order.
    step : Tensor, (n_atoms, 3), Å
        From start to end.
    batch : GraphBatch
    order : {1, 2}

    Returns
    -------
    Tensor, (n_graphs,), eV
    """
    forces = _forces(start)
    if order == 2:
        forces = 0.5 * (forces + _forces(end))
    work = sum_by_graph((step * forces).sum(dim=1), batch)
    return end.energy - (start.energy - work)


def _forces(prediction: Prediction) -> Tensor:
    if prediction.forces is None:
        raise ValueError("the weak losses need a prediction with forces")
    return prediction.forces


@dataclass(frozen=True)
class _WeakLoss:
    """What PITC and PISC share."""

    epsilon: float
    order: Literal[1, 2] = 1
    metric: Metric = "square"
    delta: float = 0.1
    shape: Literal["cube", "ball", "gaussian"] = "cube"
    cap: float = 0.3
    reference: Potential | None = field(default=None, repr=False)
    detach_target: bool = False

    def __post_init__(self) -> None:
        if self.order not in (1, 2):
            raise ValueError(f"order must be 1 or 2: {self.order}")
        if self.metric not in get_args(Metric):
            raise ValueError(f"metric must be one of {get_args(Metric)}: '{self.metric}'")
        Displacements(self.epsilon, self.shape, self.cap)

    @property
    def displacements(self) -> Displacements:
        """The sampler of displaced copies."""
        return Displacements(self.epsilon, self.shape, self.cap)

    @property
    def skin(self) -> float:
        """How far beyond `r_max` the edges of a batch must reach, Å."""
        return 2 * self.displacements.longest

    def _evaluate(
        self, potential: Potential, batch: GraphBatch, displacement: Tensor, *, forces: bool
    ) -> Prediction:
        """Prediction at a displaced copy, of the difference to the reference where there is one."""
        moved = batch.displaced(displacement)
        prediction = potential(
            self._edges_for(potential, moved, self.skin), forces=forces, create_graph=forces
        )
        return self._less_reference(prediction, moved, forces=forces, skin=self.skin)

    def _less_reference(
        self, prediction: Prediction, batch: GraphBatch, *, forces: bool, skin: float = 0.0
    ) -> Prediction:
        if self.reference is None:
            return prediction
        with torch.no_grad():
            base = self.reference(self._edges_for(self.reference, batch, skin), forces=forces)
        return Prediction(
            energy=prediction.energy - base.energy,
            forces=_forces(prediction) - _forces(base) if forces else None,
        )

    @staticmethod
    def _edges_for(potential: Potential, batch: GraphBatch, skin: float) -> GraphBatch:
        """Keep the edges where that is exact, else build those that this potential needs."""
        if not potential.skin_safe:
            return rebuilt(batch, potential.r_max)
        if batch.cutoff < potential.r_max + skin - 1e-6:
            raise ValueError(
                f"the graph's edges reach {batch.cutoff:.3f} Å; displaced copies need "
                f"r_max + skin = {potential.r_max + skin:.3f} Å: build it with that cutoff"
            )
        return batch

    def _mean(self, residual: Tensor, batch: GraphBatch) -> Tensor:
        return (penalty(residual, self.metric, self.delta) / batch.n_atoms).mean()

    def _target(self, prediction: Prediction) -> Prediction:
        if not self.detach_target:
            return prediction
        return Prediction(prediction.energy.detach(), _forces(prediction).detach())


@dataclass(frozen=True)
class PITCLoss(_WeakLoss):
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
    reference : Potential, optional
        A frozen potential; the residual is that of the difference.
    detach_target : bool
        Let no gradient flow through the right-hand side (E and F at r).

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

    def __call__(
        self,
        potential: Potential,
        batch: GraphBatch,
        prediction: Prediction,
        *,
        generator: torch.Generator,
    ) -> Tensor:
        """Return the loss (see `ase_ws.typing.LossTerm`)."""
        return self._mean(self.residual(potential, batch, prediction, generator), batch)

    def residual(
        self,
        potential: Potential,
        batch: GraphBatch,
        prediction: Prediction,
        generator: torch.Generator,
    ) -> Tensor:
        """R of each structure, (n_graphs,), eV."""
        step = self.displacements(batch, generator)
        start = self._target(self._less_reference(prediction, batch, forces=True))
        end = self._evaluate(potential, batch, step, forces=self.order == 2)
        return path_residual(end, start, step, batch, self.order)


@dataclass(frozen=True)
class PISCLoss(_WeakLoss):
    """Physics-informed spatial (path) consistency of conservative forces.

    Two displaced copies must agree along the path between them. L = mean over structures of
    ρ(R) / n_atoms, with

        order 1 (the paper):  R = E(r+δ1) − [E(r+δ2) − Σ_i (δ1−δ2)_i·F_i(r+δ2)]
        order 2 (trapezoid):  the same with the mean of F(r+δ1) and F(r+δ2)

    and, with a `reference` potential, E and F replaced by their differences to it.

    Parameters
    ----------
    epsilon, order, metric, delta, shape, cap, reference, detach_target
        As in `PITCLoss`; `detach_target` stops gradients through E and F at r+δ2.

    Raises
    ------
    ValueError
        The batch's edges do not reach `r_max + skin`.

    Notes
    -----
    Source: Takamoto, Zaverkin, Niepert, arXiv 2408.05215, eq. for PISC; order 2 and the reference
    are this package's.
    """

    def needs_forces(self, batch: GraphBatch) -> bool:
        """Tell that none are needed at r: both copies are displaced."""
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
        return self._mean(self.residual(potential, batch, generator), batch)

    def residual(
        self, potential: Potential, batch: GraphBatch, generator: torch.Generator
    ) -> Tensor:
        """R of each structure, (n_graphs,), eV."""
        first = self.displacements(batch, generator)
        second = self.displacements(batch, generator)
        start = self._target(self._evaluate(potential, batch, second, forces=True))
        end = self._evaluate(potential, batch, first, forces=self.order == 2)
        return path_residual(end, start, first - second, batch, self.order)
