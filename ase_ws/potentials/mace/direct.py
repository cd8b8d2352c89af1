"""Forces read out directly from a MACE's equivariant features: fast, and not conservative."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from ase_ws.graphs import edge_vectors, mean_by_graph, sum_by_graph
from ase_ws.potentials.base import PotentialModule
from ase_ws.potentials.derivatives import predict_conservative
from ase_ws.potentials.mace.architecture import MACEArchitecture
from ase_ws.potentials.mace.lean.model import NOT_READ, LeanMACE
from ase_ws.potentials.mace.lean.trainable import TrainableMACE
from ase_ws.potentials.mace.model import MACEPotential
from ase_ws.potentials.weights import check_total, load_weights
from ase_ws.typing import GraphBatch, Potential, Prediction


class ReadoutSettings(BaseModel):
    """Size of the readout; written into the model file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: int = Field(default=64, gt=0, description="hidden units of its two small networks")
    n_radial: int = Field(default=8, gt=0, description="radial functions of the pair term")
    scale: float = Field(
        default=1.0, gt=0, allow_inf_nan=False, description="eV/Å: size of a typical force"
    )


class DirectReadout(torch.nn.Module):
    """F_i = s [Σ_c g_c(h_i) V_ic + Σ_j φ(h_i, h_j, r_ij) f(r_ij) r̂_ij], before `without_net`.

    h_i are the scalars and V_ic the vectors of atom i, from all layers of the network; the gates g
    and the pair function φ are small networks of the scalars, s the scale in eV/Å. The cutoff
    f = (1 − (r/r_max)²)³ is exactly zero from `r_max` on. Rotations and reflections turn F with
    the structure.

    Parameters
    ----------
    n_scalars, n_vectors : int
        Of each atom.
    r_max : float, Å
    settings : ReadoutSettings
    """

    def __init__(self, n_scalars: int, n_vectors: int, r_max: float, settings: ReadoutSettings):
        super().__init__()
        self.settings, self.r_max = settings, r_max
        width = settings.width
        # A network of a single layer has no vectors: then the pair term is all there is.
        self.gates = (
            torch.nn.Sequential(
                torch.nn.Linear(n_scalars, width),
                torch.nn.SiLU(),
                torch.nn.Linear(width, n_vectors),
            )
            if n_vectors
            else None
        )
        self.centre = torch.nn.Linear(n_scalars, width)
        self.neighbour = torch.nn.Linear(n_scalars, width, bias=False)
        self.radial = torch.nn.Linear(settings.n_radial, width, bias=False)
        self.pair = torch.nn.Linear(width, 1, bias=False)
        self.register_buffer(
            "frequencies", torch.pi / r_max * torch.arange(1.0, settings.n_radial + 1)
        )

    frequencies: Tensor

    def forward(self, scalars: Tensor, vectors: Tensor, batch: GraphBatch) -> Tensor:
        """Give forces, (n_atoms, 3), eV/Å, with whatever net force and torque they have."""
        own = scalars.new_zeros((len(scalars), 3))
        if self.gates is not None:
            own = torch.einsum("nc,ncx->nx", self.gates(scalars), vectors)
        i, j = batch.edge_index
        edge = edge_vectors(batch).to(scalars.dtype)
        length = edge.norm(dim=1, keepdim=True)
        cutoff = (1 - (length / self.r_max).square()).clamp(min=0.0) ** 3
        waves = torch.sin(self.frequencies * length) / length
        hidden = torch.nn.functional.silu(self.centre(scalars)[i] + self.neighbour(scalars)[j])
        along = self.pair(hidden * self.radial(waves)) * cutoff / length
        return self.settings.scale * own.index_add(0, i, self.settings.scale * along * edge)


def without_net(forces: Tensor, batch: GraphBatch) -> Tensor:
    """Take off the net force of every structure, and the net torque of isolated ones.

    F_i ← F_i − (1/n) Σ_j F_j, then, where nothing is periodic, F_i ← F_i − ω × x_i with
    I ω = Σ_i x_i × F_i, x_i from the geometric centre and I = Σ_i (|x_i|² 1 − x_i x_iᵀ): the
    smallest change that leaves neither. All atoms of a structure share it, however far apart.

    Parameters
    ----------
    forces : Tensor, (n_atoms, 3), eV/Å
    batch : GraphBatch

    Returns
    -------
    Tensor, (n_atoms, 3), eV/Å
    """
    forces = forces - mean_by_graph(forces, batch)[batch.batch]
    isolated = ~batch.pbc.any(dim=1)
    if not bool(isolated.any()):
        return forces
    x = batch.positions.double()
    x = x - mean_by_graph(x, batch)[batch.batch]
    torque = sum_by_graph(torch.linalg.cross(x, forces.double()), batch)
    unit = torch.eye(3, dtype=x.dtype, device=x.device)
    inertia = sum_by_graph(
        x.square().sum(dim=1)[:, None, None] * unit - x[:, :, None] * x[:, None, :], batch
    )
    # A linear molecule has no moment about its axis, and no torque about it either: a whisper of
    # one keeps the equations solvable and changes nothing.
    trace = inertia.diagonal(dim1=1, dim2=2).sum(dim=1)
    inertia = inertia + (1e-10 * trace + 1e-12)[:, None, None] * unit
    omega = torch.linalg.solve(inertia, torque) * isolated[:, None]
    return forces - torch.linalg.cross(omega[batch.batch], x).to(forces.dtype)


