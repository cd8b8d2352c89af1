"""Error bars of energies and forces, from the posterior that a model carries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ase_ws.errors import UserError
from ase_ws.potentials.base import PotentialModule
from ase_ws.typing import GraphBatch, Potential, Prediction

#: Samples are taken at this part of their way: small enough for the linearised model that the
#: posterior is of (most of a sample is in directions that no label fixes, and at a tenth of the way
#: second derivatives there had doubled the spread of energies), large enough for the precision.
PART = {torch.float32: 3e-3, torch.float64: 1e-4}
#: Names of the results, as those of a committee.
SPREADS = ("energy_spread", "forces_spread")


class Spreads(NamedTuple):
    """Standard deviations.

    Attributes
    ----------
    energy : Tensor, (n_graphs,), eV
    forces : Tensor, (n_atoms,), eV/Å, or None
        Root of the summed variances of an atom's three components.
    """

    energy: Tensor
    forces: Tensor | None

    def apart(self, batch: GraphBatch) -> Iterator[dict[str, Any]]:
        """Give each structure's as ASE has results."""
        sizes = batch.n_atoms.tolist()
        forces = [None] * len(sizes) if self.forces is None else self.forces.split(sizes)
        for energy, of_atoms in zip(self.energy.tolist(), forces, strict=True):
            found = {"energy_spread": energy}
            yield (
                found if of_atoms is None else {**found, "forces_spread": of_atoms.cpu().numpy()}
            )


class ErrorBars:
    """Predictions of a potential, and how well its labels fix them.

    With samples (δ_m, x_m) of the posterior of weights and reference energies, m = 1..M, and the
    noise σ of an energy per atom,

        s(E)² = Var_m(J_E δ_m + Σ_z n_z x_mz) + (n σ)²,    s(F_i)² = Σ Var_m(J_Fi δ_m),

    the derivatives taken along the samples as differences. Like a committee's, the variances are
    about the mean of the samples: that takes off what second derivatives have in common.

    Parameters
    ----------
    potential : PotentialModule
        With a `posterior`.

    Raises
    ------
    UserError
        It has none.
    """

    def __init__(self, potential: Potential):
        if not isinstance(potential, PotentialModule) or potential.posterior is None:
            raise UserError(
                "error bars: this model does not know how well labels fix it; models that are "
                "fitted to energies in closed form do (ase-ws finetune --optimizer gauss-newton)"
            )
        self.posterior = potential.posterior
        self._part = PART[potential.dtype]
        members: list[Any] = [
            member.requires_grad_(False).lean()
            for member in self.posterior.members(potential, self._part)
        ]
        self._members = [potential.lean(), *members]
        join = getattr(self._members[0], "side_by_side", None)
        self._together = None if join is None else join(members)

    def __call__(self, batch: GraphBatch, *, forces: bool) -> tuple[Prediction, Spreads]:
        """Evaluate the potential, and its standard deviations.

        Raises
        ------
        UserError
            An element that no label has.
        """
        self.posterior.check_elements(batch.numbers.tolist())
        # No force could be computed in the caller's inference mode.
        with torch.inference_mode(False), torch.no_grad():
            if self._together is not None:
                mean, *others = self._together(batch, forces=forces)
            else:
                mean, *others = (member(batch, forces=forces) for member in self._members)
            changes = torch.stack([other.energy - mean.energy for other in others]) / self._part
            variance = changes.var(0) + (batch.n_atoms * self.posterior.noise).square()
            if mean.forces is None:
                return mean, Spreads(variance.sqrt(), None)
            moved = [(other.forces - mean.forces) / self._part for other in others]
            squares = torch.stack(moved).double().var(0).sum(dim=1)
            return mean, Spreads(variance.sqrt(), squares.sqrt())
