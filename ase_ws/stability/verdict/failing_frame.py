"""The failing frame as plain numbers, for a picture in the report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.geometry import find_mic

from ase_ws.pairs import find_pairs, longest, radii_sum
from ase_ws.results.pictures import FailingFrame
from ase_ws.stability.checks.bonds import BONDED
from ase_ws.stability.runs.replicas import Run


def failing_frame(runs: Sequence[Run]) -> FailingFrame | None:
    """Draw up the frame of the first failure in time; None where no replica failed.

    Where positions of the failing frame are not finite, the frame before stands in.
    """
    failed = [run for run in runs if run.result.failure is not None and run.frames]
    if not failed:
        return None
    first = min(failed, key=lambda run: run.result.simulated_ps)
    sane = [
        frame
        for frame in first.frames
        if np.isfinite(frame.positions).all() and np.isfinite(frame.cell.array).all()
    ]
    if not sane:
        return None
    frame, failure = sane[-1], first.result.failure
    assert failure is not None
    return FailingFrame(
        symbols=list(frame.symbols),
        positions=np.round(_whole(frame, failure.atoms), 4).tolist(),
        radii=[float(covalent_radii[z]) for z in frame.numbers],
        bonds=_bonds(frame),
        marked=failure.atoms,
        check=failure.check,
        message=failure.message,
        time_ps=frame.info.get("time_fs", failure.time) / 1000.0,
        temperature=failure.temperature,
        replica=failure.replica,
    )


def _whole(frame: Atoms, marked: Sequence[int]) -> np.ndarray:
    """Positions of the images nearest to the atoms in question."""
    if not frame.pbc.any():
        return frame.positions
    centre = frame.positions[marked[0]] if marked else frame.positions.mean(axis=0)
    vectors, _ = find_mic(frame.positions - centre, frame.cell, frame.pbc)  # pyright: ignore[reportArgumentType]
    return vectors + centre


def _bonds(frame: Atoms) -> list[tuple[int, ...]]:
    """Bonded pairs; the page draws those that are as near in the picture as in the crystal."""
    first, second, distance, _ = find_pairs(frame, longest(frame))
    near = distance <= BONDED * radii_sum(frame.numbers, first, second)
    near &= first < second
    return [(int(i), int(j)) for i, j in zip(first[near], second[near], strict=True)]
