"""The record of a run: files that are readable at any moment, also after a kill."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms

from ase_ws.files.folders import require_writable
from ase_ws.files.writing import naming
from ase_ws.frames.files import HALF_WRITTEN
from ase_ws.md.observer import Snapshot

TRAJECTORY, LOG, SUMMARY = "trajectory.extxyz", "md.csv", "md.json"

LOG_COLUMNS = (
    "step",
    "time_fs",
    "potential_ev_per_atom",
    "kinetic_ev_per_atom",
    "conserved_ev_per_atom",
    "temperature_k",
    "volume_a3",
)


class _Appender:
    """Appends whole pieces to a file, or nothing."""

    def __init__(self, path: str | os.PathLike[str], offset: int | None = None):
        self._path = path
        with naming(path):
            self._file = io.FileIO(path, "w" if offset is None else "r+")
            if offset is not None:
                self._file.truncate(offset)
                self._file.seek(offset)

    @property
    def offset(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _append(self, data: bytes) -> None:
        start = self.offset
        with naming(self._path):
            try:
                self._write(data)
            except BaseException:
                # What is there of the piece would stand in the way of the next.
                self._file.truncate(start)
                self._file.seek(start)
                raise

    def _write(self, data: bytes) -> None:
        """Write all of it: the system may take a part and say nothing but how much."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]


class TrajectoryWriter(_Appender):
    """Append frames to an extended XYZ file; a half-written frame is never visible.

    A frame is written with a blank first line, and only then its number of atoms is put there.
    Readers of extended XYZ (ASE's among them) take a blank line for the end of the file, so a
    run that is killed in between leaves a file that ends with the last whole frame.
    """

    _WIDTH = len(HALF_WRITTEN)

    def write(self, frame: Atoms) -> None:
        """Append one frame."""
        text = io.StringIO()
        ase.io.write(text, frame, format="extxyz")
        count, rest = text.getvalue().split("\n", 1)
        start = self.offset
        self._append(b" " * self._WIDTH + b"\n" + rest.encode())
        end = self.offset
        self._file.seek(start)
        self._write(count.rjust(self._WIDTH).encode())
        self._file.seek(end)


class LogWriter(_Appender):
    """Append rows of `LOG_COLUMNS` to a CSV file, each with one system call."""

    def __init__(self, path: str | os.PathLike[str], offset: int | None = None):
        super().__init__(path, offset)
        if offset is None:
            self._append((",".join(LOG_COLUMNS) + "\n").encode())

    def write(self, row: Sequence[float]) -> None:
        """Append one row; the first number is the step."""
        numbers = [str(int(row[0])), *(f"{value:.9g}" for value in row[1:])]
        self._append((",".join(numbers) + "\n").encode())


_FILES = (("trajectory", TrajectoryWriter, TRAJECTORY), ("log", LogWriter, LOG))


class Record:
    """Traces in memory and, with a folder `out`, the trajectory and the log on disk.

    With `rows` and `offsets` (bytes of "trajectory" and "log") of a checkpoint it goes on from it.
    """

    def __init__(
        self,
        out: str | os.PathLike[str] | None,
        rows: np.ndarray | None = None,
        offsets: Mapping[str, int] | None = None,
    ):
        self._rows: list[tuple[float, ...]] = [] if rows is None else list(map(tuple, rows))
        offsets = offsets or {}
        self._files: dict[str, Any] = {}
        if out is not None:
            folder = Path(out)
            require_writable(folder, folder=True)
            folder.mkdir(parents=True, exist_ok=True)
            try:
                for name, kind, file in _FILES:
                    self._files[name] = kind(folder / file, offsets.get(name))
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> Record:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()

    def write(self, snapshot: Snapshot) -> None:
        """Add one point."""
        n_atoms = len(snapshot.atoms)
        row = (
            snapshot.step,
            snapshot.time,
            snapshot.energy / n_atoms,
            snapshot.kinetic_energy / n_atoms,
            snapshot.conserved / n_atoms,
            snapshot.temperature,
            snapshot.atoms.cell.volume,
        )
        self._rows.append(row)
        if self._files:
            self._files["log"].write(row)
            self._files["trajectory"].write(snapshot.to_atoms())

    def rows(self) -> np.ndarray:
        """Points so far, (n_points, n_columns)."""
        return np.array(self._rows, dtype=float).reshape(-1, len(LOG_COLUMNS))

    def offsets(self) -> dict[str, int]:
        """How far the files are written."""
        return {name: file.offset for name, file in self._files.items()}

    def traces(self) -> dict[str, np.ndarray]:
        """Give one array per column of `LOG_COLUMNS`."""
        table = self.rows()
        return {name: table[:, k].copy() for k, name in enumerate(LOG_COLUMNS)}


def steps_on_file(folder: str | os.PathLike[str]) -> int:
    """Give the last step of the log in a folder; 0 where there is none that can be read."""
    try:
        return int(read_log(Path(folder) / LOG)["step"][-1])
    except (OSError, ValueError, LookupError):
        return 0


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
