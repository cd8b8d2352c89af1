"""Run the replicas at each temperature, watch them, and report."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator

from ase_ws.atomic import atomic_path, write_text
from ase_ws.errors import UserError
from ase_ws.folders import make_clear
from ase_ws.md.evaluation import check_start
from ase_ws.md.finite import label_atoms
from ase_ws.md.observer import Ensemble, Finding
from ase_ws.md.result import MDResult
from ase_ws.md.run import Progress, run_md
from ase_ws.stability.check import Check, CheckResult, Status
from ase_ws.stability.consistency import check_consistency
from ase_ws.stability.observers import default_checks
from ase_ws.stability.plan import Plan, make_plan
from ase_ws.stability.relax import Relaxation, relax
from ase_ws.stability.verdict import (
    ReplicaResult,
    StabilityReport,
    decide,
    label,
    merge_checks,
)

#: Points of a trace that are kept for plots.
TRACE_POINTS = 500


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
    out: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> StabilityReport:
    """Say whether a potential is stable in MD of this structure at these temperatures.

    The structure is relaxed, then each replica starts from it with its own velocities and is
    stopped at the first failure of a check (see `ase_ws.stability.observers`).

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
    out : path, optional
        Folder for `stability.json` (the report) and, where a replica failed, `failures.xyz`: the
        frame before and the failing frame of each, with the check, its message and the atoms in
        `info`.
    progress : callable, optional
        Called as `progress(steps_done, steps_planned, label)`.

    Returns
    -------
    StabilityReport

    Raises
    ------
    UserError
        Bad arguments, or a calculator that cannot evaluate the starting structure at all.
    """
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
    start = _with_calculator(atoms, calculator)
    check_start(start, stress=ensemble == "npt")
    folder = None if out is None else make_clear(Path(out), ("stability.json", "failures.xyz"))
    relaxation = relax(start, fmax=fmax, steps=relax_steps) if relax_steps else None
    templates = (
        list(checks)
        if checks is not None
        else default_checks(largest_training_force=largest_training_force)
    )
    consistency = check_consistency(start if relaxation is None else relaxation.atoms)
    frames: list[Atoms] = []
    runs: list[ReplicaResult] = []
    if relaxation is None or relaxation.failure is None:
        begin = start if relaxation is None else relaxation.atoms
        for run, last_frames in _replicas(begin, plan, templates, progress):
            runs.append(run)
            frames += last_frames
            if folder is not None and last_frames:
                # After each failure, so that a campaign that is killed keeps what it found.
                _write_failures(folder / "failures.xyz", frames)
    report = _report(plan, relaxation, consistency, runs, start)
    if folder is not None:
        write_text(folder / "stability.json", json.dumps(report.to_dict(), allow_nan=False) + "\n")
    return report


def _replicas(start: Atoms, plan: Plan, templates: Sequence[Check], progress: Progress | None):
    """Run one replica after the other; give each with its last frames if it failed."""
    done = 0
    for row, temperature in enumerate(plan.temperatures):
        for replica in range(plan.replicas):
            checks = copy.deepcopy(list(templates))
            result = run_md(
                start,
                ensemble=plan.ensemble,
                temperature=temperature,
                steps=plan.steps,
                timestep=plan.timestep,
                seed=plan.seed_of(row, replica),
                thermostat_time=plan.thermostat_time,
                pressure=plan.pressure,
                observers=checks,
                interval=plan.interval,
                progress=_shifted(progress, done, plan, f"{temperature:g} K, replica {replica}"),
            )
            done += plan.steps
            run = _replica_result(plan, temperature, replica, result, checks)
            yield run, _failing_frames(result, run)


def _replica_result(
    plan: Plan, temperature: float, replica: int, result: MDResult, checks: Sequence[Check]
) -> ReplicaResult:
    failure = result.stopped_by
    trace = result.traces["temperature_k"]
    tail = trace[len(trace) // 2 :]
    tail = tail[np.isfinite(tail)]
    return ReplicaResult(
        temperature=temperature,
        replica=replica,
        seed=result.seed,
        planned_ps=plan.steps * plan.timestep / 1000.0,
        simulated_ps=result.time_ps,
        failure=label(failure, replica, temperature) if failure is not None else None,
        warnings=[label(finding, replica, temperature) for finding in result.warnings],
        checks=[check.result() for check in checks] + [_calculator_check(failure)],
        traces=_thinned(result.traces),
        mean_temperature=float(tail.mean()) if len(tail) else None,
        ns_per_day=result.ns_per_day,
    )


def _calculator_check(failure: Finding | None) -> CheckResult:
    raised = failure is not None and failure.check == "calculator"
    return CheckResult(
        name="calculator",
        definition="the calculator raises no exception",
        status="failed" if raised else "passed",
        note=failure.message if failure is not None and raised else "",
    )


def _relaxation_check(relaxation: Relaxation | None) -> CheckResult:
    definition = (
        "the relaxation stays finite and keeps contacts, bonds and atoms of the given structure"
    )
    if relaxation is None:
        return CheckResult("relaxation", definition, status="does not apply", note="not asked for")
    status: Status = "warned" if relaxation.findings else "passed"
    if relaxation.failure is not None:
        status = "failed"
    finding = relaxation.failure or next(iter(relaxation.findings), None)
    note = finding.message if finding is not None else f"{relaxation.steps} steps"
    return CheckResult(
        name="relaxation",
        definition=definition,
        unit="eV/Å",
        worst=relaxation.largest_force,
        status=status,
        note=note,
    )


def _report(
    plan: Plan,
    relaxation: Relaxation | None,
    consistency: tuple[CheckResult, list[Finding]],
    runs: Sequence[ReplicaResult],
    start: Atoms,
) -> StabilityReport:
    before = [*(relaxation.findings if relaxation is not None else []), *consistency[1]]
    failures = [item for item in before if item.severity == "fail"]
    failures += [run.failure for run in runs if run.failure is not None]
    warnings = [item for item in before if item.severity == "warn"]
    warnings += [item for run in runs for item in run.warnings]
    checks = merge_checks(
        [[_relaxation_check(relaxation), consistency[0]], *(run.checks for run in runs)]
    )
    verdict, reason = decide(failures, warnings, checks, runs, plan.min_ps)
    settings: dict[str, Any] = {
        **vars(plan),
        "temperatures": list(plan.temperatures),
        "steps": plan.steps,
        "formula": start.get_chemical_formula(),
        "n_atoms": len(start),
        "calculator": type(start.calc).__name__,
        "relaxation": None
        if relaxation is None
        else {"converged": relaxation.converged, "steps": relaxation.steps},
    }
    return StabilityReport(
        verdict=verdict,
        reason=reason,
        failures=failures,
        warnings=warnings,
        checks=checks,
        replicas=list(runs),
        settings=settings,
    )


def _failing_frames(result: MDResult, run: ReplicaResult) -> list[Atoms]:
    if run.failure is None:
        return []
    roles = ("before", "failing")[-len(result.last_frames) :]
    for frame, role in zip(result.last_frames, roles, strict=True):
        frame.info.update(
            role=role,
            check=run.failure.check,
            message=run.failure.message,
            failing_atoms=label_atoms(frame, run.failure.atoms, limit=20),
            temperature=run.temperature,
            replica=run.replica,
            seed=run.seed,
        )
    return result.last_frames


def _write_failures(path: Path, frames: Sequence[Atoms]) -> None:
    with atomic_path(path) as temporary:
        ase.io.write(temporary, list(frames), format="extxyz")


def _thinned(traces: dict[str, np.ndarray]) -> dict[str, list[float | None]]:
    n_points = len(traces["time_fs"])
    keep = np.unique(np.linspace(0, n_points - 1, min(n_points, TRACE_POINTS)).astype(int))
    return {
        name: [float(value) if np.isfinite(value) else None for value in trace[keep]]
        for name, trace in traces.items()
    }


def _shifted(progress: Progress | None, done: int, plan: Plan, name: str) -> Progress | None:
    if progress is None:
        return None
    return lambda step, steps, _: progress(done + step, plan.total_steps, name)


def _with_calculator(atoms: Atoms, calculator: BaseCalculator | None) -> Atoms:
    calculator = calculator if calculator is not None else atoms.calc
    if calculator is None:
        raise UserError("no calculator: give one, or attach one to the atoms (atoms.calc = ...)")
    if len(atoms) == 0 or not np.isfinite(atoms.positions).all():
        raise UserError("the starting structure must have atoms, all at finite positions")
    start = atoms.copy()
    start.calc = calculator
    return start
