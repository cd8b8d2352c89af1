"""Many replicas of MD in one batch: other seeds, temperatures and molecules side by side."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator

from ase_ws.calculators import PotentialCalculator
from ase_ws.errors import UserError
from ase_ws.md.batched_systems import BatchedSystems, Frame
from ase_ws.md.integrators_batched import BussiBatched, LangevinBAOAB, VelocityVerletBatched
from ase_ws.md.observed_run import ObservedRun
from ase_ws.md.observer import Observer, Snapshot
from ase_ws.md.record import Record
from ase_ws.md.run import Progress
from ase_ws.md.run_result import MDResult
from ase_ws.md.run_setup import RunSetup, check_structure, require_positive, require_whole
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
    steps, timestep, keep_velocities, interval, progress
        As for `run_md`.
    seeds : sequence of int
        One for each replica: of its velocities and its noise. A replica does the same whoever
        else is in the batch, to rounding.
    ensemble : {"nve", "nvt"}
    thermostat : {"langevin", "bussi"}
        NVT only. Langevin is the better sampler of few particles; Bussi does not hide a potential
        that heats, and gives the run that `run_md` gives from the same seed.
    thermostat_time : float, fs
        Inverse of the friction, or time constant of the rescaling.
    observers : callable, optional
        Makes the observers of one replica. They look every ten steps (see `LOOK_EVERY`).
    skin : float, Å
        Of the neighbour lists, which are renewed together.
    out : path, optional
        Folder for one folder for each replica, with the files that `run_md` writes.
    finished : callable, optional
        Called as `finished(number, result)` when a replica ends, some long before the others.

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
    if ensemble not in ("nve", "nvt"):
        raise UserError(f"replicas run nve or nvt, not {ensemble!r}: use run_md for npt")
    if thermostat not in _THERMOSTATS:
        raise UserError(f"replicas know langevin and bussi, not {thermostat!r}: use run_md for it")
    require_positive("fs", thermostat_time=thermostat_time)
    require_whole(1, interval=interval)
    setups = [
        RunSetup.of(
            _copy(structure),
            ensemble,
            temperature=kelvin,
            timestep=timestep,
            steps=steps,
            seed=seed,
            keep_velocities=keep_velocities,
        )
        for structure, kelvin, seed in zip(
            _one_each("structures", structures, len(seeds)),
            _one_each("temperatures", temperature, len(seeds)),
            seeds,
            strict=True,
        )
    ]
    systems = BatchedSystems([setup.atoms for setup in setups], calculator, skin)
    kind = VelocityVerletBatched if ensemble == "nve" else _THERMOSTATS[thermostat]
    contexts, generators = [s.context for s in setups], [s.rng for s in setups]
    integrator = kind(systems, contexts, thermostat_time, generators)
    results: dict[int, MDResult] = {}
    with ExitStack() as files:
        runs = []
        for number, setup in enumerate(setups):
            run = ObservedRun([] if observers is None else observers(), setup.atoms, setup.context)
            folder = None if out is None else Path(out) / f"replica_{number:03d}"
            run.record = files.enter_context(Record(folder))
            runs.append(run)
        active = list(range(len(runs)))
        started = time.perf_counter()
        for step in range(steps + 1):
            if step:
                integrator.step()
            places = _look([runs[number] for number in active], integrator, step, steps, interval)
            going_on = [active[place] for place in places]
            for number in active if step == steps else sorted({*active} - {*going_on}):
                runs[number].record.close()
                # Each has its share of the wall time.
                seconds = (time.perf_counter() - started) / len(seeds)
                results[number] = MDResult.of(runs[number], seconds=seconds, seed=seeds[number])
                if finished is not None:
                    finished(number, results[number])
            if len(going_on) < len(active):
                active = going_on
                integrator.keep(places)
            if progress is not None and (step % interval == 0 or step == steps):
                progress(step, steps, f"{len(active)} of {len(seeds)} replicas")
            if not active:
                break
    return [results[number] for number in range(len(seeds))]


_THERMOSTATS: dict[str, type[VelocityVerletBatched]] = {
    "langevin": LangevinBAOAB,
    "bussi": BussiBatched,
}


def _look(
    runs: Sequence[ObservedRun],
    integrator: VelocityVerletBatched,
    step: int,
    steps: int,
    interval: int,
) -> list[int]:
    """Show the replicas to their observers where that is due; give the places that go on."""
    systems, places = integrator.systems, list(range(len(runs)))
    due = step % LOOK_EVERY == 0 or step == steps
    recorded = step % interval == 0 or step == steps
    shown = list(places)
    if not (due or recorded):
        contexts = [run.context for run in runs]
        shown = np.flatnonzero(systems.suspicious(contexts, HOT, LARGE_FORCE)).tolist()
    for run in runs:
        run.steps_done = step
    frames, heats = (systems.frames(), integrator.heat.tolist()) if shown else ([], [])
    for place in shown:
        run = runs[place]
        snapshot = _snapshot(run, frames[place], heats[place], step)
        if place in systems.errors:
            run.steps_done = step - 1
            run.calculator_failed(systems.errors[place])
            places.remove(place)
            continue
        stopped = (due or not recorded) and run.look(snapshot)
        if recorded or stopped:
            run.record.write(snapshot)
        if stopped:
            places.remove(place)
    return places


def _snapshot(run: ObservedRun, frame: Frame, heat: float, step: int) -> Snapshot:
    positions, momenta, forces, energy = frame
    run.atoms.arrays["positions"][:] = positions
    run.atoms.arrays["momenta"][:] = momenta
    snapshot = Snapshot(
        step=step,
        time=step * run.context.timestep,
        atoms=run.atoms,
        energy=energy,
        forces=forces,
        conserved=0.0,
        context=run.context,
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


def _one_each(what: str, given: Any, n: int) -> list[Any]:
    """Give one for each replica, of one for all or of as many."""
    several = list(given) if isinstance(given, Sequence | np.ndarray) else [given] * n
    if len(several) != n:
        raise UserError(f"{len(several)} {what} for {n} seeds: give one, or one for each seed")
    return several


def _copy(structure: Atoms) -> Atoms:
    if structure.constraints:
        raise UserError("replicas do not know constraints: use run_md")
    check_structure(structure)
    return structure.copy()
