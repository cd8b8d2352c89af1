"""ASE's constraints in MD: each made right or refused, and what they leave to move.

A constraint leaves a subspace of the momenta. MD needs the projection onto it to be orthogonal in
the metric of the masses, p ← p − Gᵀ (G M⁻¹ Gᵀ)⁻¹ G M⁻¹ p with the gradients G, and the steps of
the positions to follow the same subspace: only then does the constraint do no work, and the
kinetic temperature is that of the degrees of freedom left. Both are measured before a run, for
each constraint and for all together, so that constraints of one's own are judged as ASE's are.

==========================================  ===================================================
constraint                                  in MD
==========================================  ===================================================
FixAtoms, FixCartesian, FixedLine,          as ASE has them
FixedPlane, FixBondLengths, FixCom,
FixSymmetry, Hookean
FixScaled                                   as FixAtoms, FixedLine or FixedPlane: in a skewed cell
                                            ASE moves the atoms obliquely
FixedMode, FixInternals,                    with the projection above: ASE's is that of an
FixLinearTriatomic                          optimizer, blind to the masses
FixSubsetCom                                moves its atoms alone, ASE's moves all of them
ExternalForce                               leaves the momenta alone: ASE's adds the force to them
MirrorForce, MirrorTorque,                  refused: they search for saddle points, or wrap atoms
Fix…ParametricRelations                     back into the cell in the middle of a step
==========================================  ===================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.constraints import (
    ExternalForce,
    FixAtoms,
    FixCartesian,
    FixConstraint,
    FixedLine,
    FixedMode,
    FixedPlane,
    FixInternals,
    FixLinearTriatomic,
    FixParametricRelations,
    FixScaled,
    FixSubsetCom,
    MirrorForce,
    MirrorTorque,
)
from ase.geometry import find_mic

from ase_ws.errors import UserError
from ase_ws.md.evaluation import CALCULATOR_FAILURES, describe
from ase_ws.md.freedom import fault

_REFUSED = (MirrorForce, MirrorTorque, FixParametricRelations)


def with_md_constraints(atoms: Atoms) -> Atoms:
    """Copy `atoms`, without calculator, with constraints that hold in MD.

    Raises
    ------
    UserError
        A constraint that MD cannot keep, constraints that do not go together, or a start that
        violates them.
    """
    bare = in_md_form(atoms)
    for constraint in bare.constraints:
        _check(bare, [constraint])
    if len(bare.constraints) > 1:
        _check(bare, bare.constraints)
    if bare.constraints:
        bare.set_positions(bare.positions)
    return bare


def in_md_form(atoms: Atoms) -> Atoms:
    """Copy `atoms`, without calculator, with the constraints made right, but not looked at.

    Raises
    ------
    UserError
        A constraint that is made for relaxations.
    """
    bare = atoms.copy()
    constraints = [_for_md(constraint, bare) for constraint in bare.constraints]
    bare.set_constraint(_merged(constraints))
    return bare


def constraint_energy(atoms: Atoms) -> float:
    """Energy in eV that constraints such as Hookean add to the potential's."""
    return sum(
        float(constraint.adjust_potential_energy(atoms))
        for constraint in atoms.constraints
        if hasattr(constraint, "adjust_potential_energy")
    )


# ---------------------------------------------------------------- made right


class _Gradients:
    """Projects the momenta with the gradients of what is held."""

    def gradients(self, atoms: Atoms) -> np.ndarray:
        """One row for each quantity that is held, (n, 3 n_atoms)."""
        raise NotImplementedError

    def adjust_momenta(self, atoms: Atoms, momenta: np.ndarray) -> None:
        """Take off what would change a held quantity."""
        momenta -= self._normal(atoms, momenta / atoms.get_masses()[:, None])

    def _normal(self, atoms: Atoms, velocities: np.ndarray) -> np.ndarray:
        rows = self.gradients(atoms)
        metric = (rows / np.repeat(atoms.get_masses(), 3)) @ rows.T
        # The pseudo-inverse: nothing goes wrong where one thing is held twice.
        multipliers = np.linalg.pinv(metric, hermitian=True) @ (rows @ velocities.ravel())
        return (rows.T @ multipliers).reshape(-1, 3)


class _Internals(_Gradients, FixInternals):
    def gradients(self, atoms: Atoms) -> np.ndarray:
        self.initialize(atoms)
        for part in self.constraints:
            part.setup_jacobian(atoms.positions)
        return np.array([part.jacobian for part in self.constraints])


class _Mode(_Gradients, FixedMode):
    def gradients(self, atoms: Atoms) -> np.ndarray:
        return self.mode[None]

    def adjust_positions(self, atoms: Atoms, newpositions: np.ndarray) -> None:
        step = newpositions - atoms.positions
        newpositions -= self._normal(atoms, step) / atoms.get_masses()[:, None]


