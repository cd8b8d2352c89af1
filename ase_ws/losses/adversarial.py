"""Displacements towards where the potential is likely wrong."""

from __future__ import annotations

import torch
from torch import Tensor

from ase_ws.graphs import sum_by_graph
from ase_ws.losses.copies import Copy, evaluate_copies
from ase_ws.losses.displacements import Displacements
from ase_ws.losses.residual import forces_of, path_residual
from ase_ws.typing import GraphBatch, Potential, Prediction


def adversarial_direction(
    potential: Potential,
    batch: GraphBatch,
    prediction: Prediction,
    sampler: Displacements,
    order: int,
    generator: torch.Generator,
) -> Tensor:
    """δ where the potential is likely wrong, of the sampler's root mean square, (n_atoms, 3), Å.

    Along the force error F − F_ref, with a random sign, for structures whose forces are labelled.
    Elsewhere uphill in R² from a random δ0: sign(R) ∂R/∂δ, with R the residual of PITC at δ0; this
    costs one evaluation and one gradient with respect to positions.
    """
    start = sampler(batch, generator)
    sign = 2.0 * torch.randint(2, (batch.n_graphs,), generator=generator).to(start) - 1.0
    labels = batch.labels
    labelled = torch.zeros(batch.n_graphs, dtype=torch.bool, device=start.device)
    if labels is not None and prediction.forces is not None:
        labelled = labels.has_forces
    direction = torch.zeros_like(start)
    if labels is not None and prediction.forces is not None and bool(labelled.any()):
        atoms = labelled[batch.batch]
        error = prediction.forces.detach()[atoms] - labels.forces[atoms]
        direction[atoms] = sign[batch.batch[atoms], None] * error
    if not bool(labelled.all()):
        uphill = _uphill(potential, batch, prediction, start, order, sampler)
        atoms = ~labelled[batch.batch]
        direction[atoms] = uphill[atoms]
    size = (sum_by_graph(direction.square().mean(dim=1), batch) / batch.n_atoms).sqrt()
    # Where there is no direction (no error at all), the random one is as good as any.
    lost = size < 1e-12
    direction = torch.where(lost[batch.batch, None], start, direction)
    size = torch.where(lost, sampler.root_mean_square, size)
    return direction * (sampler.root_mean_square / size)[batch.batch, None]


def _uphill(
    potential: Potential,
    batch: GraphBatch,
    prediction: Prediction,
    start: Tensor,
    order: int,
    sampler: Displacements,
) -> Tensor:
    """Give sign(R) ∂R/∂δ at δ = start, (n_atoms, 3)."""
    if prediction.forces is None:
        prediction = potential(batch, forces=True)
    here = Prediction(prediction.energy.detach(), forces_of(prediction).detach())
    with torch.enable_grad():
        step = start.detach().requires_grad_()
        copy = Copy(step, forces=order == 2)
        (end,) = evaluate_copies(potential, batch, [copy], 2 * sampler.longest)
        residual = path_residual(end, here, step, batch, order)
        (gradient,) = torch.autograd.grad(residual.sum(), step)
    return residual.detach().sign()[batch.batch, None] * gradient
