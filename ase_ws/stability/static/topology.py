"""Which bonds and contacts a scan follows, and which atoms move with them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from ase_ws.pairs import find_pairs, radii_sum

#: Bonded below this × (R_i + R_j), as in `BondCheck`.
BONDED = 1.3


@dataclass(frozen=True)
class Motion:
    """A pair of atoms and how its distance is changed.

    Attributes
    ----------
    first, second : int
    vector : (3,) array
        From the first to the second (nearest image), in Å.
    directions : (n_atoms, 3) array
        Displacement of every atom when the distance grows by 1 Å.
    fragments : bool
        Whether rigid fragments move, and all other distances within them stay.
    """

    first: int
    second: int
    vector: np.ndarray
    directions: np.ndarray
    fragments: bool

    @property
    def length(self) -> float:
        """Distance in Å at the start."""
        return float(np.linalg.norm(self.vector))

    def positions(self, atoms: Atoms, distance: float) -> np.ndarray:
        """Positions, (n_atoms, 3), with the pair at this distance in Å."""
        return atoms.positions + (distance - self.length) * self.directions


def bond_motions(atoms: Atoms, most: int) -> list[Motion]:
    """One bond, the shortest, of each pair of elements; at most so many.

    The smaller part of what falls apart without the bond moves as a whole; in a ring or a
    network, the second atom with what hangs on it alone.
    """
    first, second, distance, vectors = _near(atoms, BONDED)
    graph = _graph(len(atoms), first, second)
    motions = []
    for k in _shortest_of_each(atoms, first, second, distance, most):
        pair = int(first[k]), int(second[k])
        parts = _parts(graph, pair)
        if parts is None:
            moves = {1.0: _hanging(graph, pair[1])}
        elif len(parts[1]) <= len(parts[0]):
            moves = {1.0: parts[1]}
        else:
            moves = {-1.0: parts[0]}
        motions.append(_motion(atoms, pair, vectors[k], moves, parts is not None))
    return motions


def contact_motions(atoms: Atoms, most: int, reach: float) -> list[Motion]:
    """One contact without a bond, the closest, of each pair of elements; at most so many.

    Between two molecules, the smaller one moves as a whole. Within one, at least three bonds
    apart, the ends that hang on one bond move. Two elements that are joined by no bond and have
    no such contact are brought together all the same, in crystals, rings and around one atom:
    their loose ends move, else one atom alone.
    """
    first, second, distance, vectors = _near(atoms, reach)
    if len(first) == 0:
        return []
    bonds = _near(atoms, BONDED)[:2]
    graph = _graph(len(atoms), *bonds)
    _, molecule = connected_components(graph, directed=False)
    degree = np.diff(graph.indptr)
    apart = molecule[first] != molecule[second]
    bonded = graph[first, second].A1 > 0
    # One bond apart, or two.
    close = (graph + graph @ graph)[first, second].A1 > 0
    loose = (degree[first] == 1) | (degree[second] == 1)
    free = apart | (~close & loose)
    joined = {*_kinds(atoms, *bonds), *_kinds(atoms, first[free], second[free])}
    alone = np.array([kind not in joined for kind in _kinds(atoms, first, second)])
    usable = np.flatnonzero(free | (~bonded & alone))
    motions = []
    chosen = _shortest_of_each(atoms, first[usable], second[usable], distance[usable], most)
    for k in usable[chosen]:
        pair = int(first[k]), int(second[k])
        ends = [(s, i) for s, i in zip((-1.0, 1.0), pair, strict=True) if degree[i] == 1]
        if apart[k]:
            sizes = [int((molecule == molecule[i]).sum()) for i in pair]
            side = 1.0 if sizes[1] <= sizes[0] else -1.0
            mover = pair[1] if side > 0 else pair[0]
            moves = {side: np.flatnonzero(molecule == molecule[mover])}
        else:
            ends = ends or [(1.0, pair[1])]
            moves = {s / len(ends): np.array([i]) for s, i in ends}
        motions.append(_motion(atoms, pair, vectors[k], moves, bool(apart[k])))
    return motions


def _kinds(atoms: Atoms, first: np.ndarray, second: np.ndarray) -> list[tuple[int, int]]:
    """Atomic numbers of each pair, the lower one first."""
    numbers = np.sort([atoms.numbers[first], atoms.numbers[second]], axis=0)
    return [(int(low), int(high)) for low, high in numbers.T]


def _near(atoms: Atoms, factor: float):
    """Pairs of different atoms below `factor` × (R_i + R_j), once each, and their vectors."""
    longest = factor * 2.0 * float(covalent_radii[atoms.numbers].max())
    first, second, distance, shift = find_pairs(atoms, longest)
    keep = (first < second) & (distance <= factor * radii_sum(atoms.numbers, first, second))
    first, second, distance, shift = first[keep], second[keep], distance[keep], shift[keep]
    vectors = atoms.positions[second] - atoms.positions[first] + shift @ atoms.cell.array
    return first, second, distance, vectors


def _graph(n_atoms: int, first: np.ndarray, second: np.ndarray) -> csr_matrix:
    ones = np.ones(2 * len(first))
    rows, columns = np.r_[first, second], np.r_[second, first]
    return csr_matrix((ones, (rows, columns)), shape=(n_atoms, n_atoms))


def _shortest_of_each(
    atoms: Atoms, first: np.ndarray, second: np.ndarray, distance: np.ndarray, most: int
) -> list[int]:
    chosen: dict[tuple[int, int], int] = {}
    kinds = _kinds(atoms, first, second)
    # Rounded, so that equal bonds are taken in the order of their atoms.
    for k in np.lexsort((second, first, np.round(distance, 6))):
        chosen.setdefault(kinds[k], int(k))
    return list(chosen.values())[:most]


def _parts(graph: csr_matrix, pair: tuple[int, int]) -> tuple[np.ndarray, np.ndarray] | None:
    """Both sides once the bond is cut; None where nothing falls apart."""
    cut = graph.tolil(copy=True)
    cut[pair[0], pair[1]] = cut[pair[1], pair[0]] = 0
    part = connected_components(cut.tocsr(), directed=False)[1]
    if part[pair[0]] == part[pair[1]]:
        return None
    return np.flatnonzero(part == part[pair[0]]), np.flatnonzero(part == part[pair[1]])


def _hanging(graph: csr_matrix, atom: int) -> np.ndarray:
    """Give the atom and the neighbours that have no other."""
    neighbours = graph[atom].indices
    ends = [int(i) for i in neighbours if graph[int(i)].nnz == 1]
    return np.array([atom, *ends])


def _motion(
    atoms: Atoms,
    pair: tuple[int, int],
    vector: np.ndarray,
    moves: dict[float, np.ndarray],
    fragments: bool,
) -> Motion:
    axis = vector / np.linalg.norm(vector)
    directions = np.zeros((len(atoms), 3))
    for amount, indices in moves.items():
        directions[indices] += amount * axis
    return Motion(*pair, vector, directions, fragments)
