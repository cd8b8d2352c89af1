"""Run replicas: in one batch where the potential can, one after the other with any calculator."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator

from ase_ws.calculators import PotentialCalculator
from ase_ws.errors import UserError
from ase_ws.md.evaluation import CALCULATOR_FAILURES
from ase_ws.md.observer import Observer
from ase_ws.md.replicas import run_replicas
from ase_ws.md.run import Progress, run_md
from ase_ws.md.run_result import MDResult
from ase_ws.md.velocities import degrees_of_freedom
from ase_ws.results.check import CheckResult
from ase_ws.results.finding import Finding
from ase_ws.results.replica import ReplicaResult, Traces
from ase_ws.results.settings import Job, StabilitySettings
from ase_ws.stability.checks.base import Check
from ase_ws.stability.checks.bonds import BondLengths
from ase_ws.stability.judged.answers import Judged, PotentialError, require_answer, translated
from ase_ws.stability.judged.gas import Gas

#: Points of a trace that are kept for plots.
TRACE_POINTS = 500
#: Atoms in one batch; more gain nothing on a CPU and cost memory.
BATCH_ATOMS = 2000


class Run(NamedTuple):
    """One finished replica: what it came to, and the frames around its failure."""

    result: ReplicaResult
    frames: list[Atoms]


#: Called with each replica as it ends.
Finished = Callable[[Run], None]


def run_jobs(
    start: Atoms,
    settings: StabilitySettings,
    jobs: Sequence[Job],
    templates: Sequence[Check],
    *,
    finished: Finished,
    progress: Progress | None = None,
) -> None:
    """Run these replicas from one structure and hand over each as it ends.

    Potentials of this package go through the replica engine, many at a time; any other
    calculator, constraints and NPT go through `run_md`. Both use the same thermostat and seeds,
    and give the same trajectories until rounding tells them apart.

    Parameters
    ----------
    start : Atoms
        With a calculator; not modified.
    settings : StabilitySettings
        Ensemble, time step, length and so on.
    jobs : sequence of Job
        The replicas to run.
    templates : sequence of Check
        Each replica gets copies.
    finished : callable
        Called as `finished(run)`.
    progress : callable, optional
        Called as `progress(steps_done, steps_planned, label)`, over all jobs.

    Raises
    ------
    MachineError
        The machine has failed, or a replica has left a calculator that nothing brings back;
        the replicas that ended before have been handed over.
    """
    total = _Total(progress, settings.steps * len(jobs))
    if not batched(start, settings):
        _serially(start, settings, jobs, templates, finished, total)
        return
    size = max(1, BATCH_ATOMS // len(start))
    for first in range(0, len(jobs), size):
        _together(start, settings, jobs[first : first + size], templates, finished, total)


def batched(start: Atoms, settings: StabilitySettings) -> bool:
    """Whether the replica engine can run this."""
    # Exactly this class: a subclass may do something else with the results.
    return type(start.calc) is PotentialCalculator and fits_a_batch(start, settings)


def fits_a_batch(atoms: Atoms, settings: StabilitySettings) -> bool:
    """Whether the replica engine can run such a structure, with a potential of this package."""
    return settings.ensemble != "npt" and not atoms.constraints


def rehearse(start: Atoms, settings: StabilitySettings) -> None:
    """Evaluate the start once, and find out what MD refuses before any work.

    Raises
    ------
    UserError
        Bad settings, or a calculator that cannot be evaluated at all.
    """
    freedom(start)
    require_answer(start, stress=settings.ensemble == "npt")
    # A run of no step: the potential is not asked more than once.
    _md(start, Gas(), settings.but(ps=0.0), settings.temperatures[0], seed=0)


def freedom(atoms: Atoms, *, finished: bool = False) -> int:
    """Degrees of freedom of a structure, see `degrees_of_freedom`, also for `finished`.

    Raises
    ------
    UserError
        There are none, or a constraint does not go with MD.
    """
    n_dof = degrees_of_freedom(atoms, finished=finished)
    if n_dof < 1:
        raise UserError(
            f"the structure of {len(atoms)} atom(s) has no internal degree of freedom, and so no "
            "temperature: build a supercell or free some atoms"
        )
    return n_dof


def _md(
    start: Atoms,
    calculator: BaseCalculator,
    settings: StabilitySettings,
    temperature: float,
    seed: int,
    observers: Sequence[Observer] = (),
    progress: Progress | None = None,
) -> MDResult:
    return run_md(
        start,
        calculator,
        ensemble=settings.ensemble,
        temperature=temperature,
        steps=settings.steps,
        timestep=settings.timestep,
        seed=seed,
        thermostat_time=settings.thermostat_time,
        pressure=settings.pressure,
        observers=observers,
        interval=settings.interval,
        progress=progress,
    )


@dataclass
class _Total:
    """Progress over all jobs."""

    progress: Progress | None
    planned: int
    done: int = 0

    def report(self, steps: int, label: str) -> None:
        if self.progress is not None:
            self.progress(min(self.done + steps, self.planned), self.planned, label)


@dataclass
class _Eyes:
    """The observers of one replica."""

    checks: list[Check]
    bonds: BondLengths = field(default_factory=BondLengths)

    @classmethod
    def of(cls, templates: Sequence[Check]) -> _Eyes:
        return cls(copy.deepcopy(list(templates)))

    @property
    def all(self) -> list[Observer]:
        return [*self.checks, self.bonds]


def _serially(
    start: Atoms,
    settings: StabilitySettings,
    jobs: Sequence[Job],
    templates: Sequence[Check],
    finished: Finished,
    total: _Total,
) -> None:
    for job in jobs:
        eyes, judged = _Eyes.of(templates), Judged.of(start)
        name = f"{job.temperature:g} K, replica {job.replica}"
        try:
            result = _md(
                start,
                judged,
                settings,
                job.temperature,
                job.seed,
                eyes.all,
                lambda step, steps, label, name=name: total.report(step, name),
            )
        except UserError as error:
            # `run_md` takes what cannot be evaluated at once for a bad set-up, but here it could
            # be evaluated before.
            if not isinstance(error.__cause__, PotentialError):
                raise
            run = _not_begun(settings, job, str(error.__cause__))
        else:
            run = _run(settings, job, result, eyes, judged.told)
        total.done += settings.steps
        finished(run)
        if judged.home is not None and run.result.failure is not None:
            # What a failure leaves behind is not for the next replica to inherit.
            judged.home.back(name)


def _together(
    start: Atoms,
    settings: StabilitySettings,
    jobs: Sequence[Job],
    templates: Sequence[Check],
    finished: Finished,
    total: _Total,
) -> None:
    several = [_Eyes.of(templates) for _ in jobs]
    queue = iter(several)
    ended: set[int] = set()

    def hand_over(number: int, result: MDResult) -> None:
        ended.add(number)
        finished(_run(settings, jobs[number], result, several[number]))

    assert isinstance(start.calc, PotentialCalculator)
    try:
        # Overflow and NaN are for the checks to report, not for NumPy to warn about.
        with np.errstate(all="ignore"):
            run_replicas(
                start,
                _translating(start.calc),
                temperature=[job.temperature for job in jobs],
                steps=settings.steps,
                timestep=settings.timestep,
                seeds=[job.seed for job in jobs],
                ensemble="nve" if settings.ensemble == "nve" else "nvt",
                thermostat="bussi",
                thermostat_time=settings.thermostat_time,
                observers=lambda: next(queue).all,
                interval=settings.interval,
                finished=hand_over,
                progress=lambda step, steps, label: total.report(step * len(jobs), label),
            )
    except CALCULATOR_FAILURES:
        # One replica has upset the calculator, and a batch cannot tell which: those that have
        # not ended are run one by one, where the guilty one is named.
        rest = [job for number, job in enumerate(jobs) if number not in ended]
        _serially(start, settings, rest, templates, finished, total)
        return
    total.done += settings.steps * len(jobs)


def _translating(calculator: PotentialCalculator) -> PotentialCalculator:
    """Copy a calculator so that whatever its potential raises has a name that is known here."""
    # Not `copy.copy`, which prepares the network anew, and checks it.
    translating = PotentialCalculator.__new__(PotentialCalculator)
    vars(translating).update(vars(calculator))

    def evaluate(*args: Any, **kwargs: Any) -> Any:
        with translated():
            return calculator.evaluate(*args, **kwargs)

    translating.evaluate = evaluate
    return translating


def _not_begun(settings: StabilitySettings, job: Job, message: str) -> Run:
    """Give a replica that has failed at its start."""
    failure = Finding("calculator", "fail", message, temperature=job.temperature)
    replica = ReplicaResult(
        temperature=job.temperature,
        replica=job.replica,
        seed=job.seed,
        planned_ps=settings.steps * settings.timestep / 1000.0,
        simulated_ps=0.0,
        failure=job.label(failure),
        warnings=[],
        checks=[_calculator_check(failure)],
        mean_temperature=None,
        ns_per_day=0.0,
    )
    return Run(replica, [])


def _run(
    settings: StabilitySettings, job: Job, result: MDResult, eyes: _Eyes, told: str = ""
) -> Run:
    failure = result.stopped_by
    if failure is not None and failure.check == "calculator" and told:
        failure = replace(failure, message=told)
    trace = result.traces["temperature_k"]
    tail = trace[len(trace) // 2 :]
    tail = tail[np.isfinite(tail)]
    replica = ReplicaResult(
        temperature=job.temperature,
        replica=job.replica,
        seed=result.seed,
        planned_ps=settings.steps * settings.timestep / 1000.0,
        simulated_ps=result.time_ps,
        failure=job.label(failure) if failure is not None else None,
        warnings=[job.label(finding) for finding in result.warnings],
        checks=[check.result() for check in eyes.checks] + [_calculator_check(failure)],
        traces=Traces(**_thinned(result.traces)),
        mean_temperature=float(tail.mean()) if len(tail) else None,
        ns_per_day=result.ns_per_day,
        bonds=eyes.bonds.to_dict(),
    )
    return Run(replica, [*result.earlier_frames, *result.last_frames])


def _calculator_check(failure: Finding | None) -> CheckResult:
    raised = failure is not None and failure.check == "calculator"
    return CheckResult(
        name="calculator",
        definition="the calculator raises no exception and gives numbers of the right shape",
        status="failed" if raised else "passed",
        note=failure.message if failure is not None and raised else "",
    )


def _thinned(traces: dict[str, np.ndarray]) -> dict[str, list[float | None]]:
    n_points = len(traces["time_fs"])
    keep = np.unique(np.linspace(0, n_points - 1, min(n_points, TRACE_POINTS)).astype(int))
    return {
        name: [float(value) if np.isfinite(value) else None for value in trace[keep]]
        for name, trace in traces.items()
    }
