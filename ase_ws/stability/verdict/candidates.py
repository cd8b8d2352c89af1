"""Frames around failures, written as candidates for new labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms

from ase_ws.files.writing import atomic_path
from ase_ws.md.observer import label_atoms
from ase_ws.pairs import find_pairs, longest, radii_sum
from ase_ws.results.replica import ReplicaResult
from ase_ws.results.report import StabilityReport
from ase_ws.stability.runs.replicas import Run

#: A frame with a contact below this part of the radii sum is not worth a reference calculation:
#: it would not converge, and nothing in MD should go there.
CRUSHED = 0.4


def save(report: StabilityReport, runs: Sequence[Run], folder: Path) -> None:
    """Write what a verdict leaves on disk: `candidates.xyz`, then `stability.json`."""
    write_candidates(folder, runs)
    # Last: where it is, all is.
    report.write(folder)


def write_candidates(folder: Path, runs: Sequence[Run]) -> None:
    """Write `candidates.xyz`, the frames of failed replicas; nothing where there are none.

    Each frame says in `info`: `role` ("earlier", "before", "failing"), `label` (whether it is
    worth a reference calculation: finite, and no contact below `CRUSHED`), the check, its
    message, the atoms, temperature, replica and seed. The failing model's own energy is there as
    `model_energy`, never under a name that a training would read as a label.
    """
    failed = [run for run in runs if run.result.failure is not None and run.frames]
    frames = [frame for run in failed for frame in _described(run.result, run.frames)]
    if frames:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / "candidates.xyz") as temporary:
            ase.io.write(temporary, frames, format="extxyz")


def _described(result: ReplicaResult, frames: Sequence[Atoms]) -> list[Atoms]:
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
