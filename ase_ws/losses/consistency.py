"""Direct forces held against the gradient of the energy, all components at once."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ase_ws.graphs import mean_by_graph
from ase_ws.losses.metrics import Metric, penalty
from ase_ws.typing import GraphBatch, Potential, Prediction


@dataclass(frozen=True)
class GradientLoss:
    """Direct forces must be −dE/dr: the limit of PITC for ε → 0, in all directions at once.

    L = mean over structures of (1 / 3 n_atoms) Σ ρ(F_i + ∂E/∂r_i), in eV²/Å² for squares. One more
    forward pass and a double backward pass, as training on forces costs a conservative model. Of
    no use for conservative potentials, where it is zero.

    Parameters
    ----------
    metric : {"square", "absolute", "huber"}
    delta : float, eV/Å
        Of the Huber form.
    detach_forces : bool
        Let no gradient flow through the forces: the energy follows them, not the reverse.

    Raises
    ------
    ValueError
        The prediction has no forces.

    Notes
    -----
    This package's.
    """

    metric: Metric = "square"
    delta: float = 0.1
    detach_forces: bool = False

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
        if prediction.forces is None:
            raise ValueError("the gradient loss needs a prediction with forces")
        forces = prediction.forces.detach() if self.detach_forces else prediction.forces
        positions = batch.positions.detach().requires_grad_()
        energy = potential(replace(batch, positions=positions), forces=False).energy
        (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=True)
        per_atom = penalty(forces + gradient, self.metric, self.delta).mean(dim=1)
        return mean_by_graph(per_atom, batch).mean()
