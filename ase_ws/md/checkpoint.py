"""Checkpoints of a run: after a kill at any step it goes on to the same numbers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.md.md import MolecularDynamics

from ase_ws.atomic import atomic_path
from ase_ws.errors import UserError
from ase_ws.md.files import LOG_COLUMNS
from ase_ws.md.integrators import Baths
from ase_ws.md.observer import RunContext, Snapshot
from ase_ws.md.result import Record

NAME = "md.checkpoint.npz"

#: Parts of ASE's integrators that have a state of their own.
_PARTS = ("_thermostat", "_barostat")
_NOT_STATE = ("masses", "max_steps", "dt")


class Checkpoint:
    """The whole state of a run at one step, in plain arrays and JSON; nothing in it is executed.

    Parameters
    ----------
    folder : path
    settings : dict
        What must be the same for the run to go on: plain data.
    """

    def __init__(self, folder: str | os.PathLike[str], settings: dict[str, Any]):
        self.path = Path(folder) / NAME
        self.settings = json.loads(json.dumps(settings))

    def save(
        self, dynamics: MolecularDynamics, rng: np.random.Generator, record: Record, seconds: float
    ) -> None:
        """Write the state after the current step, in place of the one before."""
        atoms = dynamics.atoms
        state = {
            "settings": self.settings,
            "step": dynamics.nsteps,
            "rng": rng.bit_generator.state,
            "offsets": record.offsets(),
            "seconds": seconds,
        }
        arrays = {f"integrator:{name}": value for name, value in _state(dynamics)}
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

    def load(self) -> Restart | None:
        """Read the checkpoint; None where there is none.

        Raises
        ------
        UserError
            It belongs to another run, or is not a checkpoint.
        """
        if not self.path.exists():
            return None
        try:
            with np.load(self.path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            state = json.loads(str(arrays.pop("state")))
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"{self.path}: not a checkpoint of an MD run; delete it to start anew"
            ) from error
        for name, now in self.settings.items():
            before = state["settings"].get(name)
            if before != now and name != "steps":
                raise UserError(
                    f"{self.path}: the run had {name} {before!r}, now it is {now!r}: resume with "
                    "the same settings, or start anew in another folder"
                )
        return Restart(state, arrays)


class Restart:
    """A checkpoint that was read."""

    def __init__(self, state: dict[str, Any], arrays: dict[str, np.ndarray]):
        self.step = int(state["step"])
        self.seconds = float(state["seconds"])
        self.offsets: dict[str, int] = state["offsets"]
        self._rng = state["rng"]
        self._arrays = arrays

    @property
    def rows(self) -> np.ndarray:
        """Rows of the log so far, in full precision."""
        return self._arrays["rows"]

    def restore_atoms(self, atoms: Atoms) -> None:
        """Put the atoms where they were."""
        atoms.set_cell(self._arrays["cell"])
        atoms.set_positions(self._arrays["positions"], apply_constraint=False)
        atoms.set_momenta(self._arrays["momenta"], apply_constraint=False)

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
        """Read the frames on file again, for the observers."""
        conserved = {
            int(row[0]): row[LOG_COLUMNS.index("conserved_ev_per_atom")] for row in self.rows
        }
        for frame in ase.io.iread(folder / "trajectory.extxyz", index=":", format="extxyz"):
            step = int(frame.info["step"])
            if step > self.step:
                return
            live = atoms.copy()
            live.set_cell(frame.cell)
            live.set_positions(frame.positions, apply_constraint=False)
            live.set_momenta(frame.get_momenta(), apply_constraint=False)
            yield Snapshot(
                step=step,
                time=step * context.timestep,
                atoms=live,
                energy=float(frame.get_potential_energy()),
                forces=frame.get_forces(),
                conserved=conserved[step] * len(atoms),
                context=context,
            )


def settings_of(
    context: RunContext, baths: Baths, seed: int, interval: int, atoms: Atoms
) -> dict[str, Any]:
    """Give what a resumed run must have in common with the one before."""
    return {
        "structure": atoms.get_chemical_formula(mode="reduce"),
        "pbc": atoms.pbc.tolist(),
        **asdict(context),
        **asdict(baths),
        "seed": int(seed),
        "interval": int(interval),
    }


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
