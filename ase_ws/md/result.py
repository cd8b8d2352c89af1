"""What a run leaves behind: the record it writes on the way, and the result at its end."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from ase_ws.files.folders import require_writable
from ase_ws.files.writing import write_text
from ase_ws.md.files import (
    LOG,
    LOG_COLUMNS,
    SUMMARY,
    TRAJECTORY,
    LogWriter,
    TrajectoryWriter,
    naming,
)
from ase_ws.md.observer import RunContext, Snapshot
from ase_ws.results.finding import Finding


@dataclass(frozen=True, repr=False)
class MDResult:
    """What came out of a run.

    Attributes
    ----------
    atoms : Atoms
        The last state (a copy of its own, with the calculator attached).
    steps_done : int
        Number of steps that were completed and looked at.
    stopped_by : Finding or None
        What stopped the run early.
    warnings : list of Finding
        What was found and did not stop it.
    traces : dict of arrays
        One value every `interval` steps and for the last step. The keys are those of the log:
        step, time_fs, potential_ev_per_atom, kinetic_ev_per_atom, conserved_ev_per_atom,
        temperature_k, volume_a3 (0 without a cell).
    last_frames : list of Atoms
        When stopped early: the frame before and the one that failed.
    earlier_frames : list of Atoms
        When stopped early: some frames of the last 100 fs before those.
    seconds : float
        Wall time.
    context : RunContext
        Ensemble, temperature, time step and the like.
    seed : int
        Seed of velocities and thermostat.
    """

    atoms: Atoms
    steps_done: int
    stopped_by: Finding | None
    warnings: list[Finding]
    traces: dict[str, np.ndarray]
    last_frames: list[Atoms]
    seconds: float
    context: RunContext
    seed: int
    earlier_frames: list[Atoms] = field(default_factory=list)

    def __repr__(self) -> str:
        """Length and end of the run, without traces and frames."""
        end = "done" if self.stopped_by is None else f"stopped by '{self.stopped_by.check}'"
        return f"<MDResult {end}: {self.steps_done} steps, {self.time_ps:.3g} ps>"

    @property
    def time_ps(self) -> float:
        """Simulated time in ps."""
        return self.steps_done * self.context.timestep / 1000.0

    @property
    def ns_per_day(self) -> float:
        """Simulated ns per day of wall time; 0 where nothing was run."""
        return self.time_ps * 1e-3 * 86400.0 / self.seconds if self.seconds > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Summary that JSON can hold, without traces and frames."""
        return {
            "settings": {**asdict(self.context), "seed": self.seed},
            "n_atoms": len(self.atoms),
            "constraints": [type(c).__name__ for c in self.atoms.constraints],
            "steps_done": self.steps_done,
            "time_ps": self.time_ps,
            "stopped_by": self.stopped_by.to_dict() if self.stopped_by else None,
            "warnings": [finding.to_dict() for finding in self.warnings],
            "seconds": self.seconds,
            "ns_per_day": self.ns_per_day,
        }

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Write `md.json`.

        Raises
        ------
        NotWrittenError
            With this result, so that a run is not lost for want of space on a disk.
        """
        path = Path(folder) / SUMMARY
        try:
            with naming(path):
                write_text(path, json.dumps(self.to_dict(), indent=2) + "\n")
        except OSError as error:
            raise NotWrittenError(self, error) from error


class NotWrittenError(OSError):
    """A run is done and could not write its summary.

    Attributes
    ----------
    result : MDResult
        What came out of it.
    """

    def __init__(self, result: MDResult, error: OSError):
        super().__init__(error.errno, error.strerror, error.filename)
        self.result = result


class Record:
    """Traces in memory and, with a folder `out`, the trajectory and the log on disk."""

    def __init__(
        self,
        out: str | os.PathLike[str] | None,
        interval: int,
        *,
        rows: np.ndarray | None = None,
        offsets: Mapping[str, int] | None = None,
    ):
        self._rows: list[tuple[float, ...]] = [] if rows is None else list(map(tuple, rows))
        offsets = offsets or {}
        self._trajectory: TrajectoryWriter | None = None
        self._log: LogWriter | None = None
        if out is not None:
            folder = Path(out)
            require_writable(folder, folder=True)
            folder.mkdir(parents=True, exist_ok=True)
            self._trajectory = TrajectoryWriter(folder / TRAJECTORY, offsets.get("trajectory"))
            try:
                self._log = LogWriter(folder / LOG, offsets.get("log"))
            except BaseException:
                self._trajectory.close()
                raise

    def __enter__(self) -> Record:
        return self

    def __exit__(self, *exception: object) -> None:
        for writer in (self._trajectory, self._log):
            if writer is not None:
                writer.close()

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
        if self._log is not None:
            self._log.write(row)
        if self._trajectory is not None:
            self._trajectory.write(snapshot.to_atoms())

    def rows(self) -> np.ndarray:
        """Points so far, (n_points, n_columns)."""
        return np.array(self._rows, dtype=float).reshape(-1, len(LOG_COLUMNS))

    def offsets(self) -> dict[str, int]:
        """How far the files are written."""
        writers = {"trajectory": self._trajectory, "log": self._log}
        return {name: writer.offset for name, writer in writers.items() if writer is not None}

    def traces(self) -> dict[str, np.ndarray]:
        """Give one array per column of `LOG_COLUMNS`."""
        table = self.rows()
        return {name: table[:, k].copy() for k, name in enumerate(LOG_COLUMNS)}
