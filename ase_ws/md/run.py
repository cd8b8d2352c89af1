"""Run molecular dynamics with any ASE calculator, under the eyes of observers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator

from ase_ws.errors import UserError
from ase_ws.md.checkpoint import BEGINNING, Checkpoint, forget_lists
from ase_ws.md.constraints import constraint_energy, with_md_constraints
from ase_ws.md.evaluation import CALCULATOR_FAILURES, check_start, evaluate, misshapen
from ase_ws.md.integrators import Baths, Integrator, Thermostat, build_integrator
from ase_ws.md.observed_run import ObservedRun
from ase_ws.md.observer import Ensemble, Observer, Snapshot
from ase_ws.md.record import Record, steps_on_file
from ase_ws.md.run_identity import RunIdentity
from ase_ws.md.run_result import MDResult
from ase_ws.md.run_setup import (
    RunSetup,
    check_structure,
    require_one_of,
    require_positive,
    require_whole,
)

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
        Time constants in fs.
    pressure : float
        Pressure in bar (NPT).
    flexible_cell : bool
        NPT: let the shape of the cell change too, not only its volume. For solids; a liquid
        offers no resistance to shear and its cell would lean over.
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
    require_one_of("ensemble", ensemble, Ensemble)
    require_one_of("thermostat", thermostat, Thermostat)
    require_positive("fs", thermostat_time=thermostat_time, barostat_time=barostat_time)
    require_whole(1, interval=interval)
    working = _working_copy(atoms, calculator)
    if ensemble == "npt":
        _check_npt(working)
    # NumPy's numbers are none to JSON.
    baths = Baths(float(thermostat_time), float(barostat_time), bool(flexible_cell), thermostat)
    setup = RunSetup.of(
        working,
        ensemble,
        temperature=temperature,
        timestep=timestep,
        steps=steps,
        seed=seed,
        keep_velocities=keep_velocities,
        pressure=float(pressure) if ensemble == "npt" else None,
    )
    check_start(working, stress=ensemble == "npt")
    integrator = build_integrator(working, setup.context, baths, setup.rng)
    run = ObservedRun(observers, working, setup.context)
    checkpoint = None
    if out is not None:
        identity = RunIdentity.of(setup, baths, interval, keep_velocities=keep_velocities)
        checkpoint = Checkpoint(out, identity, integrator, setup.rng)
    begun = checkpoint.resume(run) if checkpoint is not None and resume else BEGINNING
    with Record(out, begun.rows, begun.offsets) as run.record:
        if checkpoint is not None and begun is BEGINNING:
            checkpoint.remove()
        started = time.perf_counter() - begun.seconds

        def save(step: int) -> None:
            if checkpoint is not None and step > 0 and step % checkpoint_every == 0:
                checkpoint.save(run.record, time.perf_counter() - started)
                forget_lists(working)

        # Overflow and NaN are for the finite guard to report, not for NumPy to warn about.
        with np.errstate(all="ignore"):
            _loop(integrator, run, interval, progress, save)
        seconds = time.perf_counter() - started
    working.set_constraint(atoms.copy().constraints)
    result = MDResult.of(run, seconds=seconds, seed=seed)
    if out is not None:
        result.write(out)
    return result


def _loop(
    integrator: Integrator,
    run: ObservedRun,
    interval: int,
    progress: Progress | None,
    save: Callable[[int], None],
) -> None:
    """Step, look and record."""
    context = run.context
    label = f"{context.ensemble.upper()} {context.temperature:g} K"
    started, first = time.perf_counter(), None
    for snapshot in _snapshots(integrator, run):
        stopped = run.look(snapshot)
        if snapshot.step % interval == 0 or stopped or snapshot.step == context.steps:
            run.record.write(snapshot)
            if first is None:
                started, first = time.perf_counter(), snapshot.step
            if progress is not None:
                speed = _ns_per_day(snapshot.step - first, context.timestep, started)
                progress(snapshot.step, context.steps, label + speed)
        if stopped:
            return
        save(snapshot.step)


def _ns_per_day(steps: int, timestep: float, started: float) -> str:
    seconds = time.perf_counter() - started
    return f", {steps * timestep * 1e-6 * 86400 / seconds:.3g} ns/day" if steps else ""


def _snapshots(integrator: Integrator, run: ObservedRun) -> Iterator[Snapshot]:
    """Step the integrator; the first snapshot is the start, a failure of the potential the end.

    The caller's own mistakes are not raised in here, so they do not pass for one.
    """
    atoms, context, begun = run.atoms, run.context, integrator.nsteps
    try:
        for _ in integrator.irun(context.steps - begun):
            if begun and integrator.nsteps == begun:
                continue  # recorded before the run was interrupted
            energy, forces, stress = evaluate(atoms)
            whole = energy + float(atoms.get_kinetic_energy()) + integrator.reservoir()
            yield Snapshot(
                step=integrator.nsteps,
                time=integrator.nsteps * context.timestep,
                atoms=atoms,
                energy=energy,
                forces=forces,
                conserved=whole + (constraint_energy(atoms) if atoms.constraints else 0.0),
                context=context,
                stress=stress,
            )
    except CALCULATOR_FAILURES as error:
        run.calculator_failed(misshapen(atoms) or error)


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


def _check_npt(atoms: Atoms) -> None:
    if not atoms.pbc.all():
        raise UserError(
            "NPT needs a structure that is periodic in all three directions: use nvt, or set the "
            "cell and pbc"
        )
    if atoms.constraints:
        raise UserError("NPT does not go with constraints: remove them or use nvt")
