"""Frames around failures, written as candidates for new labels."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms

from ase_ws.files.writing import atomic_path
from ase_ws.md.observer import label_atoms
from ase_ws.pairs import find_pairs, longest, radii_sum
from ase_ws.results.replica import ReplicaResult
from ase_ws.stability.runs.replicas import Run

#: A frame with a contact below this part of the radii sum is not worth a reference calculation:
#: it would not converge, and nothing in MD should go there.
CRUSHED = 0.4


@dataclass
class Candidates:
    """Collects the frames of failed replicas and keeps the file up to date.

    Each frame says in `info`: `role` ("earlier", "before", "failing"), `label` (whether it is
    worth a reference calculation: finite, and no contact below `CRUSHED`), the check, its
    message, the atoms, temperature, replica and seed. The failing model's own energy is there as
    `model_energy`, never under a name that a training would read as a label.

    Attributes
    ----------
    path : Path or None
        File to write; None writes nothing.
    """

    path: Path | None
    frames: list[Atoms] = field(default_factory=list)

    def add(self, run: Run) -> None:
        """Take the frames of a replica, if it failed, and write the file anew."""
        if run.result.failure is None or not run.frames:
            return
        self.frames += describe_frames(run.result, run.frames)
        # After each failure, so that a campaign that is killed keeps what it found. A disk that is
        # full now ends no run: it is tried again at the end.
        with suppress(OSError):
            self.write()

    def write(self) -> None:
        """Write the file, where there is one and anything to write."""
        if self.path is not None and self.frames:
            with atomic_path(self.path) as temporary:
                ase.io.write(temporary, self.frames, format="extxyz")


def describe_frames(result: ReplicaResult, frames: Sequence[Atoms]) -> list[Atoms]:
    """Copy the frames, with what is to be known about them in `info`."""
    failure = result.failure
    assert failure is not None
    roles = ["earlier"] * (len(frames) - 2) + ["before", "failing"][-len(frames) :]
    described = []
    for frame, role in zip(frames, roles, strict=True):
        copy = frame.copy()
        # Plain NumPy values: strings and numbers are all that extended xyz holds.
        copy.info.update(
            role=role,
            label=_worth_a_label(frame),
            check=failure.check,
            message=failure.message,
            failing_atoms=label_atoms(frame, failure.atoms, limit=20),
            temperature=result.temperature,
            replica=result.replica,
            seed=result.seed,
        )
        if frame.calc is not None:
            copy.info["model_energy"] = float(frame.calc.results["energy"])
        copy.calc = None
        described.append(copy)
    return described


def _worth_a_label(frame: Atoms) -> bool:
    if not (np.isfinite(frame.positions).all() and np.isfinite(frame.cell.array).all()):
        return False
    first, second, distance, _ = find_pairs(frame, longest(frame))
    return bool((distance >= CRUSHED * radii_sum(frame.numbers, first, second)).all())
