"""PaiNN as a `Potential`, from the library graph-pes. The only file that imports it.

An optional extra: `pip install "ase-ws[painn]"`. Nothing outside this file knows more of it than
`ase_ws.typing.Potential` says.

What it guards against (graph-pes 1.0): importing it changes what `torch.load` trusts, the filters
of warnings and a logger's level, and builds a Lightning trainer; its `forward` allocates in
torch's default precision whatever that of the weights; constants that are no buffers keep the
precision they were built in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ase_ws.errors import UserError
from ase_ws.potentials.architecture import Architecture
from ase_ws.potentials.base import PotentialModule
from ase_ws.potentials.skin import leak_beyond_cutoff
from ase_ws.potentials.weights import check_total, load_weights
from ase_ws.side_effects import building, default_dtype, without_side_effects
from ase_ws.typing import GraphBatch

try:
    with without_side_effects():
        from graph_pes import AtomicGraph
        from graph_pes.models import PaiNN
except ImportError as error:
    raise UserError(
        f"a PaiNN model needs the library graph-pes ({error}): "
        'install it with pip install "ase-ws[painn]"'
    ) from error


class PaiNNArchitecture(Architecture):
    """What is needed to build a PaiNN again: `scale` and `shift` in eV."""

    channels: int = Field(default=64, gt=0, description="scalars, and vectors, of each atom")
    num_interactions: int = Field(default=2, gt=0)
    num_bessel: int = Field(default=8, gt=0)
    scale: float = Field(default=1.0, allow_inf_nan=False)
    shift: float = Field(default=0.0, allow_inf_nan=False)

    @property
    def size(self) -> str:
        """The network in a few words."""
        return f"PaiNN, {self.num_interactions} layers, {self.channels} channels"


class PaiNNPotential(PotentialModule):
    """A PaiNN whose energy is E = Σ_i [E0(Z_i) + shift + scale ε_i(r)], forces F = -dE/dr.

    ε_i is what the network says of atom i, in its own precision; the rest is added, and everything
    summed, in float64. Messages are multiplied by a polynomial that is exactly zero from `r_max`
    on. Schütt, Unke and Gastegger, ICML 2021, arXiv 2102.03150.

    Parameters
    ----------
    network : graph_pes.models.PaiNN
    architecture : PaiNNArchitecture
    e0
        As in `PotentialModule`.
    """

    kind = "painn"
    architecture_type = PaiNNArchitecture
    architecture: PaiNNArchitecture

    def __init__(self, network: PaiNN, architecture: PaiNNArchitecture, e0: np.ndarray | Tensor):
        super().__init__(architecture, e0)
        self.network = network
        self.skin_safe = leak_beyond_cutoff(self) == 0.0

    def atomic_energies(self, batch: GraphBatch) -> Tensor:
        """Energies per atom, (n_atoms,), eV, float64, differentiable in positions and cell."""
        elements = self.element_indices(batch)
        ends = torch.cumsum(batch.n_atoms, 0)
        # The same convention for edges as ours: r_j − r_i + shifts @ cell, taken from this batch.
        graph = AtomicGraph(
            Z=batch.numbers,
            R=batch.positions.to(self.dtype),
            cell=batch.cell.to(self.dtype),
            neighbour_list=batch.edge_index,
            neighbour_cell_offsets=batch.shifts.to(self.dtype),
            properties={},
            cutoff=batch.cutoff,
            other={},
            batch=batch.batch,
            ptr=torch.cat([ends.new_zeros(1), ends]),
        )
        with default_dtype(self.dtype):
            local = self.network(graph)["local_energies"]
        # A single atom comes back without its dimension.
        interaction = local.reshape(-1).double()
        shape = self.architecture
        return self.e0[elements] + shape.shift + shape.scale * interaction

    @classmethod
    def rebuild(
        cls,
        description: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        e0: np.ndarray,
        head: str | None = None,
    ) -> PaiNNPotential:
        """Build the potential from a model file's content (see `PotentialModule.rebuild`)."""
        if head is not None:
            raise UserError(f"a PaiNN model has no heads, so no head '{head}'")
        architecture = PaiNNArchitecture(**description["architecture"])
        size = architecture.num_interactions * architecture.channels**2
        check_total("channels", max(size, architecture.num_bessel), tensors)
        return build_painn(architecture, e0, tensors=tensors)


def build_painn(
    architecture: PaiNNArchitecture,
    e0: np.ndarray | Sequence[float],
    *,
    seed: int = 0,
    tensors: Mapping[str, Tensor] | None = None,
) -> PaiNNPotential:
    """Build a PaiNN from its architecture, with fresh weights or with given ones.

    Parameters
    ----------
    architecture : PaiNNArchitecture
    e0 : array, (n_elements,), eV
    seed : int
        For fresh weights. The global random state is left as it was.
    tensors : mapping, optional
        Weights and buffers of the network by name. Every weight must be there.

    Raises
    ------
    UserError
        Weights are missing, unknown, or of another shape than the architecture says.
    """
    # Built in float64 and rounded after: constants that are no buffers are then the same whatever
    # the precision, so a model is the same after `to(dtype)` and after a file.
    with building(torch.float64, seed):
        network = PaiNN(
            channels=architecture.channels,
            radial_features=architecture.num_bessel,
            layers=architecture.num_interactions,
            cutoff=architecture.r_max,
        )
    network = network.to(getattr(torch, architecture.dtype))
    if tensors is not None:
        load_weights(network, tensors)
    return PaiNNPotential(network, architecture, np.asarray(e0, dtype=float))
