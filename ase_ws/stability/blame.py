"""Tell who is at fault: the model, the time step, the precision, or the start."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ase import Atoms
from ase.calculators.calculator import BaseCalculator

from ase_ws.md.observer import Finding
from ase_ws.md.run import Progress
from ase_ws.stability.check import Check
from ase_ws.stability.plan import Job, Plan
from ase_ws.stability.prepare import Preparation
from ase_ws.stability.replica import ReplicaResult
from ase_ws.stability.runs import Run, run_jobs

Cause = Literal["model", "timestep", "precision", "starting structure", "not settled"]

#: Failures that a rerun must be expected to have before their absence means something: with 3
#: expected, none is seen with a probability of e⁻³ = 5 %.
EXPECTED = 3.0
#: A drift is the time step's when half the step brings it below this part. Verlet's error goes
#: with the square of the step, to a quarter; a model's drift stays.
DRIFT_FALLS = 0.5


@dataclass(frozen=True)
class Rerun:
    """The failing conditions with one thing changed.

    Attributes
    ----------
    what : str
        "half the timestep", "a quarter of the timestep" or "float64".
    timestep : float
        In fs.
    replicas, failed : int
    total_ps : float
        Simulated in all.
    expected : float
        Failures at the rate of the original.
    failure : Finding or None
        The first.
    """

    what: str
    timestep: float
    replicas: int
    failed: int
    total_ps: float
    expected: float
    failure: Finding | None

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary that JSON can hold."""
        failure = None if self.failure is None else self.failure.to_dict()
        return {**vars(self), "failure": failure}


