"""Many replicas of MD in one batch: other seeds, temperatures and molecules side by side."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator
from torch import Tensor

from ase_ws.calculators import PotentialCalculator
from ase_ws.errors import UserError
from ase_ws.md.evaluation import check_structure
from ase_ws.md.finite import FiniteGuard
from ase_ws.md.integrators_batched import BussiBatched, LangevinBAOAB, VelocityVerletBatched
from ase_ws.md.observer import Observer, RunContext, Snapshot
from ase_ws.md.result import MDResult, Record
from ase_ws.md.run import Progress
from ase_ws.md.state import Frame, State
from ase_ws.md.velocities import degrees_of_freedom, draw_velocities
from ase_ws.md.watch import Watch
from ase_ws.typing import Potential

#: Observers look every so many steps. NaN is looked for in every step, and a replica this much
#: above its temperature, or with a force this large (eV/Å), is looked at in every step.
LOOK_EVERY, HOT, LARGE_FORCE = 10, 3.0, 30.0

Ensemble = Literal["nve", "nvt"]
Thermostat = Literal["langevin", "bussi"]

#: Called as `finished(number of the replica, its result)`.
Finished = Callable[[int, MDResult], None]


def run_replicas(
    structures: Atoms | Sequence[Atoms],
    calculator: PotentialCalculator | Potential | str | os.PathLike[str],
    *,
    temperature: float | Sequence[float],
    steps: int,
    timestep: float = 0.5,
    seeds: Sequence[int] = (0,),
    ensemble: Ensemble = "nvt",
    thermostat: Thermostat = "langevin",
    thermostat_time: float = 100.0,
    keep_velocities: bool = False,
    observers: Callable[[], Sequence[Observer]] | None = None,
    interval: int = 10,
    skin: float = 1.0,
    out: str | os.PathLike[str] | None = None,
    finished: Finished | None = None,
    progress: Progress | None = None,
) -> list[MDResult]:
    """Run MD of many replicas together, each as `run_md` would run it alone.

    NVE is velocity Verlet; NVT is Langevin dynamics in the BAOAB splitting, whose configurations
    are those of the canonical ensemble to second order in the time step (exactly in a harmonic
    well), or velocity Verlet with Bussi's velocity rescaling, as in `run_md`. The centre of mass
    rests, and an isolated molecule does not rotate, as everywhere in this package. A replica that
    fails a check leaves the batch, the others go on.

    Parameters
    ----------
    structures : Atoms or sequence of Atoms
        One for all replicas, or one for each; sizes and elements may differ. Not changed.
    calculator : PotentialCalculator, Potential or path
    temperature : float or sequence of float
        In K; one for all replicas or one for each.
    steps : int
    timestep : float, fs
    seeds : sequence of int
        One for each replica: of its velocities and its noise. A replica does the same whoever
        else is in the batch, to rounding.
    ensemble : {"nve", "nvt"}
    thermostat : {"langevin", "bussi"}
        NVT only. Langevin is the better sampler of few particles; Bussi does not hide a potential
        that heats, and gives the run that `run_md` gives from the same seed.
    thermostat_time : float, fs
        Inverse of the friction, or time constant of the rescaling.
    keep_velocities : bool
        Go on with the momenta of the structures.
    observers : callable, optional
        Makes the observers of one replica. They look every ten steps (see `LOOK_EVERY`).
    interval : int
        Steps between two points of the traces, and frames.
    skin : float, Å
        Of the neighbour lists, which are renewed together.
    out : path, optional
        Folder for one folder for each replica, with the files that `run_md` writes.
    finished : callable, optional
        Called as `finished(number, result)` when a replica ends, some long before the others.
    progress : callable, optional
        Called as `progress(steps_done, steps_planned, label)` every `interval` steps.

    Returns
    -------
    list of MDResult
        In the order of the seeds.

    Raises
    ------
    UserError
        Bad arguments; constraints, which only `run_md` knows. What the potential raises after
        the start ends the replicas that it raises for, `stopped_by` names it.

    Notes
    -----
    BAOAB: Leimkuhler and Matthews, Appl. Math. Res. Express 2013, 34.
    """
    calculator = _calculator(calculator)
    if thermostat not in get_args(Thermostat):
        raise UserError(f"replicas know langevin and bussi, not {thermostat!r}: use run_md for it")
    replicas = _replicas(structures, temperature, seeds, ensemble, steps, timestep, keep_velocities)
    state = State.of([r.atoms for r in replicas], calculator, skin)
    integrator = _INTEGRATORS[ensemble if ensemble == "nve" else thermostat](
        state,
        [r.context for r in replicas],
        thermostat_time,
        [np.random.default_rng(r.noise_seed) for r in replicas],
    )
    active = list(range(len(replicas)))
    try:
        for number, replica in enumerate(replicas):
            replica.begin([] if observers is None else observers(), out, number, interval)
        started = time.perf_counter()
        for step in range(steps + 1):
            if step:
                integrator.step()
            going_on = _look(active, replicas, state, integrator.heat, step, steps, interval)
            for k in active:
                if step == steps or k not in going_on:
                    seconds = time.perf_counter() - started
                    replicas[k].end(seconds / len(replicas), finished, k)
            active = going_on
            integrator.keep(active)
            if progress is not None and (step % interval == 0 or step == steps):
                progress(step, steps, f"{len(active)} of {len(replicas)} replicas")
            if not active:
                break
    finally:
        for replica in replicas:
            replica.close()
    return [replica.ended for replica in replicas]


_INTEGRATORS: dict[str, type[VelocityVerletBatched]] = {
    "nve": VelocityVerletBatched,
    "langevin": LangevinBAOAB,
    "bussi": BussiBatched,
}


class _Replica:
    """One replica: its atoms, observers and record."""

    ended: MDResult

    def __init__(
        self, atoms: Atoms, context: RunContext, seed: int, noise_seed: np.random.SeedSequence
    ):
        self.atoms, self.context, self.seed = atoms, context, seed
        self.noise_seed: np.random.SeedSequence = noise_seed
        self.n_atoms = len(atoms)

    def begin(
        self,
        observers: Sequence[Observer],
        out: str | os.PathLike[str] | None,
        number: int,
        interval: int,
    ) -> None:
        """Take up the observers and open the files."""
        self.watch = Watch([FiniteGuard(), *observers], self.atoms, self.context)
        folder = None if out is None else Path(out) / f"replica_{number:03d}"
        self.record = Record(folder, interval)

    def close(self) -> None:
        """Close the files."""
        if hasattr(self, "record"):
            self.record.__exit__()

    def end(self, seconds: float, finished: Finished | None, number: int) -> None:
        """Make what `run_md` gives; `seconds` is this replica's share of the wall time."""
        self.close()
        self.ended = MDResult(
            atoms=self.atoms,
            steps_done=self.watch.steps_done,
            stopped_by=self.watch.failure,
            warnings=self.watch.warnings,
            traces=self.record.traces(),
            last_frames=self.watch.last_frames,
            earlier_frames=self.watch.earlier_frames,
            seconds=seconds,
            context=self.context,
            seed=self.seed,
        )
        if finished is not None:
            finished(number, self.ended)