class _DirectForces(torch.nn.Module):
    """A `Potential` with the energy of a body and the forces of a readout."""

    body: Any  # a MACEPotential or its lean form
    readout: DirectReadout
    conservative = False

    def atomic_energies(self, batch: GraphBatch) -> Tensor:
        """Energies per atom, (n_atoms,), eV, float64."""
        return self.body.atomic_energies(batch)

    def forward(
        self,
        batch: GraphBatch,
        *,
        forces: bool,
        stress: bool = False,
        create_graph: bool = False,
    ) -> Prediction:
        """Energy from the body, forces from the readout; stress, if asked, from the energy."""
        if stress or not forces:
            plain = predict_conservative(
                self.atomic_energies, batch, forces=False, stress=stress, create_graph=create_graph
            )
            return plain._replace(forces=self._direct(batch)[1]) if forces else plain
        energies, values = self._direct(batch)
        return Prediction(sum_by_graph(energies, batch), values, energies=energies)

    def _direct(self, batch: GraphBatch) -> tuple[Tensor, Tensor]:
        features = self.body.features(batch)
        raw = self.readout(features.scalars, features.vectors, batch)
        return features.energies, without_net(raw, batch)


class LeanDirect(_DirectForces):
    """A `DirectPotential` on a lean body: one forward pass of few operations."""

    def __init__(self, potential: DirectPotential, body: LeanMACE):
        super().__init__()
        self.body = body
        self.readout = potential.readout
        self.r_max = potential.r_max
        self.atomic_numbers = potential.atomic_numbers
        self.skin_safe = potential.skin_safe


class DirectPotential(_DirectForces, PotentialModule):
    """A MACE with forces of their own: E from the network, F from a `DirectReadout`.

    An evaluation costs one forward pass and no backward pass. Nothing makes the forces the
    gradient of the energy: the weak losses are what draws them together, and
    `ase-ws evaluate` says how far apart they are. Energy is not conserved in MD. Stress, where
    asked for, is the derivative of the energy.

    Parameters
    ----------
    body : MACEPotential
        Gives the energies and features. Becomes part of this potential.
    settings : ReadoutSettings, optional
    seed : int
        Of the readout's weights. The global random state is left as it was.
    """

    kind = "mace-direct"
    architecture_type = MACEArchitecture
    body: MACEPotential

    def __init__(
        self, body: MACEPotential, settings: ReadoutSettings | None = None, *, seed: int = 0
    ):
        super().__init__(body.architecture, body.reference_energies, body.head)
        self.body = body
        self.skin_safe = body.skin_safe
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            readout = DirectReadout(*body.feature_counts, body.r_max, settings or ReadoutSettings())
        self.readout = readout.to(body.device, body.dtype)
        # One tensor: shifting the reference energies shifts those of the body.
        self.reference_energies = body.reference_energies

    def _apply(self, fn: Any, recurse: bool = True) -> DirectPotential:
        super()._apply(fn, recurse)
        self.reference_energies = self.body.reference_energies
        return self

    def lean(self, *, compiled: bool = False) -> Potential:
        """Give the same on the lean form of the body, if it is known."""
        try:
            return LeanDirect(self, LeanMACE(self.body, compiled=compiled))
        except NOT_READ:
            return self

    def trainable(self) -> Potential:
        """Give the same for training."""
        try:
            return LeanDirect(self, TrainableMACE(self.body))
        except NOT_READ:
            return self

    def with_direct_forces(self, *, scale: float, seed: int) -> PotentialModule:
        """Give the potential: its readout is there, and is kept."""
        return self

    def with_energy_forces(self) -> PotentialModule:
        """Take the readout off."""
        return self.body

    def description(self) -> dict[str, Any]:
        """Plain data from which the potential is built again."""
        return {
            **self.body.description(),
            "readout": self.readout.settings.model_dump(mode="json"),
        }

    def tensors(self) -> dict[str, Tensor]:
        """Weights and buffers of body and readout by name."""
        body = {f"body.{name}": value for name, value in self.body.tensors().items()}
        readout = {f"readout.{name}": v for name, v in self.readout.state_dict().items()}
        return body | readout

    @classmethod
    def rebuild(
        cls,
        description: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        e0: np.ndarray,
        head: str | None = None,
    ) -> DirectPotential:
        """Build the potential from a model file's content (see `PotentialModule.rebuild`)."""
        body = MACEPotential.rebuild(description, _below("body.", tensors), e0, head)
        settings, weights = ReadoutSettings(**description["readout"]), _below("readout.", tensors)
        check_total("readout", settings.width * settings.n_radial, weights)
        potential = cls(body, settings)
        load_weights(potential.readout, weights)
        return potential


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
