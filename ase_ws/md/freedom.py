"""What constraints leave to move, measured; and whether MD can keep them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.constraints import (
    ExternalForce,
    FixAtoms,
    FixBondLengths,
    FixCartesian,
    FixCom,
    FixedLine,
    FixedPlane,
    FixInternals,
    FixLinearTriatomic,
    FixSubsetCom,
    Hookean,
)
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

#: A start that violates a constraint by more (Å) is refused; by less, it is put right.
START_TOLERANCE = 1e-3

#: Each acts on single atoms, independently.
_SINGLE = (FixAtoms, FixCartesian, FixedLine, FixedPlane, ExternalForce, Hookean)


class Freedom(NamedTuple):
    """What may move.

    Attributes
    ----------
    n_dof : int
        Dimensions of the momenta that the constraints leave, without those of the whole that rest.
    translations : (n, 3) array
        Directions in which nothing holds the whole: the centre of mass keeps its momentum there.
    rotations : bool
        Whether nothing holds it against rotation either, which then rests.
    """

    n_dof: int
    translations: np.ndarray
    rotations: bool


def freedom_of(atoms: Atoms) -> Freedom:
    """Count what may move, of `atoms` that `with_md_constraints` gave."""
    isolated = not atoms.pbc.any()
    if not atoms.constraints:
        turns = turning_axes(len(atoms)) if isolated else 0
        return Freedom(3 * len(atoms) - 3 - turns, np.eye(3), rotations=isolated)
    masses = atoms.get_masses()
    translations = np.multiply.outer(np.eye(3), masses).transpose(0, 2, 1)
    # FixCom couples all atoms, which would take a probe of each, but what it holds is known.
    others = [c for c in atoms.constraints if type(c) is not FixCom]
    momenta = round(_trace(atoms, others))
    if len(others) < len(atoms.constraints):
        left = _overlaps(atoms, others, translations) / masses.sum()
        momenta -= int(np.linalg.matrix_rank(left, tol=1e-6, hermitian=True))
    if any(_holds_to_a_place(constraint) for constraint in atoms.constraints):
        return Freedom(momenta, np.zeros((0, 3)), rotations=False)
    values, vectors = np.linalg.eigh(
        _overlaps(atoms, atoms.constraints, translations) / masses.sum()
    )
    free = vectors[:, values > 1 - 1e-6].T
    momenta -= len(free)
    if len(free) < 3 or not isolated:
        return Freedom(momenta, free, rotations=False)
    arms = atoms.positions - atoms.get_center_of_mass()
    turns = np.stack([masses[:, None] * np.cross(axis, arms) for axis in np.eye(3)])
    left = np.trace(_overlaps(atoms, atoms.constraints, turns))
    if left < (1 - 1e-6) * np.sum(turns**2 / masses[:, None]):
        return Freedom(momenta, free, rotations=False)
    return Freedom(momenta - min(momenta, turning_axes(len(atoms))), free, rotations=True)


def turning_axes(n_atoms: int) -> int:
    """Count the axes about which an isolated molecule is at rest: three, two for two atoms.

    Three for linear molecules as well: about their own axis they have no inertia, but as soon as
    they bend, no angular momentum: of each pair of bending modes one does not move.
    """
    return {1: 0, 2: 2}.get(n_atoms, 3)


def fault(atoms: Atoms, constraints: Sequence[Any]) -> str | None:
    """Say what is wrong with these constraints together, from a few random vectors."""
    off = np.abs(_moved(atoms, constraints, atoms.positions) - atoms.positions).max()
    if not off <= START_TOLERANCE:
        return (
            f"the start violates it by {off:.3g} Å: apply it first, "
            "atoms.set_positions(atoms.positions)"
        )
    masses = atoms.get_masses()[:, None]
    u, v = np.random.default_rng(0).standard_normal((2, len(atoms), 3)) * np.sqrt(masses)
    left_u, left_v, nothing, twice = (
        _left(constraints, atoms, p) for p in (u, v, 0 * u, _left(constraints, atoms, u))
    )
    size = np.sum(u * u / masses)
    wrong = [
        np.sum(nothing**2 / masses),
        np.sum((twice - left_u) ** 2 / masses),
        np.sum((_left(constraints, atoms, u + v) - left_u - left_v) ** 2 / masses),
        np.sum((v * left_u - u * left_v) / masses) ** 2 / size,
    ]
    step = 1e-3 / np.abs(u / masses).max()
    moved = _moved(atoms, constraints, atoms.positions + step * u / masses) - atoms.positions
    wrong.append(1e-8 * np.sum(masses * (moved / step - left_u / masses) ** 2))
    if np.max(wrong) <= 1e-12 * size:  # NaN does not pass
        return None
    if len(constraints) > 1:
        return "act on the same atoms, each undoing the other; MD needs them apart, or one of them"
    return "does not project positions and momenta alike, by the masses: MD cannot keep it"


def _left(constraints: Sequence[Any], atoms: Atoms, momenta: np.ndarray) -> np.ndarray:
    momenta = momenta.copy()
    for constraint in constraints:
        if hasattr(constraint, "adjust_momenta"):  # as ASE asks
            constraint.adjust_momenta(atoms, momenta)
    return momenta


def _moved(atoms: Atoms, constraints: Sequence[Any], positions: np.ndarray) -> np.ndarray:
    positions = positions.copy()
    for constraint in constraints:
        constraint.adjust_positions(atoms, positions)
    return positions


def _trace(atoms: Atoms, constraints: Sequence[Any]) -> float:
    """Trace of the projection: one atom of each group of coupled ones at a time."""
    n_atoms = len(atoms)
    pairs = [(i, j) for group in _coupled(constraints, n_atoms) for i, j in pairwise(group)]
    rows, columns = np.array(pairs, dtype=int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(n_atoms, n_atoms))
    _, owner = connected_components(graph, directed=False)
    order = np.argsort(owner, kind="stable")
    ranks = np.empty(n_atoms, dtype=int)
    starts = np.searchsorted(owner[order], owner[order])
    ranks[order] = np.arange(n_atoms) - starts
    trace = 0.0
    for rank in range(ranks.max() + 1):
        chosen = ranks == rank
        for axis in range(3):
            probe = np.zeros((n_atoms, 3))
            probe[chosen, axis] = 1.0
            trace += _left(constraints, atoms, probe)[chosen, axis].sum()
    return trace


def _coupled(constraints: Sequence[Any], n_atoms: int) -> list[list[int]]:
    """Give groups of atoms that a constraint holds to each other."""
    groups: list[Any] = []
    for constraint in constraints:
        if isinstance(constraint, FixBondLengths):
            groups.extend(np.asarray(constraint.pairs).tolist())
        elif isinstance(constraint, FixLinearTriatomic):
            groups.extend(constraint.triples.tolist())
        elif isinstance(constraint, FixInternals | FixSubsetCom):
            groups.append(constraint.get_indices())
        elif not isinstance(constraint, _SINGLE):
            groups.append(range(n_atoms))
    return [[int(i) % n_atoms for i in group] for group in groups]


def _overlaps(atoms: Atoms, constraints: Sequence[Any], motions: np.ndarray) -> np.ndarray:
    """Kinetic products of motions, (n, n_atoms, 3), with what the constraints leave of them."""
    left = np.array([_left(constraints, atoms, motion) for motion in motions])
    return np.einsum("aij,bij,i->ab", motions, left, 1.0 / atoms.get_masses())


def _holds_to_a_place(constraint: Any) -> bool:
    """Whether it adds forces that do not sum to zero."""
    if isinstance(constraint, Hookean):
        return constraint._type != "two atoms"
    adds = hasattr(constraint, "adjust_potential_energy")
    return adds and not isinstance(constraint, ExternalForce)
