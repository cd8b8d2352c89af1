"""What comes out of a run."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from ase_ws.files.writing import write_text
from ase_ws.md.observed_run import ObservedRun
from ase_ws.md.observer import RunContext
from ase_ws.md.record import SUMMARY
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

    @classmethod
    def of(cls, run: ObservedRun, *, seconds: float, seed: int) -> MDResult:
        """Take what there is at the end of a run."""
        return cls(
            atoms=run.atoms,
            steps_done=run.steps_done,
            stopped_by=run.failure,
            warnings=run.warnings,
            traces=run.record.traces(),
            last_frames=run.last_frames,
            earlier_frames=run.earlier_frames,
            seconds=seconds,
            context=run.context,
            seed=int(seed),
        )

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
        try:
            write_text(Path(folder) / SUMMARY, json.dumps(self.to_dict(), indent=2) + "\n")
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
