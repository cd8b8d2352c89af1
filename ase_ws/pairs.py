"""Pairs of atoms within a distance: of graphs, of checks, of whoever asks; wrapped, with images."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from matscipy.neighbours import neighbour_list
from scipy.spatial import KDTree
from scipy.spatial.distance import pdist

from ase_ws.errors import UserError

# Up to here all distances at once are cheaper than a search tree (measured: 70 µs for 200 atoms).
_ALL_PAIRS = 200
#: Bins of a neighbour list from which on it is told nothing of vacuum.
MOST_BINS = 1e5
#: A lattice vector shorter than this (Å) is none.
SHORTEST_VECTOR = 1e-3
#: More pairs than this in one structure are a mistake in its cell (2 GiB for the list alone).
MOST_EDGES = 5e7


def edges(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float
) -> tuple[np.ndarray, np.ndarray]:
    """All pairs closer than `cutoff`, periodic images included.

    Directions without periodicity get a tight box round the atoms, so that the cost of the
    cell list does not grow with the vacuum or with the distance from the origin.

    Parameters
    ----------
    positions : ndarray, (n_atoms, 3), Å
    cell : ndarray, (3, 3), Å
    pbc : ndarray, (3,), bool
    cutoff : float, Å

    Returns
    -------
    edge_index : ndarray, (2, n_edges), int64
        Row 0 centres, row 1 neighbours.
    shifts : ndarray, (n_edges, 3), float64
        Whole cell vectors crossed; zero along non-periodic directions.

    Raises
    ------
    UserError
        A lattice vector is missing, or the cell is so small that the list would fill the memory.
    """
    check_periodicity(cell, pbc)
    i, j, shifts = _listed("ijS", positions, cell, pbc, cutoff, refuse=True)
    return np.stack([i, j]).astype(np.int64), shifts.astype(np.float64)


def _listed(
    quantities: str,
    positions: np.ndarray,
    cell: np.ndarray,
    pbc: np.ndarray,
    cutoff: float,
    *,
    refuse: bool = False,
) -> list[np.ndarray]:
    """Ask matscipy for what ends with the shifts, whatever the vacuum and wherever atoms are."""
    images = images_of(positions, cell, pbc) if np.any(pbc) else None
    inside = positions if images is None else positions - images @ cell
    box, origin = _tight_box(inside, cell, pbc)
    if refuse:
        _require_room(len(inside), box, pbc, cutoff)
    # With much vacuum it warns that it may be slow, which is seconds at worst.
    vacuum = abs(np.linalg.det(box)) > MOST_BINS * cutoff**3
    with warnings.catch_warnings() if vacuum else nullcontext():
        if vacuum:
            warnings.filterwarnings("ignore", message="Ratio of simulation cell")
        *found, shifts = neighbour_list(
            quantities, cutoff=cutoff, positions=inside, cell=box, pbc=pbc, cell_origin=origin
        )
    if images is not None:
        shifts = shifts + images[found[0]] - images[found[1]]
    return [*found, shifts]


def images_of(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Whole lattice vectors from the home cell to each atom, (n_atoms, 3); 0 where not periodic.

    MD does not wrap positions, and a neighbour list takes the longer the farther out they are.
    """
    box = np.array(cell, dtype=float)
    box[~pbc] = _orthonormal_complement(box[pbc])
    return np.where(pbc, np.floor(np.linalg.solve(box.T, positions.T).T), 0.0)


