"""For direct forces: no curl, and the gradient of the energy in all components at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ase_ws.graphs import mean_by_graph, pieces, sum_by_graph
from ase_ws.losses.copies import Copy, edges_for
from ase_ws.losses.displacements import Shape
from ase_ws.losses.evaluation import PIECE_ATOMS, sum_in_pieces
from ase_ws.losses.residual import Metric, check_metric, forces_of, penalty
from ase_ws.losses.term import DisplacedTerm
from ase_ws.losses.weak import WeakLoss
from ase_ws.typing import GraphBatch, Potential, Prediction


@dataclass(frozen=True)
class GradientLoss(DisplacedTerm):
    """Direct forces must be −dE/dr at a displaced copy, in all components.

    L = mean over structures of (1 / 3 n_atoms) Σ ρ(F_i(r+δ) + ∂E/∂r_i(r+δ)), in eV²/Å² for
    squares: the limit of PITC, taken at r+δ, for short steps in all directions at once. One more
    forward pass and a double backward pass, as training on forces costs a conservative model. Of
    no use for conservative potentials, where it is zero.

    A part of the structures whose forces are labelled, drawn anew each time, may stay at r instead,
    with the label in place of F: (1 / 3 n_atoms) Σ ρ(F_ref,i + ∂E/∂r_i(r)), the limit of Taylor
    labels for short steps in all directions at once.

    Parameters
    ----------
    epsilon : float, Å
        Scale of δ; 0: at r itself.
    metric : {"square", "absolute", "huber"}
    delta : float, eV/Å
        Of the Huber form.
    shape : {"cube", "ball", "gaussian"}
    cap : float
        See `ase_ws.losses.Displacements`.
    detach_forces : bool
        Let no gradient flow through the forces: the energy follows them, not the reverse.
    at_labels : float
        Part of the structures with labelled forces that stay at r and follow the label.

    Raises
    ------
    ValueError
        `at_labels` is not within 0 and 1, the batch's edges do not reach `r_max + skin`, or the
        potential gives no forces.

    Notes
    -----
    This package's. Measured in `ase_ws/losses/README.md`, "When do the weak losses pay?".
    """

    epsilon: float = 0.03
    metric: Metric = "square"
    delta: float = 0.1
    shape: Shape = "cube"
    cap: float = 0.3
    detach_forces: bool = False
    at_labels: float = 0.0

    def __post_init__(self) -> None:
        check_metric(self.metric)
        if not 0 <= self.at_labels <= 1:
            raise ValueError(f"at_labels must lie within 0 and 1: {self.at_labels}")
        if self.epsilon:
            _ = self.displacements

    @property
    def skin(self) -> float:
        """How far beyond `r_max` the edges of a batch must reach, Å."""
        return super().skin if self.epsilon else 0.0

    def __call__(
        self,
        potential: Potential,
        batch: GraphBatch,
        prediction: Prediction,
        *,
        generator: torch.Generator,
    ) -> Tensor:
        """Return the loss (see `ase_ws.typing.LossTerm`)."""
        moved = replace(batch, labels=None, frame_ids=None)
        stays = self._stays(batch, generator)
        if self.epsilon:
            step = self.displacements(batch, generator)
            moved = moved.displaced(torch.where(stays[:, None], 0.0, step))
        labels = batch.labels
        targets = torch.zeros_like(batch.positions) if labels is None else labels.forces
        # The graph of a gradient holds about twice the memory of an evaluation.
        most = PIECE_ATOMS // 2
        if len(moved.positions) <= most:
            return self._value(potential, moved, stays, targets)

        def values(_: list[Tensor]) -> Iterator[Tensor]:
            for _graphs, atoms, part in pieces(moved, most):
                value = self._value(potential, part, stays[atoms], targets[atoms])
                yield value * (part.n_graphs / moved.n_graphs)

        return sum_in_pieces(potential, [], values)

    def _stays(self, batch: GraphBatch, generator: torch.Generator) -> Tensor:
        """Atoms of structures that stay at r and follow their labels, (n_atoms,), bool."""
        if batch.labels is None or not self.at_labels:
            return torch.zeros_like(batch.batch, dtype=torch.bool)
        drawn = torch.rand(batch.n_graphs, generator=generator) < self.at_labels
        return (drawn.to(batch.batch.device) & batch.labels.has_forces)[batch.batch]

    def _value(
        self, potential: Potential, moved: GraphBatch, stays: Tensor, targets: Tensor
    ) -> Tensor:
        """Mean over structures of what is left over, at the positions as they are."""
        positions = moved.positions.detach().requires_grad_()
        there = potential(
            replace(edges_for(potential, moved, self.skin), positions=positions),
            forces=True,
            create_graph=True,
        )
        (gradient,) = torch.autograd.grad(there.energy.sum(), positions, create_graph=True)
        forces = forces_of(there).detach() if self.detach_forces else forces_of(there)
        # Selected, not multiplied: what is not labelled may be NaN.
        forces = torch.where(stays[:, None], targets.to(forces.dtype), forces)
        per_atom = penalty(forces + gradient, self.metric, self.delta).mean(dim=1)
        return mean_by_graph(per_atom, moved).mean()


@dataclass(frozen=True)
class CurlLoss(WeakLoss):
    """Forces alone must have no curl: the work round a small parallelogram is zero.

    L = mean over structures of ρ(R) / n_atoms, with u and v two displacements of all atoms and

        R = ½ Σ_i [u_i·(F_i(r+v) − F_i(r−v)) − v_i·(F_i(r+u) − F_i(r−u))] = uᵀJv − vᵀJu + O(ε⁴)

    where J = ∂F/∂r. It asks nothing of the energy; for a conservative potential it is zero but for
    the O(ε⁴). Four evaluations with forces.

    Parameters
    ----------
    epsilon, metric, delta, shape, cap, pool, seed
        As in `PITCLoss`; the others have no meaning here.

    Notes
    -----
    This package's, for direct forces, whose curl is what heats an NVE run.
    """

    def copies(
        self,
        potential: Potential,
        batch: GraphBatch,
        prediction: Prediction,
        generator: torch.Generator,
    ) -> list[Copy]:
        """Four copies, at +u, −u, +v, −v, all with forces."""
        u, v = (self.displacements(batch, generator) for _ in range(2))
        return [Copy(step, forces=True) for step in (u, -u, v, -v)]

    def residual(
        self,
        batch: GraphBatch,
        start: Prediction,
        copies: Sequence[Copy],
        predictions: Sequence[Prediction],
    ) -> Tensor:
        """R of each structure, (n_graphs,), eV."""
        u, v = copies[0].displacement, copies[2].displacement
        up, down, right, left = map(forces_of, predictions)
        work = (u * (right - left) - v * (up - down)).sum(dim=1)
        return 0.5 * sum_by_graph(work, batch)
