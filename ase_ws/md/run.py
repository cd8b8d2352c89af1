"""Run molecular dynamics with any ASE calculator, under the eyes of observers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import get_args

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator

from ase_ws.errors import UserError
from ase_ws.md.checkpoint import Checkpoint, Restart, forget_lists
from ase_ws.md.constraints import constraint_energy, with_md_constraints
from ase_ws.md.evaluation import (
    CALCULATOR_FAILURES,
    check_start,
    check_structure,
    evaluate,
    misshapen,
)
from ase_ws.md.files import SUMMARY, steps_on_file
from ase_ws.md.freedom import constrained_freedom
from ase_ws.md.integrators import Baths, Dynamics, Thermostat, build_dynamics
from ase_ws.md.observer import Ensemble, Observer, RunContext, Snapshot
from ase_ws.md.result import MDResult, Record
from ase_ws.md.start import Start
from ase_ws.md.velocities import degrees_of_freedom, draw_velocities
from ase_ws.md.watch import Watch, with_guard

#: Called as `progress(steps_done, steps_planned, label)`.
Progress = Callable[[int, int, str], None]


def run_md(
    atoms: Atoms,
    calculator: BaseCalculator | None = None,
    *,
    ensemble: Ensemble = "nvt",
    temperature: float,
    steps: int,
    timestep: float = 0.5,
    seed: int = 0,
    thermostat: Thermostat = "bussi",
    thermostat_time: float = 100.0,
    pressure: float = 1.01325,
    barostat_time: float = 1000.0,
    flexible_cell: bool = False,
    keep_velocities: bool = False,
    observers: Sequence[Observer] = (),
    interval: int = 10,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    checkpoint_every: int = 1000,
    progress: Progress | None = None,
) -> MDResult:
    """Run MD and stop at the first failure that an observer finds.

    Parameters
    ----------
    atoms : Atoms
        Starting structure; not modified.
    calculator : ASE calculator, optional
        Energies and forces (NPT: stress too). Default: the one attached to `atoms`.
    ensemble : {"nve", "nvt", "npt"}
        See `ase_ws.md.integrators` for the integrators and what each conserves.
    temperature : float
        Temperature in K: of the initial velocities, and of the thermostat.
    steps : int
        Number of steps.
    timestep : float
        Time step in fs. 0.5 resolves the fastest vibration, an X–H stretch of 9 fs, well.
    seed : int
        Seed for velocities and thermostat; the same seed gives the same run.
    thermostat : {"bussi", "langevin", "nose-hoover"}
        NVT only, see `ase_ws.md.integrators`.
    thermostat_time, barostat_time : float
        Time constants in fs, see `Baths`.
    pressure : float
        Pressure in bar (NPT).
    flexible_cell : bool
        NPT: let the cell change its shape too.
    keep_velocities : bool
        Go on with the momenta of `atoms` instead of drawing new ones.
    observers : sequence of Observer
        Called every `observer.interval` steps and at the last one. A `FiniteGuard` is added unless
        one is there, and asked first.
    interval : int
        Steps between two frames, log rows and points of the traces.
    out : path, optional
        Folder for `trajectory.extxyz`, `md.csv` (see `read_log`) and `md.json`. Files of an
        earlier run there are overwritten, unless `resume` is set.
    resume : bool
        Go on from the last checkpoint in `out` (start where there is none), to the same numbers
        as without the interruption; `steps` counts from the very start and may be raised. The
        observers are shown the frames on file again.
    checkpoint_every : int
        Steps between two checkpoints, in `out`. The neighbour list is built anew at each.
    progress : callable, optional
        Called as `progress(steps_done, steps_planned, label)` every `interval` steps.

    Returns
    -------
    MDResult

    Raises
    ------
    UserError
        Bad arguments, constraints that MD cannot keep (see `ase_ws.md.constraints`), a calculator
        that cannot evaluate the starting structure at all, files that cannot be resumed from, or
        a folder that cannot be written to, before the first step.
        An exception that the calculator raises later counts as a failure of the potential,
        `stopped_by` names it.
    OSError
        The disk is full: what was written is whole. At the very end it is a `NotWrittenError`,
        which has the result.
    """
    if resume and out is None:
        raise UserError("resume needs the folder of the run: give out")
    if resume and out is not None and steps < (done := steps_on_file(out)):
        raise UserError(
            f"{out}: {done} steps are done, and steps counts from the very start: ask for more "
            f"than that, not for {steps}, or start anew in another folder"
        )
    _check_arguments(ensemble, temperature, steps, timestep, interval, seed)
    working = _working_copy(atoms, calculator)
    baths = _checked_baths(
        working,
        ensemble,
        # NumPy's numbers are none to JSON.
        Baths(float(thermostat_time), float(barostat_time), bool(flexible_cell), thermostat),
    )
    freedom = constrained_freedom(working) if working.constraints else None
    velocity_seed, bath_seed = np.random.SeedSequence(seed).spawn(2)
    if not keep_velocities:
        velocity_rng = np.random.default_rng(velocity_seed)
        draw_velocities(working, temperature, velocity_rng, freedom)
    elif not (working.get_kinetic_energy() > 0):
        raise UserError(
            "keep_velocities is set, but the atoms have none: set their momenta or draw new ones"
        )
    check_start(working, stress=ensemble == "npt")
    context = RunContext(
        ensemble=ensemble,
        temperature=float(temperature),
        timestep=float(timestep),
        steps=int(steps),
        n_dof=degrees_of_freedom(working) if freedom is None else freedom.n_dof,
        pressure=float(pressure) if ensemble == "npt" else None,
    )
    rng = np.random.default_rng(bath_seed)
    dynamics = build_dynamics(working, context, baths, rng)
    watch = Watch(with_guard(observers), working, context)
    checkpoint = None
    if out is not None:
        start = Start.of(working, context, baths, seed, interval, keep_velocities=keep_velocities)
        checkpoint = Checkpoint(out, start)
    restart = _restart(checkpoint, dynamics, rng, watch) if resume else None
    with Record(
        out,
        interval,
        rows=None if restart is None else restart.rows,
        offsets=None if restart is None else restart.offsets,
    ) as record:
        if checkpoint is not None and restart is None:
            for path in (checkpoint.path, checkpoint.folder / SUMMARY):
                path.unlink(missing_ok=True)
        spent = 0.0 if restart is None else restart.seconds
        started = time.perf_counter() - spent

        def save() -> None:
            if checkpoint is not None:
                seconds = time.perf_counter() - started
                checkpoint.save(dynamics.integrator, rng, record, seconds)
                forget_lists(working)

        # Overflow and NaN are for the finite guard to report, not for NumPy to warn about.
        with np.errstate(all="ignore"):
            _loop(
                dynamics,
                working,
                context,
                watch,
                record,
                interval,
                progress,
                done=-1 if restart is None else restart.step,
                save=save,
                save_every=checkpoint_every,
            )
        seconds = time.perf_counter() - started
    working.set_constraint(atoms.copy().constraints)
    result = MDResult(
        atoms=working,
        steps_done=watch.steps_done,
        stopped_by=watch.failure,
        warnings=watch.warnings,
        traces=record.traces(),
        last_frames=watch.last_frames,
        earlier_frames=watch.earlier_frames,
        seconds=seconds,
        context=context,
        seed=int(seed),
    )
    if out is not None:
        result.write(out)
    return result


def _restart(
    checkpoint: Checkpoint | None, dynamics: Dynamics, rng: np.random.Generator, watch: Watch
) -> Restart | None:
    """Put everything back to where the checkpoint is, if there is one."""
    restart = None if checkpoint is None else checkpoint.load(dynamics.integrator)
    if checkpoint is None or restart is None:
        return None
    for snapshot in restart.snapshots(checkpoint.folder, watch.atoms, watch.context):
        watch.look(snapshot)
    restart.restore_atoms(watch.atoms)
    restart.restore_dynamics(dynamics.integrator, rng)
    forget_lists(watch.atoms)
    return restart


def _loop(
    dynamics: Dynamics,
    atoms: Atoms,
    context: RunContext,
    watch: Watch,
    record: Record,
    interval: int,
    progress: Progress | None,
    *,
    done: int,
    save: Callable[[], None],
    save_every: int,
) -> None:
    """Step, look and record; steps up to `done` have been recorded before."""
    label = f"{context.ensemble.upper()} {context.temperature:g} K"
    started, first = time.perf_counter(), None
    snapshots = _snapshots(dynamics, atoms, context)
    while True:
        # Only the step itself is guarded: a mistake in an observer must not pass for a failure
        # of the potential.
        try:
            snapshot = next(snapshots, None)
        except CALCULATOR_FAILURES as error:
            watch.calculator_failed(misshapen(atoms) or error)
            return
        if snapshot is None:
            return
        if snapshot.step <= done:
            continue
        stopped = watch.look(snapshot)
        due = snapshot.step % interval == 0
        if due or stopped or snapshot.step == context.steps:
            record.write(snapshot)
            if first is None:
                started, first = time.perf_counter(), snapshot.step
            if progress is not None:
                speed = _ns_per_day(snapshot.step - first, context.timestep, started)
                progress(snapshot.step, context.steps, label + speed)
        if stopped:
            return
        if snapshot.step % save_every == 0 and snapshot.step > 0:
            save()


def _ns_per_day(steps: int, timestep: float, started: float) -> str:
    seconds = time.perf_counter() - started
    return f", {steps * timestep * 1e-6 * 86400 / seconds:.3g} ns/day" if steps else ""


def _snapshots(dynamics: Dynamics, atoms: Atoms, context: RunContext) -> Iterator[Snapshot]:
    """Step the integrator; the first snapshot is the start."""
    for _ in dynamics.integrator.irun(context.steps - dynamics.integrator.nsteps):
        energy, forces, stress = evaluate(atoms)
        whole = energy + float(atoms.get_kinetic_energy()) + dynamics.reservoir()
        snapshot = Snapshot(
            step=dynamics.integrator.nsteps,
            time=dynamics.integrator.nsteps * context.timestep,
            atoms=atoms,
            energy=energy,
            forces=forces,
            conserved=whole + (constraint_energy(atoms) if atoms.constraints else 0.0),
            context=context,
            stress=stress,
        )
        yield snapshot


def _working_copy(atoms: Atoms, calculator: BaseCalculator | None) -> Atoms:
    calculator = calculator if calculator is not None else atoms.calc
    if calculator is None:
        raise UserError("no calculator: give one, or attach one to the atoms (atoms.calc = ...)")
    check_structure(atoms)
    working = with_md_constraints(atoms)
    if working.constraints and working.has("momenta"):
        # What the constraints do not allow comes off momenta that go on.
        working.set_momenta(working.get_momenta())
    working.calc = calculator
    return working


def _check_arguments(
    ensemble: str, temperature: float, steps: int, timestep: float, interval: int, seed: int
) -> None:
    if ensemble not in get_args(Ensemble):
        raise UserError(
            f"unknown ensemble {ensemble!r}: use one of {', '.join(get_args(Ensemble))}"
        )
    for name, value, unit in (("temperature", temperature, "K"), ("timestep", timestep, "fs")):
        if not (np.isfinite(value) and value > 0):
            raise UserError(f"{name} is {value}: it must be a positive number, in {unit}")
    for name, value, least in (("steps", steps, 0), ("interval", interval, 1), ("seed", seed, 0)):
        if not (np.isfinite(value) and int(value) == value and value >= least):
            raise UserError(f"{name} is {value}: it must be a whole number of at least {least}")


def _checked_baths(atoms: Atoms, ensemble: Ensemble, baths: Baths) -> Baths:
    times = {"thermostat_time": baths.thermostat_time, "barostat_time": baths.barostat_time}
    for name, value in times.items():
        if not (np.isfinite(value) and value > 0):
            raise UserError(f"{name} is {value}: it must be a positive number, in fs")
    if baths.thermostat not in get_args(Thermostat):
        raise UserError(
            f"unknown thermostat {baths.thermostat!r}: use one of {', '.join(get_args(Thermostat))}"
        )
    if ensemble == "npt" and not atoms.pbc.all():
        raise UserError(
            "NPT needs a structure that is periodic in all three directions: use nvt, or set the "
            "cell and pbc"
        )
    if ensemble == "npt" and atoms.constraints:
        raise UserError("NPT does not go with constraints: remove them or use nvt")
    return baths
