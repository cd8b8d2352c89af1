"""Checkpoints of a run: after a kill at any step it goes on to the same numbers."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ase.io
import numpy as np
from ase import Atoms
from ase.md.md import MolecularDynamics

from ase_ws.errors import UserError
from ase_ws.files.writing import atomic_path
from ase_ws.md.observed_run import ObservedRun
from ase_ws.md.observer import Snapshot
from ase_ws.md.record import LOG, LOG_COLUMNS, SUMMARY, TRAJECTORY, Record
from ase_ws.md.run_identity import RunIdentity
from ase_ws.md.trajectory_frame import place

NAME = "md.checkpoint.npz"
#: Raised when an older checkpoint lacks something.
VERSION = 2

#: Parts of ASE's integrators that have a state of their own.
_PARTS = ("_thermostat", "_barostat")
_NOT_STATE = ("masses", "max_steps", "dt")

_ANEW = "start anew in another folder"


class Begun(NamedTuple):
    """How far a run is: with the rows of its log, and the bytes of "trajectory" and "log"."""

    step: int
    seconds: float
    rows: np.ndarray
    offsets: dict[str, int]


BEGINNING = Begun(-1, 0.0, np.zeros((0, len(LOG_COLUMNS))), {})


class Checkpoint:
    """The whole state of a run at one step, in plain arrays and JSON; nothing in it is executed.

    A run goes on where its `identity` is the same; `rng` gives the integrator its random numbers.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        identity: RunIdentity,
        dynamics: MolecularDynamics,
        rng: np.random.Generator,
    ):
        self.folder = Path(folder)
        self.path = self.folder / NAME
        self.identity, self.dynamics, self.rng = identity, dynamics, rng

    def remove(self) -> None:
        """Remove what an earlier run has left here, but for what a new one writes over."""
        for path in (self.path, self.folder / SUMMARY):
            path.unlink(missing_ok=True)

    def save(self, record: Record, seconds: float) -> None:
        """Write the state after the current step, in place of the one before."""
        atoms = self.dynamics.atoms
        state = {
            "version": VERSION,
            "settings": self.identity.settings,
            "step": self.dynamics.nsteps,
            "rng": self.rng.bit_generator.state,
            "offsets": record.offsets(),
            "seconds": seconds,
        }
        arrays = {f"integrator:{name}": value for name, value in _state(self.dynamics)}
        arrays.update({f"start:{name}": value for name, value in self.identity.arrays.items()})
        with atomic_path(self.path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                state=np.array(json.dumps(state)),
                positions=atoms.positions,
                momenta=atoms.get_momenta(),
                cell=atoms.cell.array,
                rows=record.rows(),
                **arrays,
            )

    def resume(self, run: ObservedRun) -> Begun:
        """Put everything back to where the checkpoint is, if there is one.

        The observers are shown the frames on file again.

        Raises
        ------
        UserError
            It belongs to another run, is damaged, or a file that it needs is gone or cut.
        """
        if not self.path.exists():
            return BEGINNING
        state, arrays, begun = self._read()
        for key, name in (("trajectory", TRAJECTORY), ("log", LOG)):
            path = self.folder / name
            if not path.is_file():
                raise UserError(f"{path}: missing, the run cannot go on without it: {_ANEW}")
            if path.stat().st_size < begun.offsets[key]:
                raise UserError(
                    f"{path}: shorter than its checkpoint says, it cannot go on: {_ANEW}"
                )
        for snapshot in self._snapshots(run, begun):
            run.look(snapshot)
        place(run.atoms, *(arrays[name] for name in ("cell", "positions", "momenta")))
        self._restore(state, arrays)
        forget_lists(run.atoms)
        return begun

    def _read(self) -> tuple[dict[str, Any], dict[str, np.ndarray], Begun]:
        """Read it, and look whether it is of this run and all is there to go on."""
        content = self.path.read_bytes()
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            state = json.loads(str(arrays.pop("state")))
            if state.get("version", 1) != VERSION:
                raise UserError(
                    f"{self.path}: of another version of ase-ws, it does not say all that a run "
                    f"must go on with: {_ANEW}"
                )
            start = {k[6:]: arrays.pop(k) for k in list(arrays) if k.startswith("start:")}
            differs = self.identity.differs_from(RunIdentity(state["settings"], start))
            if differs:
                raise UserError(f"{self.path}: {differs}: resume with the same, or {_ANEW}")
            return state, arrays, self._begun(state, arrays)
        except UserError:
            raise
        except Exception as error:
            # There is no telling what a file raises that was cut, emptied or overwritten.
            raise UserError(
                f"{self.path}: damaged, or not a checkpoint of an MD run: {_ANEW}"
            ) from error

    def _begun(self, state: dict[str, Any], arrays: dict[str, np.ndarray]) -> Begun:
        np.random.default_rng().bit_generator.state = state["rng"]
        offsets = {name: int(state["offsets"][name]) for name in ("trajectory", "log")}
        begun = Begun(int(state["step"]), float(state["seconds"]), arrays["rows"], offsets)
        n_atoms = len(self.dynamics.atoms)
        shapes = {f"integrator:{name}": np.shape(value) for name, value in _state(self.dynamics)}
        shapes |= {"positions": (n_atoms, 3), "momenta": (n_atoms, 3), "cell": (3, 3)}
        shapes |= {"rows": (len(begun.rows), len(LOG_COLUMNS))}
        if {name: value.shape for name, value in arrays.items()} != shapes:
            raise ValueError("other arrays than the integrator has")
        if not all(np.isfinite(arrays[name]).all() for name in ("positions", "momenta", "cell")):
            raise ValueError("not finite")
        if begun.step < 0 or min(offsets.values()) < 0:
            raise ValueError("before the start")
        return begun

    def _restore(self, state: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        self.rng.bit_generator.state = state["rng"]
        self.dynamics.nsteps = int(state["step"])
        for name, old in list(_state(self.dynamics)):
            *parts, attribute = name.split(".")
            owner = getattr(self.dynamics, parts[0]) if parts else self.dynamics
            value = arrays[f"integrator:{name}"]
            setattr(owner, attribute, value if isinstance(old, np.ndarray) else type(old)(value))

    def _snapshots(self, run: ObservedRun, begun: Begun) -> Iterator[Snapshot]:
        """Read the frames on file again; each is put into the atoms of the run."""
        path = self.folder / TRAJECTORY
        frames = ase.io.iread(path, index=":", format="extxyz")
        for number, row in enumerate(begun.rows[begun.rows[:, 0] <= begun.step]):
            step = int(row[0])
            try:
                frame = next(frames)
                if int(frame.info["step"]) != step:
                    raise ValueError("another step")
                energy = float(frame.get_potential_energy(apply_constraint=False))
                forces = frame.get_forces(apply_constraint=False)
                place(run.atoms, frame.cell.array, frame.positions, frame.get_momenta())
            except Exception as error:
                raise UserError(
                    f"{path}: frame {number} is not step {step}, as its checkpoint says; the run "
                    f"cannot go on: {_ANEW}"
                ) from error
            yield Snapshot(
                step=step,
                time=step * run.context.timestep,
                atoms=run.atoms,
                energy=energy,
                forces=forces,
                conserved=row[LOG_COLUMNS.index("conserved_ev_per_atom")] * len(run.atoms),
                context=run.context,
            )


def forget_lists(atoms: Atoms) -> None:
    """Let the calculator start as it will after a resume.

    Sums over neighbours depend on the order of the list, in the last digit: at a checkpoint the
    list is built anew, in the run that goes on as in the one that resumes.
    """
    reset = getattr(atoms.calc, "reset", None)
    if callable(reset):
        reset()


def _state(dynamics: MolecularDynamics) -> Iterator[tuple[str, Any]]:
    """Every number and array of an integrator and its parts."""
    owners = [("", dynamics)]
    owners += [(f"{part}.", getattr(dynamics, part)) for part in _PARTS if hasattr(dynamics, part)]
    for prefix, owner in owners:
        for name, value in vars(owner).items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if (number or isinstance(value, np.ndarray)) and name not in _NOT_STATE:
                yield prefix + name, value
