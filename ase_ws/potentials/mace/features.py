"""What a MACE's layers know of each atom: what a readout of forces stands on."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Features(NamedTuple):
    """What a network knows of each atom.

    Attributes
    ----------
    energies : Tensor, (n_atoms,), eV, float64
        With E0.
    scalars : Tensor, (n_atoms, n_scalars)
        Invariant under rotation and reflection: all layers side by side.
    vectors : Tensor, (n_atoms, n_vectors, 3)
        Turn with the structure (1o): all layers that have them.
    """

    energies: Tensor
    scalars: Tensor
    vectors: Tensor