def _require_room(n_atoms: int, box: np.ndarray, pbc: np.ndarray, cutoff: float) -> None:
    """Refuse cells that are so small that the list of pairs would not fit into memory."""
    if n_atoms**2 <= MOST_EDGES and not np.any(pbc):
        return
    volume = abs(float(np.linalg.det(box)))
    if n_atoms**2 * 4.2 * cutoff**3 <= MOST_EDGES * volume:
        return
    area = np.linalg.norm(np.cross(np.roll(box, -1, axis=0), np.roll(box, -2, axis=0)), axis=1)
    # Images in reach along each periodic direction; distances between the faces of the cell.
    reach = np.where(pbc, 1 + 2 * cutoff * area / max(volume, 1e-300), 1.0)
    # Written so that NaN is refused.
    if not n_atoms**2 * float(np.prod(reach)) <= MOST_EDGES:
        raise UserError(
            f"{n_atoms} atoms in a cell of {volume:.3g} Å³ have too many neighbours within "
            f"{cutoff:g} Å; expected lattice vectors in Å"
        )


def check_periodicity(cell: np.ndarray, pbc: np.ndarray) -> None:
    """Raise a `UserError` where a periodic direction has no lattice vector of its own."""
    periodic = np.asarray(cell)[pbc]
    if not len(periodic):
        return
    short = not (np.linalg.norm(periodic, axis=1) > SHORTEST_VECTOR).all()
    if short or np.linalg.matrix_rank(periodic) < len(periodic):
        raise UserError(
            f"periodic (pbc {np.asarray(pbc).tolist()}) along a lattice vector that is zero or "
            "depends on the others; set the cell, or pbc to False"
        )


def _tight_box(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Replace the lattice vectors of non-periodic directions by ones that just hold the atoms."""
    if np.all(pbc):
        return np.asarray(cell, dtype=float), np.zeros(3)
    box = np.array(cell, dtype=float)
    free = np.flatnonzero(~pbc)
    box[free] = _orthonormal_complement(box[pbc])
    fractional = np.linalg.solve(box.T, positions.T).T
    low = fractional.min(axis=0)
    # A margin keeps the outermost atoms strictly inside; a flat direction still has a thickness.
    extent = np.maximum(np.ptp(fractional, axis=0), 1.0) + 0.2
    origin = np.zeros(3)
    for k in free:
        origin += (low[k] - 0.1) * box[k]
    box[free] *= extent[free, None]
    return box, origin


def _orthonormal_complement(periodic: np.ndarray) -> np.ndarray:
    """Complete the given lattice vectors to a frame by unit vectors normal to them."""
    if len(periodic) == 0:
        return np.eye(3)
    _, _, v = np.linalg.svd(periodic)
    return v[len(periodic) :]


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


def longest(atoms: Atoms) -> float:
    """Longest distance in Å that any check asks for in this structure."""
    return float(isolation_distance(2.0 * covalent_radii[atoms.numbers].max()))


class Contact(NamedTuple):
    """Two atoms, their distance in Å, and that over the sum of their covalent radii."""

    first: int
    second: int
    distance: float
    ratio: float

    def told(self, atoms: Atoms) -> str:
        """Say it: "H3 and O0 are 0.31 Å apart"."""
        one, other = (f"{atoms.symbols[atom]}{atom}" for atom in (self.first, self.second))
        return f"{one} and {other} are {self.distance:.2f} Å apart"


def closest_contact(atoms: Atoms, below: float) -> Contact | None:
    """Find the closest pair, min r_ij/(R_i + R_j); None where nothing is below the limit."""
    if len(atoms) == 0:
        return None
    reach = 2.0 * below * float(covalent_radii[atoms.numbers].max())
    first, second, distance, _ = find_pairs(atoms, reach)
    ratios = distance / radii_sum(atoms.numbers, first, second)
    if len(ratios) == 0 or not ratios.min() < below:
        return None
    pair = int(np.argmin(ratios))
    return Contact(int(first[pair]), int(second[pair]), float(distance[pair]), float(ratios[pair]))


def find_pairs(atoms: Atoms, cutoff: float) -> Pairs:
    """Find all pairs closer than `cutoff` (Å), with periodic images."""
    if atoms.pbc.any():
        return Pairs(*_listed("ijdS", atoms.positions, atoms.cell.array, atoms.pbc, cutoff))
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
