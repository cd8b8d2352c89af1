"""Small disordered structures of given elements, to try a potential on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.data import covalent_radii

_MOLECULES = ("CH3OH", "H2O", "NH3", "CH4", "CO2", "Si2H6", "HCl", "N2", "O2")


def example_structures(elements: Sequence[int], r_max: float) -> list[Atoms]:
    """Two rattled molecules, a cluster, a lone atom and a strained crystal of two atoms.

    Where no molecule is made of the elements alone, clusters stand in. Distances follow the
    covalent radii, somewhat stretched since the packing is dense, yet are short enough for every
    atom to have neighbours within `r_max`.

    Parameters
    ----------
    elements : sequence of int
    r_max : float, Å

    Returns
    -------
    list of Atoms
        The same in every call.
    """
    rng = np.random.default_rng(0)
    known = [molecule(name) for name in _MOLECULES]
    molecules = [atoms for atoms in known if set(atoms.numbers) <= set(elements)][:2]
    for atoms in molecules:
        atoms.positions += rng.normal(0, 0.05, atoms.positions.shape)
    clusters = [_cluster(elements, n, r_max, rng) for n in (7, 4, 5)[: 3 - len(molecules)]]
    lone = Atoms(numbers=[elements[0]], positions=[[0.3, -0.2, 0.1]])
    return [*molecules, *clusters, lone, _crystal(elements, r_max, rng)]


def _bond(elements: Sequence[int], r_max: float) -> float:
    """Distance of neighbours in Å: longer than a bond of the largest atoms, if `r_max` allows."""
    return min(2.7 * max(covalent_radii[z] for z in elements), 0.6 * r_max)


def _cluster(elements: Sequence[int], n: int, r_max: float, rng: np.random.Generator) -> Atoms:
    bond = _bond(elements, r_max)
    corners = np.array([[i, j, k] for i in range(2) for j in range(2) for k in range(2)][:n])
    positions = bond * (corners + rng.normal(0, 0.07, corners.shape))
    return Atoms(numbers=np.resize(elements, n), positions=positions)


def _crystal(elements: Sequence[int], r_max: float, rng: np.random.Generator) -> Atoms:
    a = 2 * _bond(elements, r_max) / np.sqrt(3)
    cell = a * (np.eye(3) + rng.normal(0, 0.04, (3, 3)))
    scaled = np.array([[0, 0, 0], [0.5, 0.5, 0.5]]) + rng.normal(0, 0.03, (2, 3))
    return Atoms(numbers=np.resize(elements, 2), scaled_positions=scaled, cell=cell, pbc=True)