class _Triatomic(_Gradients, FixLinearTriatomic):  # pyright: ignore - ASE calls momenta p here
    """Length of each molecule, and its middle atom on the line: four quantities of each."""

    def gradients(self, atoms: Atoms) -> np.ndarray:
        if self.bondlengths is None:
            self.initialize(atoms)
        rows = np.zeros((len(self.triples), 4, len(atoms), 3))
        every = np.arange(len(self.triples))
        along = _shortest(atoms, self.n_ind, self.m_ind)
        rows[every, 0, self.n_ind], rows[every, 0, self.m_ind] = along, -along
        for axis in range(3):
            rows[every, 1 + axis, self.o_ind, axis] = 1.0
            rows[every, 1 + axis, self.n_ind, axis] = -self.C1[:, 0]
            rows[every, 1 + axis, self.m_ind, axis] = -self.C1[:, 1]
        return rows.reshape(4 * len(self.triples), -1)

    def adjust_positions(self, atoms: Atoms, new: np.ndarray) -> None:
        rows, masses = self.gradients(atoms), np.repeat(atoms.get_masses(), 3)
        answers = np.linalg.pinv((rows / masses) @ rows.T, hermitian=True)
        moves = (rows.T @ answers / masses[:, None]).T.reshape(-1, 4, len(atoms), 3)
        step = new - atoms.positions
        off = (rows @ step.ravel()).reshape(-1, 4)
        off[:, 0] = 0.0
        off[:, 1:] += self.C1[:, :1] * _shortest(atoms, self.o_ind, self.n_ind)
        off[:, 1:] += self.C1[:, 1:] * _shortest(atoms, self.o_ind, self.m_ind)
        step -= np.einsum("kqij,kq->ij", moves, off)
        # Along the molecule the quantity is quadratic in the step: solved, not linearized.
        every = np.arange(len(self.triples))
        stretch = moves[every, 0, self.n_ind] - moves[every, 0, self.m_ind]
        length = _shortest(atoms, self.n_ind, self.m_ind) + step[self.n_ind] - step[self.m_ind]
        square, half = (np.einsum("kx,kx->k", stretch, v) for v in (stretch, length))
        excess = np.einsum("kx,kx->k", length, length) - self.bondlengths_nm**2
        root = np.sqrt(half**2 - square * excess)
        step -= np.einsum("kij,k->ij", moves[:, 0], (half - root) / square)
        new[:] = atoms.positions + step

    def redistribute_forces_md(self, atoms: Atoms, forces: np.ndarray, rand: bool = False) -> None:
        # ASE moves the outer atoms alone and derives the middle one; here all three move.
        pass


class _SubsetCom(FixSubsetCom):
    def adjust_positions(self, atoms: Atoms, new: np.ndarray) -> None:
        masses = atoms.get_masses()[self.index]
        step = new[self.index] - atoms.positions[self.index]
        new[self.index] -= masses @ step / masses.sum()


class _Pull(ExternalForce):
    def adjust_momenta(self, atoms: Atoms, momenta: np.ndarray) -> None:
        pass


def _shortest(atoms: Atoms, to: np.ndarray, start: np.ndarray) -> np.ndarray:
    between: Any = atoms.positions[to] - atoms.positions[start]
    periodic: Any = atoms.pbc
    return find_mic(between, atoms.cell, periodic)[0]


_FORMS: dict[type, type] = {
    FixInternals: _Internals,
    FixedMode: _Mode,
    FixLinearTriatomic: _Triatomic,
    FixSubsetCom: _SubsetCom,
    ExternalForce: _Pull,
}


def _for_md(constraint: Any, atoms: Atoms) -> Any:
    if isinstance(constraint, _REFUSED):
        raise UserError(
            f"{_name(constraint)} does not go with MD: it is made for relaxations; remove it"
        )
    if type(constraint) is FixScaled:
        return _unscaled(constraint, atoms)
    if type(constraint) in _FORMS:
        # Nothing else is different, so that copies and dictionaries stay ASE's own.
        constraint.__class__ = _FORMS[type(constraint)]
    return constraint


def _unscaled(constraint: FixScaled, atoms: Atoms) -> FixConstraint:
    held, cell = np.flatnonzero(constraint.mask), atoms.cell
    if len(held) == 1:
        return FixedPlane(constraint.index, cell.reciprocal().array[held[0]])
    if len(held) == 2:
        return FixedLine(constraint.index, cell.array[3 - held.sum()])
    return FixAtoms(constraint.index if len(held) else [])


def _merged(constraints: Sequence[Any]) -> list[Any]:
    """Join what extended XYZ gives as one FixCartesian for each atom: each costs time."""
    masks: dict[tuple[bool, ...], list[np.ndarray]] = {}
    for constraint in constraints:
        if type(constraint) is FixCartesian:
            masks.setdefault(tuple(constraint.mask), []).append(constraint.index)
    joined = [
        FixCartesian(np.unique(np.concatenate(indices)), mask)
        for mask, indices in masks.items()
        if any(mask)
    ]
    return joined + [c for c in constraints if type(c) is not FixCartesian]


def _check(atoms: Atoms, constraints: Sequence[Any]) -> None:
    names = " and ".join(dict.fromkeys(map(_name, constraints)))
    try:
        found = fault(atoms, constraints)
    except CALCULATOR_FAILURES as error:
        raise UserError(f"{names}: cannot be applied to the start ({describe(error)})") from error
    if found:
        raise UserError(f"{names}: {found}")


def _name(constraint: Any) -> str:
    cls = type(constraint)
    return next((of.__name__ for of, form in _FORMS.items() if cls is form), cls.__name__)
