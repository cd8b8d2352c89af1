"""A run under the eyes of its observers: what they say, and the frames around a failure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from ase import Atoms

from ase_ws.md.evaluation import describe
from ase_ws.md.finite_guard import FiniteGuard
from ase_ws.md.observer import Observer, RunContext, Snapshot
from ase_ws.md.record import Record
from ase_ws.md.trajectory_frame import bare_frame, place
from ase_ws.results.finding import Finding

#: Frames kept for someone who wants to know how a failure came about: so many, this far apart (fs).
EARLIER, EARLIER_EVERY = 5, 20.0

#: What was seen of a step: with cell, positions and momenta, since the atoms move on.
_Seen = tuple[Snapshot, tuple[np.ndarray, ...]]


@dataclass
class ObservedRun:
    """What the observers have found so far.

    Attributes
    ----------
    observers : sequence of Observer
        Asked in this order, after a `FiniteGuard`: one is put in front where there is none.
    atoms : Atoms
        The live atoms.
    context : RunContext
    steps_done : int
        Last step that was looked at.
    record : Record
        Written by whoever runs it; the default is in memory only.
    failure : Finding or None
        What ended the run.
    warnings : list of Finding
        What did not.
    last_frames : list of Atoms
        After a failure: the frame before and the failing one.
    earlier_frames : list of Atoms
        After a failure: some frames of the last 100 fs before those, oldest first.
    """

    observers: Sequence[Observer]
    atoms: Atoms
    context: RunContext
    steps_done: int = 0
    record: Record = field(default_factory=lambda: Record(None))
    failure: Finding | None = None
    warnings: list[Finding] = field(default_factory=list)
    last_frames: list[Atoms] = field(default_factory=list)
    earlier_frames: list[Atoms] = field(default_factory=list)
    _previous: _Seen | None = None
    _kept: deque[_Seen] = field(default_factory=lambda: deque(maxlen=EARLIER))

    def __post_init__(self) -> None:
        if not any(isinstance(observer, FiniteGuard) for observer in self.observers):
            self.observers = [FiniteGuard(), *self.observers]
        # First whatever the order given: the others may trip over NaN.
        self.observers = sorted(self.observers, key=lambda o: not isinstance(o, FiniteGuard))
        for observer in self.observers:
            observer.start(self.atoms, self.context)

    def look(self, snapshot: Snapshot) -> bool:
        """Ask the observers that are due; True when one of them failed the snapshot."""
        self.steps_done = snapshot.step
        for observer in self.observers:
            if snapshot.step % observer.interval and snapshot.step != self.context.steps:
                continue
            for finding in observer.check(snapshot):
                if finding.severity == "fail":
                    self.failure = finding
                    self._keep_frames(snapshot.to_atoms())
                    return True
                self.warnings.append(finding)
        self._remember(snapshot)
        return False

    def calculator_failed(self, error: BaseException) -> None:
        """Take an exception in a step for a failure of the potential, or of a constraint."""
        step = self.steps_done + 1
        held = _raised_by(error, self.atoms.constraints)
        self.failure = Finding(
            check="calculator" if held is None else "constraints",
            severity="fail",
            message=f"the calculator raised {describe(error)}"
            if held is None
            else f"{held} could not be kept ({describe(error)}): take a smaller time step",
            step=step,
            time=step * self.context.timestep,
            temperature=self.context.temperature,
        )
        self._keep_frames(bare_frame(self.atoms, step, self.failure.time))

    def _remember(self, snapshot: Snapshot) -> None:
        # Three small arrays instead of `atoms.copy()`, which would cost ten times as much in
        # every step for a frame that is hardly ever wanted.
        atoms = self.atoms
        state = (atoms.cell.array.copy(), atoms.positions.copy(), atoms.get_momenta())
        # What the checks share of a snapshot is theirs, and large.
        snapshot.shared.clear()
        self._previous = snapshot, state
        if not self._kept or snapshot.time - self._kept[-1][0].time >= EARLIER_EVERY - 1e-6:
            self._kept.append(self._previous)

    def _keep_frames(self, failing: Atoms) -> None:
        self.last_frames.append(failing)
        if self._previous is None:
            return
        self.last_frames.insert(0, self._frame(*self._previous))
        step = self._previous[0].step
        self.earlier_frames = [self._frame(*kept) for kept in self._kept if kept[0].step < step]

    def _frame(self, snapshot: Snapshot, state: tuple[np.ndarray, ...]) -> Atoms:
        atoms = self.atoms.copy()
        place(atoms, *state)
        return snapshot.to_atoms(atoms)


def _raised_by(error: BaseException, constraints: Sequence[object]) -> str | None:
    """Name the constraint in whose methods an exception arose."""
    trace = error.__traceback__
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        if any(owner is constraint for constraint in constraints):
            return type(owner).__name__.removeprefix("_")
        trace = trace.tb_next
    return None
