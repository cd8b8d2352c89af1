"""Close pairs of atoms, periodic or not, found once per snapshot and shared by the checks."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.geometry import complete_cell
from matscipy.neighbours import neighbour_list
from scipy.spatial import KDTree
from scipy.spatial.distance import pdist

if TYPE_CHECKING:
    from ase_ws.md.observer import Snapshot

# Up to here all distances at once are cheaper than a search tree (measured: 70 µs for 200 atoms).
_ALL_PAIRS = 200


class Pairs(NamedTuple):
    """Pairs within a cutoff, each in both directions.

    Attributes
    ----------
    first, second : (n_pairs,) arrays
        Indices of the atoms; equal for an atom and its own periodic image.
    distance : (n_pairs,) array
        Distance in Å.
    shift : (n_pairs, 3) array
        Cell shift S of the second atom: r = r_second − r_first + S·cell.
    """

    first: np.ndarray
    second: np.ndarray
    distance: np.ndarray
    shift: np.ndarray


def radii_sum(numbers: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Sum of covalent radii R_i + R_j in Å (Cordero et al. 2008, as tabulated in ASE)."""
    radii = covalent_radii[numbers]
    return radii[first] + radii[second]


def isolation_distance(radii_sums: np.ndarray) -> np.ndarray:
    """Distance in Å beyond which two atoms do not hold each other: max(2.5 Å, 1.5(R_i + R_j))."""
    return np.maximum(2.5, 1.5 * radii_sums)


def close_pairs(snapshot: Snapshot) -> Pairs:
    """Pairs within the longest distance any check asks for, computed once per snapshot."""
    if "close_pairs" not in snapshot.shared:
        snapshot.shared["close_pairs"] = find_pairs(snapshot.atoms, longest(snapshot.atoms))
    return snapshot.shared["close_pairs"]


def longest(atoms: Atoms) -> float:
    """Longest distance in Å that any check asks for in this structure."""
    return float(isolation_distance(2.0 * covalent_radii[atoms.numbers].max()))


def find_pairs(atoms: Atoms, cutoff: float) -> Pairs:
    """Find all pairs closer than `cutoff` (Å), with periodic images."""
    if atoms.pbc.any():
        return _periodic(atoms, cutoff)
    if len(atoms) <= _ALL_PAIRS:
        return _all_pairs(atoms.positions, cutoff)
    pairs = KDTree(atoms.positions).query_pairs(cutoff, output_type="ndarray")
    first, second = pairs[:, 0], pairs[:, 1]
    distance = np.linalg.norm(atoms.positions[first] - atoms.positions[second], axis=1)
    return _both_ways(first, second, distance)


def _all_pairs(positions: np.ndarray, cutoff: float) -> Pairs:
    first, second = _upper_triangle(len(positions))
    distance = pdist(positions)
    # Written so that NaN stays in the list and reaches the checks.
    near = np.flatnonzero(~(distance > cutoff))
    return _both_ways(first[near], second[near], distance[near])


def _both_ways(first: np.ndarray, second: np.ndarray, distance: np.ndarray) -> Pairs:
    return Pairs(
        np.concatenate([first, second]),
        np.concatenate([second, first]),
        np.concatenate([distance, distance]),
        np.zeros((2 * len(first), 3), dtype=int),
    )


@lru_cache(maxsize=8)
def _upper_triangle(n_atoms: int) -> tuple[np.ndarray, np.ndarray]:
    return np.triu_indices(n_atoms, k=1)


def _periodic(atoms: Atoms, cutoff: float) -> Pairs:
    cell = complete_cell(atoms.cell.array)
    positions = atoms.positions
    if not atoms.pbc.all():
        cell, positions = _enclose(cell, positions, atoms.pbc)
    # MD does not wrap positions, and matscipy needs the longer the farther out they are (seconds
    # for an atom that a bad potential has thrown 10^12 Å away).
    scaled = np.linalg.solve(cell.T, positions.T).T
    images = np.where(atoms.pbc, np.floor(scaled), 0.0)
    first, second, distance, shift = neighbour_list(
        "ijdS", positions=positions - images @ cell, cell=cell, pbc=atoms.pbc, cutoff=cutoff
    )
    return Pairs(first, second, distance, shift + images[first] - images[second])


def _enclose(
    cell: np.ndarray, positions: np.ndarray, pbc: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Move and stretch the open directions of the cell until they hold all atoms."""
    scaled = np.linalg.solve(cell.T, positions.T).T
    low, high = scaled.min(axis=0), scaled.max(axis=0)
    lengths = np.linalg.norm(cell, axis=1)
    stretch = np.where(pbc, 1.0, high - low + 1.0 / lengths)  # 1 Å to spare
    origin = np.where(pbc, 0.0, low) @ cell
    return cell * stretch[:, None], positions - origin
