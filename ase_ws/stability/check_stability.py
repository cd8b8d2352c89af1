"""Relax, look before MD, run the replicas, find who is at fault, and report."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator
from ase.geometry import complete_cell

from ase_ws.errors import UserError
from ase_ws.files.folders import make_clear, require_writable
from ase_ws.md.observer import Ensemble
from ase_ws.md.run import Progress
from ase_ws.results.report import FILES, StabilityReport, keeping, require_plain
from ase_ws.stability.checks.base import Check
from ase_ws.stability.checks.calibration import Calibration
from ase_ws.stability.checks.geometry import Topology
from ase_ws.stability.checks.rdf import RDFReference
from ase_ws.stability.checks.watchers import watchers
from ase_ws.stability.judged.answers import MachineError, lost
from ase_ws.stability.judged.home import as_found
from ase_ws.stability.runs.budget import look_ahead
from ase_ws.stability.runs.plan import Plan, make_plan, require_positive, require_whole
from ase_ws.stability.runs.prepare import Preparation, prepare
from ase_ws.stability.runs.replicas import Run, rehearse, run_jobs
from ase_ws.stability.runs.stages import BeforeMD, Clock
from ase_ws.stability.verdict.assemble import assemble
from ase_ws.stability.verdict.blame import blame_for
from ase_ws.stability.verdict.candidates import Candidates


@as_found
def check_stability(
    atoms: Atoms,
    calculator: BaseCalculator | None = None,
    *,
    temperature: float | Sequence[float],
    ps: float,
    replicas: int = 1,
    timestep: float = 0.5,
    ensemble: Ensemble = "nvt",
    seed: int = 0,
    pressure: float = 1.01325,
    thermostat_time: float = 100.0,
    interval: int = 10,
    checks: Sequence[Check] | None = None,
    largest_training_force: float | None = None,
    relax_steps: int = 200,
    fmax: float = 0.05,
    min_ps: float = 1.0,
    topology: Topology = "fixed",
    static: bool = True,
    blame: bool = True,
    compare: BaseCalculator | None = None,
    compare_name: str = "",
    calibration: Calibration | None = None,
    rdf: RDFReference | None = None,
    name: str = "",
    notes: Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    budget: float | None = None,
    tell: Callable[[str], None] | None = None,
) -> StabilityReport:
    """Say whether a potential is stable in MD of this structure at these temperatures.

    The structure is relaxed and looked at (see `ase_ws.stability.static`), then each replica
    starts from it with its own velocities and is stopped at the first failure of a check (see
    `ase_ws.stability.checks.defaults`). Potentials of this package run all replicas in one batch.

    Parameters
    ----------
    atoms : Atoms
        Starting structure; not modified.
    calculator : ASE calculator, optional
        The potential to judge. Default: the one attached to `atoms`.
    temperature : float or sequence of float
        Temperature(s) in K; each gets its own `replicas`.
    ps : float
        Length of each replica in ps.
    replicas : int
        Runs at each temperature, with different velocities.
    timestep : float
        Time step in fs.
    ensemble : {"nve", "nvt", "npt"}
        See `run_md`, also for `pressure` (bar) and `thermostat_time` (fs).
    seed : int
        Seed of the whole campaign. The seeds of the replicas, which `run_md` takes, are in the
        report; they depend on this number and on the place of the replica only, so two potentials
        can be compared run by run.
    interval : int
        Steps between two points of the traces.
    checks : sequence of Check, optional
        The checks to use instead of `default_checks()`; each replica gets copies.
    largest_training_force : float, optional
        In eV/Å, see `ForceCheck`.
    relax_steps : int
        At most this many steps of relaxation; 0 starts from the structure as given.
    fmax : float
        Relaxed when no force is larger, in eV/Å.
    min_ps : float
        Simulated time needed at each temperature, over all replicas, to call it stable. Default
        1 ps: with no failure in less, the failure rate may be above 3 per ps with 5 %
        probability, which no use of MD could bear.
    topology : {"fixed", "reactive"}
        "fixed": a broken bond fails (a proton that goes over to another atom is logged).
        "reactive": bonds may break and form, which is logged; what still fails is atoms that
        collide, fly off or grow hot.
    static : bool
        Do the static checks before MD.
    blame : bool
        Where MD fails, find out by reruns who is at fault (see `ase_ws.stability.verdict.blame`).
    compare : ASE calculator, optional
        A second model, run with the same settings and seeds from its own relaxed structure.
    compare_name, name : str
        How the models are called in the report.
    calibration : Calibration, optional
        Thresholds from a training set; its bond lengths go into the report too.
    rdf : RDFReference, optional
        A reference at the same temperature, to compare g(r) with.
    notes : mapping, optional
        For the provenance in the report, such as the command.
    out : path, optional
        Folder for `stability.json` (the report) and, where a replica failed, `candidates.xyz`:
        the failing frames and those before them, see `Candidates`.
    progress : callable, optional
        Called as `progress(done, planned, label)`: evaluations before MD, of relaxation and
        static checks, where `planned` is an estimate; then steps of MD.
    budget : float, optional
        Minutes that it may take. What does not fit, by an estimate from the first evaluations, is
        left out: first scans of some pairs of atoms, then replicas, then length; see
        `report.settings["left_out"]`. Default: as long as it takes.
    tell : callable, optional
        Gets, before the work, a line that says how long it will take, and one of what is left
        out to fit the budget.

    Returns
    -------
    StabilityReport

    Raises
    ------
    UserError
        Bad arguments, or a calculator that cannot evaluate the starting structure at all. What it
        does wrong later is in the verdict.
    UnwrittenError
        `out` cannot be written any more; the exception holds the report.
    """
    clock = Clock()
    plan = make_plan(
        temperature=temperature,
        ps=ps,
        replicas=replicas,
        timestep=timestep,
        ensemble=ensemble,
        seed=seed,
        pressure=pressure,
        thermostat_time=thermostat_time,
        interval=interval,
        min_ps=min_ps,
    )
    require_positive("fmax", fmax)
    require_whole("relax_steps", relax_steps, 0)
    if budget is not None:
        require_positive("budget", budget)
    require_plain(notes)
    start = _with_calculator(atoms, calculator)
    if out is not None:
        require_writable(Path(out), folder=True)
    rehearse(start, plan)
    other = None if compare is None else _with_calculator(atoms, compare)
    if other is not None:
        rehearse(other, plan)
    folder = None if out is None else make_clear(Path(out), FILES)
    templates = watchers(
        checks,
        topology=topology,
        calibration=calibration,
        rdf=rdf,
        largest_training_force=largest_training_force,
    )
    candidates = Candidates(None if folder is None else folder / "candidates.xyz")
    starts = [start] if other is None else [start, other]
    outlook = look_ahead(
        starts,
        plan,
        templates,
        static=static,
        relax_steps=relax_steps,
        fmax=fmax,
        budget=budget,
    )
    plan, expected = outlook.plan, outlook.estimate
    if tell is not None:
        for line in outlook.lines:
            tell(line)
    with clock.timing("before_md_s"):
        preparation = prepare(
            start,
            relax_steps=relax_steps,
            fmax=fmax,
            static=static,
            static_checks=outlook.checks,
            conditions=plan.conditions,
            progress=BeforeMD(progress, 0 if expected is None else expected.static_evaluations),
        )
    preparation = replace(preparation, findings=[*preparation.findings, *outlook.findings])
    with clock.timing("md_s"):
        preparation, runs = _run_all(plan, preparation, templates, candidates, progress)
    comparison = None
    if other is not None:
        comparison = _compared(
            other,
            plan,
            templates,
            compare_name,
            relax_steps=relax_steps,
            fmax=fmax,
            progress=progress,
        )
    report = assemble(
        start,
        plan,
        preparation,
        runs,
        name=name,
        blame=blame_for(plan, preparation, runs, templates, rerun=blame, progress=progress),
        comparison=comparison,
        calibration=calibration,
        notes={
            **clock.times(),
            "estimate": None if expected is None else expected.to_dict(),
            **(notes or {}),
        },
    )
    if folder is not None:
        with keeping(report):
            candidates.write()
            report.write(folder)
    return report


def _run_all(
    plan: Plan,
    preparation: Preparation,
    templates: Sequence[Check],
    candidates: Candidates,
    progress: Progress | None,
) -> tuple[Preparation, list[Run]]:
    """Run the replicas; the preparation comes back with what was found out about the start."""
    if preparation.begin is None:
        return preparation, []
    runs: list[Run] = []

    def finished(run: Run) -> None:
        runs.append(run)
        candidates.add(run)

    try:
        run_jobs(
            preparation.begin, plan, plan.jobs(), templates, finished=finished, progress=progress
        )
    except MachineError as error:
        preparation = replace(preparation, findings=[*preparation.findings, lost(error)])
    order = {job.seed: number for number, job in enumerate(plan.jobs())}
    return preparation.recalled(), sorted(runs, key=lambda run: order[run.result.seed])


def _compared(
    other: Atoms,
    plan: Plan,
    templates: Sequence[Check],
    name: str,
    *,
    relax_steps: int,
    fmax: float,
    progress: Progress | None,
) -> dict[str, Any]:
    """Run the second model and keep what a comparison needs."""
    preparation = prepare(
        other, relax_steps=relax_steps, fmax=fmax, static=False, progress=BeforeMD(progress, 0)
    )
    preparation, runs = _run_all(plan, preparation, templates, Candidates(None), progress)
    return assemble(other, plan, preparation, runs, name=name).for_comparison()


def _with_calculator(atoms: Atoms, calculator: BaseCalculator | None) -> Atoms:
    calculator = calculator if calculator is not None else atoms.calc
    if calculator is None:
        raise UserError("no calculator: give one, or attach one to the atoms (atoms.calc = ...)")
    if len(atoms) == 0 or not np.isfinite(atoms.positions).all():
        raise UserError("the starting structure must have atoms, all at finite positions")
    cell = complete_cell(atoms.cell.array)
    if not np.isfinite(cell).all() or (atoms.pbc.any() and np.linalg.matrix_rank(cell) < 3):
        raise UserError("the cell of the starting structure is flat, or holds NaN or infinity")
    start = atoms.copy()
    start.calc = calculator
    return start
