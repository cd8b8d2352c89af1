"""Toy potentials with known answers, and a tiny MACE.

Every class here is an `ase_ws.typing.Potential` in float64. Nothing here is fitted to anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ase_ws.graphs import edge_vectors
from ase_ws.potentials.derivatives import ConservativeModule
from ase_ws.potentials.mace.architecture import MACEArchitecture
from ase_ws.potentials.mace.model import MACEPotential, build_mace
from ase_ws.typing import GraphBatch, Potential, Prediction

ELEMENTS = (1, 6, 7, 8, 14)


class Toy(ConservativeModule):
    """A conservative potential; a subclass gives `atomic_energies`.

    Attributes
    ----------
    calls : list of tuple of bool
        One entry (forces, stress) for each evaluation, so that tests can count them.
    """

    def __init__(self, r_max: float = 3.0, atomic_numbers: Sequence[int] = ELEMENTS):
        super().__init__()
        self.r_max = r_max
        self.atomic_numbers = tuple(atomic_numbers)
        self.calls: list[tuple[bool, bool]] = []

    def forward(
        self,
        batch: GraphBatch,
        *,
        forces: bool,
        stress: bool = False,
        create_graph: bool = False,
    ) -> Prediction:
        """Evaluate (see `ase_ws.typing.Potential`)."""
        self.calls.append((forces, stress))
        return super().forward(batch, forces=forces, stress=stress, create_graph=create_graph)


class Harmonic(Toy):
    """E = ½ k Σ_i |r_i|²: every atom on a spring to the origin, k in eV/Å²."""

    def __init__(self, k: float = 1.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.k = torch.nn.Parameter(torch.tensor(k, dtype=torch.float64))

    def atomic_energies(self, batch: GraphBatch) -> Tensor:
        """½ k |r_i|², (n_atoms,), eV."""
        return 0.5 * self.k * batch.positions.square().sum(dim=1)


class Cubic(Toy):
    """E = Σ_i [½ k |r_i|² + c (x_i³ + y_i² z_i)], c in eV/Å³: constant third derivatives."""

    def __init__(self, k: float = 1.0, c: float = 0.5, **kwargs: Any):
        super().__init__(**kwargs)
        self.k = torch.nn.Parameter(torch.tensor(k, dtype=torch.float64))
        self.c = torch.nn.Parameter(torch.tensor(c, dtype=torch.float64))

    def atomic_energies(self, batch: GraphBatch) -> Tensor:
        """Energies of the atoms, (n_atoms,), eV."""
        x, y, z = batch.positions.unbind(dim=1)
        squares = batch.positions.square().sum(dim=1)
        return 0.5 * self.k * squares + self.c * (x**3 + y**2 * z)


class Morse(Toy):
    """E = ½ Σ_ij D [(1 − exp(−a (r_ij − r0)))² − 1] f(r_ij) over the batch's edges.

    The cutoff f = (1 − (r/r_max)²)³ below `r_max` and exactly zero beyond, so longer edges add
    exactly nothing. D in eV, a in 1/Å, r0 in Å.
    """

    def __init__(self, depth: float = 0.5, a: float = 1.2, r0: float = 1.3, **kwargs: Any):
        super().__init__(**kwargs)
        self.depth = torch.nn.Parameter(torch.tensor(depth, dtype=torch.float64))
        self.a = torch.nn.Parameter(torch.tensor(a, dtype=torch.float64))
        self.r0 = r0

    def atomic_energies(self, batch: GraphBatch) -> Tensor:
        """Half of each pair's energy to either atom, (n_atoms,), eV."""
        lengths = edge_vectors(batch).norm(dim=1)
        bond = self.depth * ((1 - torch.exp(-self.a * (lengths - self.r0))) ** 2 - 1)
        cutoff = (1 - (lengths / self.r_max).square()).clamp(min=0.0) ** 3
        energies = bond.new_zeros(len(batch.positions))
        return energies.index_add(0, batch.edge_index[0], 0.5 * bond * cutoff)


class LeakyMorse(Morse):
    """A Morse potential whose edges beyond `r_max` do count: it must never see a skin."""

    skin_safe = False

    def atomic_energies(self, batch: GraphBatch) -> Tensor:
        """Morse energies and 0.01 eV for every edge, (n_atoms,), eV."""
        count = torch.bincount(batch.edge_index[0], minlength=len(batch.positions))
        return super().atomic_energies(batch) + 0.01 * count


class Curl(Toy):
    """Direct forces F_i = −∂E/∂r_i + c × r_i: no energy has them (curl F = 2 c).

    Parameters
    ----------
    base : Potential
        Conservative; gives E.
    axis : sequence of 3 floats
        The vector c, eV/Å².
    """

    conservative = False

    def __init__(self, base: Potential, axis: Sequence[float] = (0.0, 0.0, 0.3)):
        super().__init__(base.r_max, base.atomic_numbers)
        self.base = base
        self.axis = torch.tensor(tuple(axis), dtype=torch.float64)

    def forward(
        self,
        batch: GraphBatch,
        *,
        forces: bool,
        stress: bool = False,
        create_graph: bool = False,
    ) -> Prediction:
        """Evaluate (see `ase_ws.typing.Potential`)."""
        self.calls.append((forces, stress))
        plain = self.base(batch, forces=forces, stress=stress, create_graph=create_graph)
        if plain.forces is None:
            return plain
        curl = torch.linalg.cross(self.axis.to(batch.positions).expand(1, 3), batch.positions)
        return plain._replace(forces=plain.forces + curl)


def tiny_mace(
    elements: Sequence[int] = (1, 6, 8),
    *,
    e0: Sequence[float] | None = None,
    seed: int = 0,
    head: str | None = None,
    **architecture: Any,
) -> MACEPotential:
    """Build a random MACE of two layers, small enough to build in a fraction of a second.

    Parameters
    ----------
    elements : sequence of int
    e0 : sequence of float, eV, optional
        Reference energies; default zero.
    seed : int
        Of the weights.
    head : str, optional
    **architecture
        Fields of `MACEArchitecture` other than the small defaults (float64, r_max 4 Å).
    """
    settings: dict[str, Any] = {
        "r_max": 4.0,
        "num_bessel": 4,
        "max_ell": 2,
        "hidden_irreps": "8x0e+8x1o",
        "MLP_irreps": "8x0e",
        "correlation": 2,
        "radial_MLP": (16,),
        "avg_num_neighbors": 6.0,
        "dtype": "float64",
        **architecture,
    }
    shape = MACEArchitecture(atomic_numbers=tuple(elements), **settings)
    return build_mace(shape, np.zeros(len(elements)) if e0 is None else e0, seed=seed, head=head)
