"""Checkpoints of a run: after a kill at any step it goes on to the same numbers."""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.md.md import MolecularDynamics

from ase_ws.errors import UserError
from ase_ws.files.writing import atomic_path
from ase_ws.md.files import LOG, LOG_COLUMNS, TRAJECTORY, naming
from ase_ws.md.observer import RunContext, Snapshot
from ase_ws.md.result import Record
from ase_ws.md.start import Start

NAME = "md.checkpoint.npz"
#: Raised when an older checkpoint lacks something.
VERSION = 2

#: Parts of ASE's integrators that have a state of their own.
_PARTS = ("_thermostat", "_barostat")
_NOT_STATE = ("masses", "max_steps", "dt")

#: What reading a file may raise that was cut, emptied or overwritten.
_DAMAGE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)

_ANEW = "start anew in another folder"


class Checkpoint:
    """The whole state of a run at one step, in plain arrays and JSON; nothing in it is executed.

    Parameters
    ----------
    folder : path
    start : Start
        What must be the same for the run to go on.
    """

    def __init__(self, folder: str | os.PathLike[str], start: Start):
        self.folder = Path(folder)
        self.path = self.folder / NAME
        self.start = start

    def save(
        self, dynamics: MolecularDynamics, rng: np.random.Generator, record: Record, seconds: float
    ) -> None:
        """Write the state after the current step, in place of the one before."""
        atoms = dynamics.atoms
        state = {
            "version": VERSION,
            "settings": self.start.settings,
            "step": dynamics.nsteps,
            "rng": rng.bit_generator.state,
            "offsets": record.offsets(),
            "seconds": seconds,
        }
        arrays = {f"integrator:{name}": value for name, value in _state(dynamics)}
        arrays.update({f"start:{name}": value for name, value in self.start.arrays.items()})
        with naming(self.path), atomic_path(self.path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                state=np.array(json.dumps(state)),
                positions=atoms.positions,
                momenta=atoms.get_momenta(),
                cell=atoms.cell.array,
                rows=record.rows(),
                **arrays,
            )

    def load(self, dynamics: MolecularDynamics) -> Restart | None:
        """Read the checkpoint and look whether all is there to go on; None where there is none.

        Raises
        ------
        UserError
            It belongs to another run, is damaged, or a file that it needs is gone or cut.
        """
        if not self.path.exists():
            return None
        content = self.path.read_bytes()
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            state = json.loads(str(arrays.pop("state")))
            version = state.get("version", 1)
        except _DAMAGE as error:
            raise UserError(
                f"{self.path}: damaged, or not a checkpoint of an MD run: {_ANEW}"
            ) from error
        if version != VERSION:
            raise UserError(
                f"{self.path}: of another version of ase-ws, it does not say all that a run "
                f"must go on with: {_ANEW}"
            )
        try:
            saved = Start(
                state["settings"],
                {k.removeprefix("start:"): v for k, v in arrays.items() if k.startswith("start:")},
            )
            differs = self.start.differs_from(saved)
            restart = None if differs else Restart(state, arrays, dynamics)
        except _DAMAGE as error:
            raise UserError(
                f"{self.path}: damaged, it does not hold the state of this run: {_ANEW}"
            ) from error
        if restart is None:
            raise UserError(f"{self.path}: {differs}: resume with the same, or {_ANEW}")
        for key, name in (("trajectory", TRAJECTORY), ("log", LOG)):
            self._require(self.folder / name, restart.offsets[key])
        return restart

    @staticmethod
    def _require(path: Path, size: int) -> None:
        if not path.is_file():
            raise UserError(f"{path}: missing, the run cannot go on without it: {_ANEW}")
        if path.stat().st_size < size:
            raise UserError(f"{path}: shorter than its checkpoint says, it cannot go on: {_ANEW}")


