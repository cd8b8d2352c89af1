"""The files of a run, readable at any moment, also after the run was killed."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms

from ase_ws.errors import UserError

LOG_COLUMNS = (
    "step",
    "time_fs",
    "potential_ev_per_atom",
    "kinetic_ev_per_atom",
    "conserved_ev_per_atom",
    "temperature_k",
    "volume_a3",
)


def _open(path: str | os.PathLike[str], offset: int | None) -> io.FileIO:
    """Open a file anew, or to go on after its first `offset` bytes."""
    if offset is None:
        return io.FileIO(path, "w")
    file = io.FileIO(path, "r+")
    if file.seek(0, os.SEEK_END) < offset:
        file.close()
        raise UserError(f"{path}: shorter than its checkpoint says; it cannot go on: start anew")
    file.truncate(offset)
    file.seek(offset)
    return file


class TrajectoryWriter:
    """Append frames to an extended XYZ file; a half-written frame is never visible.

    A frame is written with a blank first line, and only then its number of atoms is put there.
    Readers of extended XYZ (ASE's among them) take a blank line for the end of the file, so a
    run that is killed in between leaves a file that ends with the last whole frame.
    """

    _WIDTH = 12

    def __init__(self, path: str | os.PathLike[str], offset: int | None = None):
        self._file = _open(path, offset)

    @property
    def offset(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def write(self, frame: Atoms) -> None:
        """Append one frame."""
        text = io.StringIO()
        ase.io.write(text, frame, format="extxyz")
        count, rest = text.getvalue().split("\n", 1)
        start = self._file.tell()
        self._file.write(b" " * self._WIDTH + b"\n" + rest.encode())
        end = self._file.tell()
        self._file.seek(start)
        self._file.write(count.rjust(self._WIDTH).encode())
        self._file.seek(end)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class LogWriter:
    """Append rows of `LOG_COLUMNS` to a CSV file, each with one system call."""

    def __init__(self, path: str | os.PathLike[str], offset: int | None = None):
        self._file = _open(path, offset)
        if offset is None:
            self._file.write((",".join(LOG_COLUMNS) + "\n").encode())

    @property
    def offset(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def write(self, row: Sequence[float]) -> None:
        """Append one row; the first number is the step."""
        numbers = [str(int(row[0])), *(f"{value:.9g}" for value in row[1:])]
        self._file.write((",".join(numbers) + "\n").encode())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_log(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read an `md.csv`; a last line that a kill cut short is left out.

    Returns
    -------
    dict
        One array per column, see `LOG_COLUMNS`.
    """
    text = Path(path).read_text(encoding="utf-8")
    lines = text[: text.rfind("\n") + 1].splitlines()
    names = lines[0].split(",") if lines else list(LOG_COLUMNS)
    rows = np.array([[float(value) for value in line.split(",")] for line in lines[1:]])
    return dict(zip(names, rows.reshape(-1, len(names)).T, strict=True))