def _look(
    active: list[int],
    replicas: Sequence[_Replica],
    state: State,
    heat: Tensor,
    step: int,
    steps: int,
    interval: int,
) -> list[int]:
    """Show the replicas to their observers where that is due; give those that go on."""
    due = step % LOOK_EVERY == 0 or step == steps
    recorded = step % interval == 0 or step == steps
    if not (due or recorded):
        suspicious = state.suspicious([replicas[k].context for k in active], HOT, LARGE_FORCE)
        if not suspicious.any():
            for k in active:
                replicas[k].watch.steps_done = step
            return active
    else:
        suspicious = np.ones(len(active), dtype=bool)
    frames = state.frames()
    heats = heat.tolist()
    go_on = []
    for place, k in enumerate(active):
        replica = replicas[k]
        replica.watch.steps_done = step
        if suspicious[place]:
            snapshot = _snapshot(replica, frames[place], heats[place], step)
            if place in state.errors:
                replica.watch.steps_done = step - 1
                replica.watch.calculator_failed(state.errors[place])
                continue
            stopped = replica.watch.look(snapshot) if due or not recorded else False
            if recorded or stopped:
                replica.record.write(snapshot)
            if stopped:
                continue
        go_on.append(k)
    return go_on


def _snapshot(replica: _Replica, frame: Frame, heat: float, step: int) -> Snapshot:
    positions, momenta, forces, energy = frame
    replica.atoms.arrays["positions"][:] = positions
    replica.atoms.arrays["momenta"][:] = momenta
    snapshot = Snapshot(
        step=step,
        time=step * replica.context.timestep,
        atoms=replica.atoms,
        energy=energy,
        forces=forces,
        conserved=0.0,
        context=replica.context,
    )
    snapshot.conserved = energy + snapshot.kinetic_energy - heat
    return snapshot


def _calculator(
    calculator: PotentialCalculator | Potential | str | os.PathLike[str],
) -> PotentialCalculator:
    if isinstance(calculator, PotentialCalculator):
        return calculator
    if isinstance(calculator, BaseCalculator):
        raise UserError(
            f"replicas run in one batch, which {type(calculator).__name__} cannot: give a "
            "PotentialCalculator or a Potential, or use run_md, once for each seed"
        )
    return PotentialCalculator(calculator)


def _replicas(
    structures: Atoms | Sequence[Atoms],
    temperature: float | Sequence[float],
    seeds: Sequence[int],
    ensemble: Ensemble,
    steps: int,
    timestep: float,
    keep_velocities: bool,
) -> list[_Replica]:
    n = len(seeds)
    several = [structures] * n if isinstance(structures, Atoms) else list(structures)
    temperatures = (
        list(temperature) if isinstance(temperature, Sequence | np.ndarray) else [temperature] * n
    )
    for name, values in (("structures", several), ("temperatures", temperatures)):
        if len(values) != n:
            raise UserError(f"{len(values)} {name} for {n} seeds: give one, or one for each seed")
    if ensemble not in ("nve", "nvt"):
        raise UserError(f"replicas run nve or nvt, not {ensemble!r}: use run_md for npt")
    for name, value in (("timestep", timestep), *(("temperature", t) for t in temperatures)):
        if not (np.isfinite(value) and value > 0):
            raise UserError(f"{name} is {value}: it must be a positive number")
    out = []
    for structure, kelvin, seed in zip(several, temperatures, seeds, strict=True):
        if structure.constraints:
            raise UserError("replicas do not know constraints: use run_md")
        check_structure(structure)
        atoms = structure.copy()
        # As in `run_md`: the same seed draws the same velocities.
        velocity_seed, noise_seed = np.random.SeedSequence(seed).spawn(2)
        if not keep_velocities:
            draw_velocities(atoms, kelvin, np.random.default_rng(velocity_seed))
        elif "momenta" not in atoms.arrays:
            raise UserError("keep_velocities is set, but the atoms have none: set their momenta")
        context = RunContext(
            ensemble=ensemble,
            temperature=float(kelvin),
            timestep=float(timestep),
            steps=int(steps),
            n_dof=degrees_of_freedom(atoms),
        )
        out.append(_Replica(atoms, context, int(seed), noise_seed))
    return out
