"""The contracts between the rooms, with shapes and units.

Everything that flows through the package is one of these: a `GraphBatch` goes into a
`Potential`, a `Prediction` comes out, a `LossTerm` compares them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Labels:
    """Reference values of a batch. What is absent is masked, never a zero target.

    Attributes
    ----------
    energy : Tensor, (n_graphs,), eV, float64
        Total energies. Meaningless where `has_energy` is False.
    has_energy : Tensor, (n_graphs,), bool
    forces : Tensor, (n_atoms, 3), eV/Å
        Meaningless for atoms of a structure where `has_forces` is False.
    has_forces : Tensor, (n_graphs,), bool
    stress : Tensor, (n_graphs, 3, 3), eV/Å³
        ASE's sign convention: positive under tension.
    has_stress : Tensor, (n_graphs,), bool
    weights : Tensor, (n_graphs, 3), float64, or None
        Of each structure's energy, forces and stress in the loss; None is the same as 1 everywhere.
    """

    energy: Tensor
    has_energy: Tensor
    forces: Tensor
    has_forces: Tensor
    stress: Tensor
    has_stress: Tensor
    weights: Tensor | None = None

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Labels:
        """Move to a device; forces and stress take `dtype`, energies stay in float64."""
        return Labels(
            energy=self.energy.to(device),
            has_energy=self.has_energy.to(device),
            forces=self.forces.to(device, dtype),
            has_forces=self.has_forces.to(device),
            stress=self.stress.to(device, dtype),
            has_stress=self.has_stress.to(device),
            weights=None if self.weights is None else self.weights.to(device),
        )


@dataclass(frozen=True, eq=False)
class GraphBatch:
    """One or more structures as one disconnected graph. Immutable: potentials never change it.

    The vector of edge (i, j) is `positions[j] - positions[i] + shifts @ cell`. The edges hold
    every pair up to `cutoff`, which is the potential's `r_max` plus a skin, so that copies whose
    atoms moved by less than half the skin can keep them.

    Attributes
    ----------
    positions : Tensor, (n_atoms, 3), Å
    numbers : Tensor, (n_atoms,), int64
        Atomic numbers.
    edge_index : Tensor, (2, n_edges), int64
        Row 0 the centre i, row 1 the neighbour j; every pair appears in both directions.
    shifts : Tensor, (n_edges, 3)
        Cell boundaries crossed by each edge, whole numbers stored as floats.
    cell : Tensor, (n_graphs, 3, 3), Å
        Lattice vectors as rows; zeros where a structure has none.
    pbc : Tensor, (n_graphs, 3), bool
    batch : Tensor, (n_atoms,), int64
        The structure each atom belongs to, in ascending order.
    n_graphs : int
    cutoff : float, Å
        Every pair closer than this has its edges.
    labels : Labels or None
    frame_ids : Tensor, (n_graphs,), int64, or None
        Position of each structure in its data set, so that per-frame values can be kept.
    state : Tensor, (n_graphs, 2), float64, or None
        Total charge (e) and spin multiplicity, for potentials that take them, see
        `ase_ws.graphs.state_of`; None is the same as (0, 1) everywhere.
    """

    positions: Tensor
    numbers: Tensor
    edge_index: Tensor
    shifts: Tensor
    cell: Tensor
    pbc: Tensor
    batch: Tensor
    n_graphs: int
    cutoff: float
    labels: Labels | None = None
    frame_ids: Tensor | None = None
    state: Tensor | None = None

    @property
    def n_atoms(self) -> Tensor:
        """Atoms in each structure, (n_graphs,), int64."""
        return torch.bincount(self.batch, minlength=self.n_graphs)

    def displaced(self, displacement: Tensor) -> GraphBatch:
        """Return a copy at `positions + displacement` ((n_atoms, 3), Å) that keeps the edges."""
        return replace(self, positions=self.positions + displacement)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> GraphBatch:
        """Move to a device, geometry in `dtype`."""
        return replace(
            self,
            positions=self.positions.to(device, dtype),
            numbers=self.numbers.to(device),
            edge_index=self.edge_index.to(device),
            shifts=self.shifts.to(device, dtype),
            cell=self.cell.to(device, dtype),
            pbc=self.pbc.to(device),
            batch=self.batch.to(device),
            labels=None if self.labels is None else self.labels.to(device, dtype),
            frame_ids=None if self.frame_ids is None else self.frame_ids.to(device),
            state=None if self.state is None else self.state.to(device),
        )


class Prediction(NamedTuple):
    """What a potential says of a batch.

    Attributes
    ----------
    energy : Tensor, (n_graphs,), eV, float64
    forces : Tensor, (n_atoms, 3), eV/Å, or None
    stress : Tensor, (n_graphs, 3, 3), eV/Å³, or None
    energies : Tensor, (n_atoms,), eV, float64, or None
        Energy per atom, where the potential has one.
    """

    energy: Tensor
    forces: Tensor | None = None
    stress: Tensor | None = None
    energies: Tensor | None = None


@runtime_checkable
class Potential(Protocol):
    """Anything MACE-like: the losses, the training and the calculators know only this.

    Attributes
    ----------
    r_max : float, Å
    atomic_numbers : tuple of int
        Elements the potential knows.
    conservative : bool
        True where forces are -dE/dr, False where they are read out directly.
    skin_safe : bool
        True where edges longer than `r_max` add exactly nothing.
    """

    r_max: float
    atomic_numbers: tuple[int, ...]
    conservative: bool
    skin_safe: bool

    def __call__(
        self,
        batch: GraphBatch,
        *,
        forces: bool,
        stress: bool = False,
        create_graph: bool = False,
    ) -> Prediction:
        """Evaluate the batch without changing it; `create_graph` keeps forces differentiable."""
        ...


class LossTerm(Protocol):
    """An unweighted loss. It sees the potential, so it can evaluate displaced copies.

    Any function of this signature is a term. An object may say more about itself:

    | name | says | where it is absent |
    | --- | --- | --- |
    | `needs_forces(batch)` | whether `prediction` must have forces, differentiable | it has |
    | `needs_stress(batch)` | the same of the stress | it has none |
    | `skin` | how far beyond `r_max` the edges of the batch must reach, Å | 0 |
    | `at(part)` | the term with this part (0 to 1) of its ramp behind it | itself |
    | `copies(...)`, `of(...)`, `reference` | its displaced copies and what becomes of their
      predictions, see `ase_ws.losses.WeakLoss`: all such terms share one evaluation | none |

    Its value is logged in the column `train_NAME` of the metrics, by the name of its
    `ase_ws.losses.WeightedTerm`.
    """

    def __call__(
        self,
        potential: Potential,
        batch: GraphBatch,
        prediction: Prediction,
        *,
        generator: torch.Generator,
    ) -> Tensor:
        """Return the scalar loss, averaged over the structures of the batch."""
        ...
