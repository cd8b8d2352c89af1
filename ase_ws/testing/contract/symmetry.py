"""What must not change, or turn along: energies, forces and stress under the symmetries of space.

Each function yields what is wrong, and nothing where the point holds.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ase import Atoms

from ase_ws.testing.contract.subject import Subject, Values


def batching(subject: Subject) -> Iterator[str]:
    """Expect of a batch what its structures give one by one."""
    alone = [subject.values([atoms]) for atoms in subject.structures]
    expected = Values(
        [v.energy[0] for v in alone], [v.forces[0] for v in alone], [v.stress[0] for v in alone]
    )
    yield from subject.differences(expected, subject.values())


def translation(subject: Subject) -> Iterator[str]:
    """Expect the same wherever a structure is."""
    moved = subject.changed(lambda atoms: atoms.translate((1.3, -0.7, 2.1)))
    yield from subject.differences(subject.values(), subject.values(moved))


def rotation(subject: Subject) -> Iterator[str]:
    """Expect forces and stress to turn with the structure, and the energy to stay."""
    matrix, _ = np.linalg.qr(subject.rng.normal(size=(3, 3)))
    yield from _turned(subject, matrix * np.linalg.det(matrix))


def reflection(subject: Subject) -> Iterator[str]:
    """Expect the same in a mirror."""
    yield from _turned(subject, np.diag([-1.0, 1.0, 1.0]))


def _turned(subject: Subject, matrix: np.ndarray) -> Iterator[str]:
    def turn(atoms: Atoms) -> None:
        atoms.set_cell(np.array(atoms.cell) @ matrix.T)
        atoms.positions = atoms.positions @ matrix.T

    plain = subject.values()
    expected = Values(
        plain.energy,
        [forces @ matrix.T for forces in plain.forces],
        [matrix @ stress @ matrix.T for stress in plain.stress],
    )
    yield from subject.differences(expected, subject.values(subject.changed(turn)))


def permutation(subject: Subject) -> Iterator[str]:
    """Expect the same in any order of the atoms."""
    orders = [subject.rng.permutation(len(atoms)) for atoms in subject.structures]
    shuffled = [
        atoms[order.tolist()] for atoms, order in zip(subject.structures, orders, strict=True)
    ]
    plain = subject.values()
    forces = [f[order] for f, order in zip(plain.forces, orders, strict=True)]
    expected = Values(plain.energy, forces, plain.stress)
    yield from subject.differences(expected, subject.values(shuffled))


def wrapping(subject: Subject) -> Iterator[str]:
    """Expect the same for any image of an atom."""

    def shift(atoms: Atoms) -> None:
        cells = subject.rng.integers(-2, 3, (len(atoms), 3)) * atoms.pbc
        atoms.positions += cells @ np.array(atoms.cell)

    yield from subject.differences(subject.values(), subject.values(subject.changed(shift)))


def cutoff(subject: Subject) -> Iterator[str]:
    """Expect nothing from edges beyond `r_max` where the potential says so."""
    if subject.potential.skin_safe:
        skin = 0.5 * float(subject.potential.r_max)
        yield from subject.differences(subject.values(), subject.values(skin=skin))
