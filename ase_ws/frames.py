"""From any ASE-readable file to labelled frames.

A label that is absent stays absent (None here, a mask in the graph): it is never a zero target.
Energies in eV, forces in eV/Å, stress in eV/Å³ with ASE's sign.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.data import chemical_symbols
from ase.io import iread
from ase.stress import voigt_6_to_full_3x3_stress

from ase_ws.errors import UserError
from ase_ws.graphs import check_periodicity, graph
from ase_ws.typing import GraphBatch, Labels

FrameSource = str | os.PathLike[str] | Atoms | Sequence[Atoms] | Sequence["Frame"]


@dataclass(frozen=True)
class LabelKeys:
    """Where the labels stand: keys of `atoms.info` and `atoms.arrays`.

    ASE moves `energy`, `forces` and `stress` of an extended XYZ file into a single-point
    calculator, so the defaults look there first and in info/arrays second.
    """

    energy: str = "energy"
    forces: str = "forces"
    stress: str = "stress"


# Comparing arrays has no single answer, so frames compare by identity.
@dataclass(frozen=True, eq=False)
class Frame:
    """One structure with the labels it has.

    Attributes
    ----------
    numbers : ndarray, (n_atoms,)
    positions : ndarray, (n_atoms, 3), Å
    cell : ndarray, (3, 3), Å
    pbc : ndarray, (3,), bool
    energy : float or None, eV
    forces : ndarray, (n_atoms, 3), or None, eV/Å
    stress : ndarray, (3, 3), or None, eV/Å³
    source : str
        File and position in it, for messages.
    """

    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    energy: float | None = None
    forces: np.ndarray | None = None
    stress: np.ndarray | None = None
    source: str = ""

    @property
    def is_isolated_atom(self) -> bool:
        """One atom, no periodic neighbours: its energy is a reference energy E0."""
        return len(self.numbers) == 1 and not self.pbc.any()

    def labels(self) -> Labels:
        """Give the labels as tensors, absent ones masked (and NaN, so that a slip shows)."""
        n = len(self.numbers)
        return Labels(
            # Not through torch's default float32: it would round -17,600 eV to 2 meV.
            energy=torch.tensor(
                [np.nan if self.energy is None else self.energy], dtype=torch.float64
            ),
            has_energy=torch.tensor([self.energy is not None]),
            forces=torch.from_numpy(
                np.full((n, 3), np.nan) if self.forces is None else self.forces
            ),
            has_forces=torch.tensor([self.forces is not None]),
            stress=torch.from_numpy(
                np.full((3, 3), np.nan) if self.stress is None else self.stress
            )[None],
            has_stress=torch.tensor([self.stress is not None]),
        )

    def graph(self, cutoff: float, frame_id: int | None = None) -> GraphBatch:
        """Give the frame as a graph with every pair up to `cutoff` (Å)."""
        return graph(
            self.numbers,
            self.positions,
            self.cell,
            self.pbc,
            cutoff=cutoff,
            labels=self.labels(),
            frame_id=frame_id,
        )


def read_frames(source: FrameSource, keys: LabelKeys | None = None) -> list[Frame]:
    """Read every frame of a file, or convert `Atoms`.

    Parameters
    ----------
    source : path, Atoms, sequence of Atoms, or sequence of Frame
        A path may choose frames the way ASE does: "labels.xyz@:100", "labels.xyz@100:150".
    keys : LabelKeys, optional

    Returns
    -------
    list of Frame

    Raises
    ------
    UserError
        A missing or unreadable file, no frames, a label that is NaN or has the wrong shape:
        the message names the file and the frame.
    """
    keys = keys or LabelKeys()
    if isinstance(source, Atoms):
        source = [source]
    if isinstance(source, str | os.PathLike):
        frames = [
            frame_from_atoms(atoms, f"{source}, frame {k}", keys)
            for k, atoms in enumerate(_iread(Path(source)))
        ]
        name = str(source)
    else:
        frames = [
            item if isinstance(item, Frame) else frame_from_atoms(item, f"frame {k}", keys)
            for k, item in enumerate(source)
        ]
        name = "the given frames"
    if not frames:
        raise UserError(f"{name}: no frames found; expected at least one structure")
    return frames


def read_structure(path: str | os.PathLike[str]) -> Atoms:
    """Read the last structure of a file, for MD and relaxation."""
    atoms = None
    for atoms in _iread(Path(path)):  # noqa: B007 - the last one counts
        pass
    if atoms is None:
        raise UserError(f"{path}: no structure found; expected one that ASE can read")
    return atoms


def _iread(path: Path) -> Iterator[Atoms]:
    """Read frames one by one; "FILE@10:20" is ASE's way to name some of them."""
    file, selection = path, ":"
    if not path.is_file() and "@" in path.name:
        name, _, selection = path.name.rpartition("@")
        file = path.with_name(name)
    if not file.is_file():
        raise UserError(f"{file}: no such file; expected a structure file that ASE can read")
    k = 0
    try:
        for atoms in iread(file, index=selection):
            yield atoms
            k += 1
    except UserError:
        raise
    except Exception as error:
        detail = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{path}, frame {k}: cannot be read ({detail}); expected a file that ASE can read, "
            "such as extended XYZ"
        ) from error


