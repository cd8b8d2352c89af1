"""What the runner shows to the checks during MD, and what they may answer.

The runner knows only this interface. The checks themselves live in `ase_ws.stability`, which
imports `ase_ws.md` and never the other way round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from ase_ws.md.trajectory_frame import bare_frame
from ase_ws.md.velocities import kinetic_temperature
from ase_ws.results.finding import Finding

Ensemble = Literal["nve", "nvt", "npt"]


@dataclass(frozen=True)
class RunContext:
    """What holds for a whole run.

    Attributes
    ----------
    ensemble : {"nve", "nvt", "npt"}
        The ensemble.
    temperature : float
        Set temperature in K (NVE: the temperature of the initial velocities).
    timestep : float
        Time step in fs.
    steps : int
        Number of steps that are planned.
    n_dof : int
        Degrees of freedom that share the kinetic energy, see `degrees_of_freedom`.
    pressure : float or None
        Set pressure in bar (NPT only).
    """

    ensemble: Ensemble
    temperature: float
    timestep: float
    steps: int
    n_dof: int
    pressure: float | None = None


@dataclass
class Snapshot:
    """The state after one MD step; the observers must not change it.

    Attributes
    ----------
    step : int
        Step number, 0 is the start.
    time : float
        Time since the start in fs.
    atoms : Atoms
        The live atoms (positions in Å, not wrapped; momenta in ASE units).
    energy : float
        Potential energy in eV, the one that the forces derive from, without constraints.
    forces : (n_atoms, 3) array
        Forces in eV/Å, without constraints.
    conserved : float
        Conserved quantity of the integrator in eV (NVE: E + K, and what constraints add to E).
    context : RunContext
        What holds for the whole run.
    stress : (6,) array or None
        Stress in eV/Å³, Voigt order, where the calculator has computed one.
    shared : dict
        Room for what several observers need of the same snapshot (such as its close pairs).
    """

    step: int
    time: float
    atoms: Atoms
    energy: float
    forces: np.ndarray
    conserved: float
    context: RunContext
    stress: np.ndarray | None = None
    shared: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def kinetic_energy(self) -> float:
        """Kinetic energy in eV."""
        return float(self.atoms.get_kinetic_energy())

    @cached_property
    def temperature(self) -> float:
        """Kinetic temperature 2K/(n_dof k_B) in K."""
        return kinetic_temperature(self.kinetic_energy, self.context.n_dof)

    def to_atoms(self, state: Atoms | None = None) -> Atoms:
        """Copy the frame, with its energy and forces, for a file.

        `state` gives positions, momenta and cell where `self.atoms` have moved on since.
        """
        frame = bare_frame(state if state is not None else self.atoms, self.step, self.time)
        frame.calc = SinglePointCalculator(frame, energy=self.energy, forces=self.forces.copy())
        return frame


class Observer(Protocol):
    """Something that looks at snapshots of a run.

    `interval` is the number of steps between two looks; the first and the last step are always
    looked at. `start` is called once per run, before step 0, and must forget any earlier run.
    """

    interval: int

    def start(self, atoms: Atoms, context: RunContext) -> None:
        """Take note of the starting structure."""
        ...

    def check(self, snapshot: Snapshot) -> Sequence[Finding]:
        """Look at one snapshot; a finding of severity "fail" stops the run."""
        ...


def label_atoms(atoms: Atoms, indices: Sequence[int], limit: int = 6) -> str:
    """Name atoms as "C0, H5"; beyond `limit` only their number is told."""
    symbols = atoms.symbols
    names = [f"{symbols[i]}{i}" for i in indices[:limit]]
    rest = len(indices) - limit
    return ", ".join(names) + (f" and {rest} more" if rest > 0 else "")