@dataclass(frozen=True)
class Blame:
    """What is at fault.

    Attributes
    ----------
    cause : {"model", "timestep", "precision", "starting structure", "not settled"}
    reason : str
        In one line.
    reruns : list of Rerun
        What was tried to find out.
    """

    cause: Cause
    reason: str
    reruns: list[Rerun] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary that JSON can hold."""
        reruns = [rerun.to_dict() for rerun in self.reruns]
        return {"cause": self.cause, "reason": self.reason, "reruns": reruns}


def blame_for(
    plan: Plan,
    preparation: Preparation,
    runs: Sequence[Run],
    templates: Sequence[Check],
    *,
    rerun: bool = True,
    progress: Progress | None = None,
) -> Blame | None:
    """Say who is at fault; None where nothing failed.

    Parameters
    ----------
    plan : Plan
    preparation : Preparation
    runs : sequence of Run
    templates : sequence of Check
    rerun : bool
        Without reruns only what failed before MD has someone to blame.
    progress : callable, optional

    Returns
    -------
    Blame or None
    """
    failed = [run.result for run in runs if run.result.failure is not None]
    if not failed and not preparation.failures:
        return None
    if preparation.overlap:
        return Blame("starting structure", preparation.overlap)
    if preparation.failures:
        # Neither a time step nor a thermostat is in play yet, and the static checks are made in
        # the highest precision that the calculator has.
        return Blame("model", f"it fails before any MD: {preparation.failures[0].message}")
    if failed and rerun:
        assert preparation.begin is not None
        return find_blame(
            preparation.begin, plan, [run.result for run in runs], templates, progress=progress
        )
    return Blame("not settled", "no reruns were asked for")


def find_blame(
    start: Atoms,
    plan: Plan,
    runs: Sequence[ReplicaResult],
    templates: Sequence[Check],
    *,
    budget: float = 1.0,
    progress: Progress | None = None,
) -> Blame:
    """Rerun what failed in MD at a finer time step and in float64.

    The failing temperature with the highest rate is rerun with the seeds that failed, and more,
    for as long as 3 failures are expected at the rate seen; what then fails no more was the
    changed thing's fault (with 5 % error). A drift also counts as cured when its slope fell to
    less than half.

    Parameters
    ----------
    start : Atoms
        Start of the runs, with the calculator.
    plan : Plan
    runs : sequence of ReplicaResult
        At least one has failed.
    templates : sequence of Check
    budget : float
        Longest time of one rerun, as a multiple of the time of the original runs at that
        temperature, or of 3 times the time to the failure where that is longer.
    progress : callable, optional
        As for `run_md`.

    Returns
    -------
    Blame
    """
    first = min((run for run in runs if run.failure is not None), key=lambda r: r.simulated_ps)
    assert first.failure is not None
    if first.failure.step == 0:
        return _at_once(first.failure)
    subject = _Subject.of(runs, budget)
    reruns = []
    for part, what in ((2, "half the timestep"), (4, "a quarter of the timestep")):
        finer = replace(plan, timestep=plan.timestep / part)
        reruns.append(subject.rerun(what, start, finer, templates, progress))
        if subject.is_gone(reruns[-1]):
            reason = f"at {finer.timestep:g} fs {subject.told(reruns[-1])}"
            return Blame("timestep", reason, reruns)
    raised = raised_precision(start.calc)
    if raised is not None:
        exact = start.copy()
        exact.calc = raised
        reruns.append(subject.rerun("float64", exact, plan, templates, progress))
        if subject.is_gone(reruns[-1]):
            return Blame("precision", f"in float64 {subject.told(reruns[-1])}", reruns)
    if all(rerun.failed for rerun in reruns):
        changes = " and ".join(rerun.what for rerun in reruns)
        return Blame("model", f"it fails with {changes} too: {first.failure.message}", reruns)
    return Blame(
        "not settled",
        "failures are too rare for the reruns to tell: run more replicas",
        reruns,
    )


def _at_once(failure: Finding) -> Blame:
    if failure.check in ("finite", "calculator"):
        return Blame("model", f"it cannot evaluate the start: {failure.message}")
    return Blame("starting structure", f"it fails before the first step: {failure.message}")


def raised_precision(calculator: BaseCalculator | None) -> BaseCalculator | None:
    """Give the same potential in float64, where the calculator can and is not there already."""
    raise_it = getattr(calculator, "in_float64", None)
    if raise_it is None or getattr(calculator, "is_float64", False):
        return None
    return raise_it()


@dataclass(frozen=True)
class _Subject:
    """The conditions to rerun: one temperature, its failures and their rate."""

    temperature: float
    failed: list[ReplicaResult]
    others: list[ReplicaResult]
    ps: float
    n_runs: int
    total_ps: float

    @classmethod
    def of(cls, runs: Sequence[ReplicaResult], budget: float) -> _Subject:
        def at(kelvin: float) -> list[ReplicaResult]:
            return [run for run in runs if run.temperature == kelvin]

        def rate(kelvin: float) -> float:
            time = sum(run.simulated_ps for run in at(kelvin))
            return sum(run.failure is not None for run in at(kelvin)) / time

        worst = max({run.temperature for run in runs if run.failure is not None}, key=rate)
        failed = sorted(
            (run for run in at(worst) if run.failure is not None), key=lambda r: r.simulated_ps
        )
        others = [run for run in at(worst) if run.failure is None]
        total = sum(run.simulated_ps for run in at(worst))
        wanted = EXPECTED / rate(worst)
        # One run of the length planned, or as many as bring the time that is wanted.
        ps = min(wanted, max(failed[0].planned_ps, EXPECTED * failed[0].simulated_ps))
        most = max(budget * total, wanted if len(failed) == len(at(worst)) else 0.0)
        n_runs = max(1, math.ceil(min(wanted, most) / ps - 1e-9))
        return cls(worst, failed, others, ps, n_runs, total)

    def rerun(
        self,
        what: str,
        start: Atoms,
        plan: Plan,
        templates: Sequence[Check],
        progress: Progress | None,
    ) -> Rerun:
        seeds = [run.seed for run in (*self.failed, *self.others)]
        # More runs than there are seeds get seeds of their own.
        seeds += [(seeds[0] + k) % 2**32 for k in range(1, self.n_runs)]
        jobs = [Job(self.temperature, k, seed) for k, seed in enumerate(seeds[: self.n_runs])]
        found: list[ReplicaResult] = []
        run_jobs(
            start,
            replace(plan, ps=self.ps, temperatures=(self.temperature,)),
            jobs,
            templates,
            finished=lambda run: found.append(run.result),
            progress=None
            if progress is None
            else lambda step, steps, _: progress(step, steps, f"blame: {what}"),
        )
        failures = [run.failure for run in found if run.failure is not None]
        time = sum(run.simulated_ps for run in found)
        return Rerun(
            what=what,
            timestep=plan.timestep,
            replicas=len(found),
            failed=len(failures),
            total_ps=time,
            expected=len(self.failed) / self.total_ps * time,
            failure=min(failures, key=lambda finding: finding.time, default=None),
        )

    def is_gone(self, rerun: Rerun) -> bool:
        """Whether the change has cured it."""
        if not rerun.failed:
            return rerun.expected >= EXPECTED * 0.99
        before, after = self.failed[0].failure, rerun.failure
        assert before is not None and after is not None
        if before.check != "drift" or after.check != "drift":
            return False
        if before.value is None or after.value is None:
            return False
        return abs(after.value) < DRIFT_FALLS * abs(before.value)

    def told(self, rerun: Rerun) -> str:
        """Say in words what the rerun saw."""
        if rerun.failure is None:
            return f"nothing failed in {rerun.total_ps:.3g} ps ({rerun.expected:.1f} were expected)"
        before = self.failed[0].failure
        assert before is not None
        return f"the drift fell from {before.value:+.2g} to {rerun.failure.value:+.2g} meV/atom/ps"