class Restart:
    """A checkpoint that was read, and fits `dynamics`."""

    def __init__(
        self, state: dict[str, Any], arrays: dict[str, np.ndarray], dynamics: MolecularDynamics
    ):
        self.step = int(state["step"])
        self.seconds = float(state["seconds"])
        self.offsets = {name: int(state["offsets"][name]) for name in ("trajectory", "log")}
        self._rng = state["rng"]
        self._arrays = arrays
        self._check(dynamics)

    def _check(self, dynamics: MolecularDynamics) -> None:
        np.random.default_rng().bit_generator.state = self._rng
        shapes = {f"integrator:{name}": np.shape(value) for name, value in _state(dynamics)}
        shapes |= {"positions": (len(dynamics.atoms), 3), "momenta": (len(dynamics.atoms), 3)}
        shapes |= {"cell": (3, 3), "rows": (len(self.rows), len(LOG_COLUMNS))}
        held = {k: v for k, v in self._arrays.items() if not k.startswith("start:")}
        if {name: value.shape for name, value in held.items()} != shapes:
            raise ValueError("other arrays than the integrator has")
        if not all(np.isfinite(held[name]).all() for name in ("positions", "momenta", "cell")):
            raise ValueError("not finite")
        if self.step < 0 or min(self.offsets.values()) < 0:
            raise ValueError("before the start")

    @property
    def rows(self) -> np.ndarray:
        """Rows of the log so far, in full precision."""
        return self._arrays["rows"]

    def restore_atoms(self, atoms: Atoms) -> None:
        """Put the atoms where they were."""
        _place(atoms, *(self._arrays[name] for name in ("cell", "positions", "momenta")))

    def restore_dynamics(self, dynamics: MolecularDynamics, rng: np.random.Generator) -> None:
        """Put integrator and random numbers where they were."""
        rng.bit_generator.state = self._rng
        dynamics.nsteps = self.step
        for name, value in self._arrays.items():
            if name.startswith("integrator:"):
                *parts, attribute = name.removeprefix("integrator:").split(".")
                owner = getattr(dynamics, parts[0]) if parts else dynamics
                old = getattr(owner, attribute)
                setattr(
                    owner, attribute, value if isinstance(old, np.ndarray) else type(old)(value)
                )

    def snapshots(self, folder: Path, atoms: Atoms, context: RunContext) -> Iterator[Snapshot]:
        """Read the frames on file again, for the observers; each is put into `atoms`.

        Raises
        ------
        UserError
            They are not those that the checkpoint knows.
        """
        path = folder / TRAJECTORY
        frames = ase.io.iread(path, index=":", format="extxyz")
        rows = self.rows[self.rows[:, 0] <= self.step]
        for number, row in enumerate(rows):
            step = int(row[0])
            try:
                frame = next(frames)
                if int(frame.info["step"]) != step:
                    raise ValueError("another step")
                energy = float(frame.get_potential_energy(apply_constraint=False))
                forces = frame.get_forces(apply_constraint=False)
                _place(atoms, frame.cell.array, frame.positions, frame.get_momenta())
            except (*_DAMAGE, RuntimeError, StopIteration) as error:
                raise UserError(
                    f"{path}: frame {number} is not step {step}, as its checkpoint says; the run "
                    f"cannot go on: {_ANEW}"
                ) from error
            yield Snapshot(
                step=step,
                time=step * context.timestep,
                atoms=atoms,
                energy=energy,
                forces=forces,
                conserved=row[LOG_COLUMNS.index("conserved_ev_per_atom")] * len(atoms),
                context=context,
            )


def forget_lists(atoms: Atoms) -> None:
    """Let the calculator start as it will after a resume.

    Sums over neighbours depend on the order of the list, in the last digit: at a checkpoint the
    list is built anew, in the run that goes on as in the one that resumes.
    """
    reset = getattr(atoms.calc, "reset", None)
    if callable(reset):
        reset()


def _place(atoms: Atoms, cell: np.ndarray, positions: np.ndarray, momenta: np.ndarray) -> None:
    atoms.set_cell(cell, apply_constraint=False)
    atoms.set_positions(positions, apply_constraint=False)
    atoms.set_momenta(momenta, apply_constraint=False)


def _state(dynamics: MolecularDynamics) -> Iterator[tuple[str, Any]]:
    """Every number and array of an integrator and its parts."""
    owners = [("", dynamics)]
    owners += [(f"{part}.", getattr(dynamics, part)) for part in _PARTS if hasattr(dynamics, part)]
    for prefix, owner in owners:
        for name, value in vars(owner).items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if (number or isinstance(value, np.ndarray)) and name not in _NOT_STATE:
                yield prefix + name, value
