"""What a frame of a trajectory takes from the starting structure."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties

#: Entries of `atoms.info` that describe the system and hold for every frame.
KEPT_INFO = ("charge", "spin", "multiplicity")
#: Numbers of atoms that describe the system and hold for every frame.
KEPT_ARRAYS = ("masses", "tags", "initial_charges", "initial_magmoms")

#: Columns that extended XYZ has a meaning of its own for.
_TAKEN = {"numbers", "positions", "momenta", "symbols", "species", "pos", "Z", "move_mask"}
_LABELS = ("energ", "force", "stress", "virial", "dipole", "charge", "magmom", "ref_", "dft_")


def bare_frame(atoms: Atoms, step: int, time: float) -> Atoms:
    """Copy what makes a frame: the state, and what of the structure holds at every time.

    That is elements, cell, constraints, charge and spin, masses, tags, initial charges and
    magnetic moments, and what names or counts atoms (types, residues): text, whole numbers and
    truth values of each atom. Other numbers stay behind: labels of the starting structure, such
    as reference energies and forces, would be wrong for every other frame, and someone might
    train on them. Extended XYZ has room for FixAtoms and FixCartesian; other constraints are in
    frames in memory only.
    """
    frame = Atoms(
        numbers=atoms.numbers,
        positions=atoms.positions,
        cell=atoms.cell,
        pbc=atoms.pbc,
        info={key: atoms.info[key] for key in KEPT_INFO if key in atoms.info},
        constraint=atoms.constraints,
    )
    for name, values in atoms.arrays.items():
        if name in KEPT_ARRAYS or _names_atoms(name, values):
            frame.arrays[name] = values.astype(int) if values.dtype.kind == "u" else values.copy()
    frame.arrays["momenta"] = atoms.get_momenta()
    frame.info.update(step=step, time_fs=time)
    return frame


def place(atoms: Atoms, cell: np.ndarray, positions: np.ndarray, momenta: np.ndarray) -> None:
    """Put atoms somewhere, whatever their constraints say to it."""
    atoms.set_cell(cell, apply_constraint=False)
    atoms.set_positions(positions, apply_constraint=False)
    atoms.set_momenta(momenta, apply_constraint=False)


def _names_atoms(name: str, values: np.ndarray) -> bool:
    lowered = name.lower()
    if name in _TAKEN or name in all_properties or any(word in lowered for word in _LABELS):
        return False
    if values.ndim > 2 or any(c.isspace() or c in ':="' for c in name):
        return False
    if values.dtype.kind in "UO":
        # Columns are told apart by blanks: text that is empty or has some cannot be read back.
        return all(isinstance(v, str) and v.split() == [v] for v in values.ravel())
    return values.dtype.kind in "biu"