def frame_from_atoms(atoms: Atoms, source: str = "frame", keys: LabelKeys | None = None) -> Frame:
    """Take structure and labels from an `Atoms` object, checking every number."""
    keys = keys or LabelKeys()
    if len(atoms) == 0:
        raise UserError(f"{source}: no atoms; expected at least one")
    _require_finite(atoms.positions, source, "positions")
    _require_finite(np.asarray(atoms.cell), source, "cell")
    try:
        check_periodicity(np.asarray(atoms.cell), atoms.pbc)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    energy = _label(atoms, keys.energy, "energy", source)
    forces = _label(atoms, keys.forces, "forces", source)
    stress = _label(atoms, keys.stress, "stress", source)
    if energy is not None and energy.size != 1:
        raise UserError(f"{source}: energy label '{keys.energy}' is not one number")
    if forces is not None and forces.shape != (len(atoms), 3):
        raise UserError(
            f"{source}: forces label '{keys.forces}' has shape {forces.shape}, "
            f"expected ({len(atoms)}, 3)"
        )
    return Frame(
        numbers=atoms.numbers.copy(),
        positions=atoms.positions.copy(),
        cell=np.array(atoms.cell),
        pbc=atoms.pbc.copy(),
        energy=None if energy is None else float(energy.reshape(())),
        forces=forces,
        stress=None if stress is None else _full_stress(stress, source, keys.stress),
        source=source,
    )


def _label(atoms: Atoms, key: str, property_name: str, source: str) -> np.ndarray | None:
    value = None
    if key == property_name and atoms.calc is not None:
        try:
            # Never triggers a calculation: only what the file (or a past run) left there.
            value = atoms.calc.get_property(property_name, atoms, allow_calculation=False)
        except PropertyNotImplementedError:
            value = None
    if value is None:
        value = atoms.arrays.get(key, atoms.info.get(key))
    if value is None:
        return None
    try:
        value = np.array(value, dtype=float)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{source}: {property_name} label '{key}' is not a number: {value!r:.60}"
        ) from error
    _require_finite(value, source, f"{property_name} label '{key}'")
    return value


def _require_finite(value: np.ndarray, source: str, what: str) -> None:
    if not np.isfinite(value).all():
        raise UserError(
            f"{source}: {what} holds NaN or infinity; leave a missing label out instead of "
            "marking it so, or remove the frame"
        )


def _full_stress(stress: np.ndarray, source: str, key: str) -> np.ndarray:
    if stress.size == 6:
        return np.asarray(voigt_6_to_full_3x3_stress(stress.reshape(6)))
    if stress.size == 9:
        return stress.reshape(3, 3)
    raise UserError(f"{source}: stress label '{key}' has {stress.size} numbers, expected 6 or 9")


def check_elements(frames: Iterable[Frame], known: Iterable[int], model: str = "") -> None:
    """Raise a `UserError` that names the first element the model does not know, and where."""
    known = set(known)
    for frame in frames:
        unknown = sorted(set(frame.numbers.tolist()) - known)
        if unknown:
            names = ", ".join(chemical_symbols[z] for z in unknown)
            have = ", ".join(chemical_symbols[z] for z in sorted(known))
            which = f"the model {model}" if model else "the model"
            raise UserError(
                f"{frame.source}: {which} does not know the element(s) {names} "
                f"(it knows {have}); choose another model or train one from scratch"
            )


def split_frames(
    frames: Sequence[Frame], fraction: float, seed: int
) -> tuple[list[Frame], list[Frame]]:
    """Shuffle by `seed` and hold out a fraction (at least one frame) for validation."""
    if len(frames) < 2:
        raise UserError("one training frame cannot be split: give --valid, or more frames")
    order = np.random.default_rng(seed).permutation(len(frames))
    n_valid = min(max(1, round(fraction * len(frames))), len(frames) - 1)
    held_out = set(order[:n_valid].tolist())
    train = [f for k, f in enumerate(frames) if k not in held_out]
    valid = [f for k, f in enumerate(frames) if k in held_out]
    return train, valid


def elements_of(numbers: Iterable[np.ndarray]) -> list[int]:
    """Give the atomic numbers that occur in any of the structures, ascending."""
    return sorted({int(z) for structure in numbers for z in structure})


def composition(numbers: Sequence[np.ndarray], elements: Sequence[int]) -> np.ndarray:
    """Count the atoms of each element in each structure, (n_structures, n_elements)."""
    return np.array([[np.count_nonzero(z == e) for e in elements] for z in numbers], dtype=float)


def fit_reference_energies(
    numbers: Sequence[np.ndarray],
    energies: Sequence[float] | np.ndarray,
    elements: Sequence[int],
) -> np.ndarray:
    """Energies per element that fit total energies best, in float64.

    Solves min ‖A x − E‖ with A the composition matrix (frames × elements). Where the compositions
    do not determine every element (isomers, one molecule) the solution of least norm is taken.

    Parameters
    ----------
    numbers : sequence of ndarray
        Atomic numbers of each frame.
    energies : sequence of float, eV
    elements : sequence of int

    Returns
    -------
    ndarray, (n_elements,), eV
    """
    solution, *_ = np.linalg.lstsq(
        composition(numbers, elements), np.asarray(energies, dtype=float), rcond=None
    )
    return solution
