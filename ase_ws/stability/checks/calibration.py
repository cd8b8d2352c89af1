"""Thresholds from a training set: what the reference data hold cannot be called wild."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms

from ase_ws.errors import UserError
from ase_ws.frames import has_label, not_used, read_frames
from ase_ws.pairs import find_pairs, longest, radii_sum
from ase_ws.stability.checks.base import Check
from ase_ws.stability.checks.bonds import Counts, count_lengths
from ase_ws.stability.checks.energetics import ForceCheck
from ase_ws.stability.checks.geometry import ContactCheck

#: Margin below the closest contact of the data at which MD is warned, and fails: the data are a
#: sample, and MD at a higher temperature goes a little beyond it.
CLOSER, MUCH_CLOSER = 0.9, 0.8


@dataclass(frozen=True)
class Calibration:
    """What a set of reference frames says about forces, contacts and bond lengths.

    Attributes
    ----------
    source : str
        Where the frames come from.
    n_frames : int
    largest_force : float or None
        Largest force on an atom in eV/Å; None where the data have no forces.
    smallest_contact : float or None
        Smallest r_ij/(R_i + R_j); None where no two atoms are near.
    bonds : counts
        Lengths of bonded pairs, for the report.
    """

    source: str
    n_frames: int
    largest_force: float | None
    smallest_contact: float | None
    bonds: Counts = field(repr=False)

    @classmethod
    def of(
        cls,
        frames: Sequence[Atoms],
        forces: Sequence[np.ndarray | None] | None = None,
        *,
        source: str = "",
    ) -> Calibration:
        """Read off frames.

        Parameters
        ----------
        frames : sequence of Atoms
        forces : sequence of (n_atoms, 3) arrays or None, optional
            In eV/Å. Default: those that the calculators of the frames hold.
        source : str
            For the report.

        Raises
        ------
        UserError
            Without frames, or with one that is not finite.
        """
        if not frames:
            raise UserError("no frames to calibrate on: give the labelled training set")
        known = [_held_forces(atoms) for atoms in frames] if forces is None else forces
        for number, (atoms, its) in enumerate(zip(frames, known, strict=True)):
            if not np.isfinite(atoms.positions).all() or (
                its is not None and not _sound(its, atoms)
            ):
                raise UserError(
                    f"{source or 'calibration'}: frame {number} holds NaN or infinity, or forces "
                    "that are not three an atom; leave it out"
                )
        largest = [float(np.linalg.norm(f, axis=1).max()) for f in known if f is not None]
        contacts = [contact for atoms in frames if (contact := _closest(atoms)) is not None]
        return cls(
            source=source,
            n_frames=len(frames),
            largest_force=max(largest, default=None),
            smallest_contact=min(contacts, default=None),
            bonds=count_lengths(frames),
        )

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Calibration:
        """Read labelled frames, such as the training set."""
        frames = read_frames(path)
        elsewhere = [key for key in not_used(frames) if "force" in key.lower()]
        if elsewhere and not has_label(frames, "forces"):
            warnings.warn(
                f"{path}: no frame has 'forces', but {', '.join(elsewhere)}: the limit of forces "
                "is not calibrated, give them as 'forces'",
                stacklevel=2,
            )
        structures = [Atoms(f.numbers, f.positions, cell=f.cell, pbc=f.pbc) for f in frames]
        return cls.of(structures, [frame.forces for frame in frames], source=str(path))

    def apply(self, checks: Sequence[Check]) -> None:
        """Set the limits of these checks.

        Forces fail above max(50 eV/Å, 10 × the largest of the data). Contacts warn below
        0.9 × the closest of the data and fail below min(0.5, 0.8 × it), so that what the data
        hold passes, and what they do not come near is told.
        """
        for check in checks:
            if isinstance(check, ForceCheck) and self.largest_force is not None:
                check.largest_training_force = self.largest_force
            if isinstance(check, ContactCheck) and self.smallest_contact is not None:
                check.fail_at = min(check.fail_at, MUCH_CLOSER * self.smallest_contact)
                check.warn_at = CLOSER * self.smallest_contact

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary that JSON can hold, without the bond lengths."""
        return {key: value for key, value in vars(self).items() if key != "bonds"}


def _sound(forces: np.ndarray, atoms: Atoms) -> bool:
    return np.shape(forces) == (len(atoms), 3) and bool(np.isfinite(forces).all())


def _held_forces(atoms: Atoms) -> np.ndarray | None:
    return None if atoms.calc is None else getattr(atoms.calc, "results", {}).get("forces")


def _closest(atoms: Atoms) -> float | None:
    first, second, distance, _ = find_pairs(atoms, longest(atoms))
    if len(distance) == 0:
        return None
    return float((distance / radii_sum(atoms.numbers, first, second)).min())
