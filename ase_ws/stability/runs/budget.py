"""Plan a campaign to a given time: what is left out first, and what is said about it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ase import Atoms

from ase_ws.results.finding import Finding
from ase_ws.stability.checks.base import Check
from ase_ws.stability.judged.answers import MachineError, PotentialError, lost
from ase_ws.stability.runs.estimate import (
    Estimate,
    NotFiniteError,
    Speed,
    is_relaxed,
    measure,
    spoken,
)
from ase_ws.stability.runs.plan import Plan
from ase_ws.stability.static.cost import costs
from ase_ws.stability.static.result import StaticCheck
from ase_ws.stability.static.smoothness import BondScan, ContactScan
from ase_ws.stability.static.suite import default_static_checks


@dataclass(frozen=True)
class Outlook:
    """What will be done, and how long it will take.

    Attributes
    ----------
    plan : Plan
    checks : list of StaticCheck
        Empty where there will be none.
    estimate : Estimate or None
        None where the potential fails already.
    lines : list of str
        To be told before the work.
    findings : list of Finding
        Where the potential gave no answer when it was timed: once is enough.
    """

    plan: Plan
    checks: list[StaticCheck]
    estimate: Estimate | None
    lines: list[str]
    findings: list[Finding] = field(default_factory=list)


def look_ahead(
    starts: Sequence[Atoms],
    plan: Plan,
    templates: Sequence[Check],
    *,
    static: bool,
    relax_steps: int,
    fmax: float = 0.05,
    budget: float | None = None,
) -> Outlook:
    """Estimate the time of a campaign, and trim it to a budget.

    Scans go first (fewer pairs of atoms), then replicas (one stays at each temperature), then the
    length. The verdict stays honest: what has been simulated too little for one is inconclusive.
    A plan, no limit: nothing is stopped when its time is over, and reruns of what fails, which
    find out who is to blame, come on top.

    Parameters
    ----------
    starts : sequence of Atoms
        With the calculators: the potential to judge, and those to compare it with.
    plan : Plan
    templates : sequence of Check
        Of MD.
    static : bool
        Whether the first potential gets static checks.
    relax_steps, fmax : int, float (eV/Å)
        A start that is relaxed already takes one step at most.
    budget : float, optional
        In minutes. Default: as long as it takes.

    Returns
    -------
    Outlook
    """
    checks = default_static_checks() if static else []
    speeds: list[Speed] = []
    try:
        for start in starts:
            speeds.append(measure(start, plan, templates, static=static and start is starts[0]))
        if is_relaxed(starts[0], fmax):
            relax_steps = min(1, relax_steps)
    except (PotentialError, MachineError) as error:
        untimed = "no estimate: the potential fails when it is timed"
        lines = [untimed if budget is None else f"{untimed}; nothing is left out"]
        # What the others answer, which it is only compared with, is for their own runs to find.
        found = [] if speeds else [_failure(error)]
        return Outlook(plan, checks, None, lines, found)
    work = _Work(starts[0], speeds, relax_steps)
    evaluations = work.evaluations(plan, checks)
    estimate = work.estimate(plan, evaluations)
    if budget is None:
        return Outlook(plan, checks, estimate, [estimate.sentence()])
    seconds = 60.0 * budget
    left_out: list[str] = []
    if estimate.total_s > seconds:
        checks, evaluations, left_out = _fewer_pairs(work, plan, checks, seconds)
        rest = seconds - (work.estimate(plan, evaluations).total_s - work.md(plan))
        for trim in (_fewer_replicas, _shorter):
            plan, told = trim(work, plan, rest)
            left_out += told
        estimate = work.estimate(plan, evaluations)
    plan = replace(plan, budget=float(budget), left_out=tuple(left_out))
    lines = [estimate.sentence()]
    if left_out:
        lines.append(f"left out to fit {budget:g} min: {'; '.join(left_out)}")
    if estimate.total_s > 1.05 * seconds:
        lines.append(f"{budget:g} min are too few: what is left takes {spoken(estimate.total_s)}")
    return Outlook(plan, checks, estimate, lines)


def _failure(error: PotentialError | MachineError) -> Finding:
    if isinstance(error, MachineError):
        return lost(error)
    # The names under which MD finds the same.
    name = "finite" if isinstance(error, NotFiniteError) else "calculator"
    return Finding(name, "fail", str(error))


@dataclass(frozen=True)
class _Work:
    """What an estimate needs to know beside the plan."""

    start: Atoms
    speeds: list[Speed]
    relax_steps: int

    def estimate(self, plan: Plan, evaluations: int) -> Estimate:
        """Put the parts together, with so many evaluations of static checks."""
        return Estimate(
            relaxation_s=sum(self.relax_steps * speed.evaluation for speed in self.speeds),
            static_evaluations=evaluations,
            static_s=evaluations * self.speeds[0].static,
            md_steps=plan.total_steps * len(self.speeds),
            md_s=self.md(plan),
        )

    def evaluations(self, plan: Plan, checks: Sequence[StaticCheck]) -> int:
        """Count those of static checks."""
        return sum(costs(self.start, checks, plan.conditions))

    def md(self, plan: Plan) -> float:
        """Time of MD in s."""
        jobs = plan.replicas * len(plan.temperatures)
        return sum(speed.md(plan.steps, jobs) for speed in self.speeds)


def _fewer_pairs(
    work: _Work, plan: Plan, checks: Sequence[StaticCheck], seconds: float
) -> tuple[list[StaticCheck], int, list[str]]:
    """Take one pair of atoms less from each scan until the time suffices; count evaluations."""
    trimmed, fewest = list(checks), 0
    whole = count = work.evaluations(plan, trimmed)
    for most in range(max((scan.most for scan in _scans(trimmed)), default=1), 0, -1):
        fewer = [_at_most(check, most) for check in checks]
        left = work.evaluations(plan, fewer)
        # Where there are no more pairs than that, nothing is left out.
        if left < count:
            trimmed, count, fewest = fewer, left, most
        if work.estimate(plan, count).total_s <= seconds:
            break
    if not fewest:
        return trimmed, count, []
    names = " and ".join(scan.name for scan in _scans(trimmed))
    told = f"{names}: all but {_pairs(fewest)} each ({whole - count} evaluations)"
    return trimmed, count, [told]


def _scans(checks: Sequence[StaticCheck]) -> list[BondScan | ContactScan]:
    return [check for check in checks if isinstance(check, (BondScan, ContactScan))]


def _at_most(check: StaticCheck, most: int) -> StaticCheck:
    if not isinstance(check, (BondScan, ContactScan)):
        return check
    return replace(check, most=min(most, check.most))


def _pairs(number: int) -> str:
    return "one pair of atoms" if number == 1 else f"{number} pairs of atoms"


def _fewer_replicas(work: _Work, plan: Plan, seconds: float) -> tuple[Plan, list[str]]:
    """Take away replicas until MD fits in the seconds that it has, one at least staying."""
    wanted = plan.replicas
    while plan.replicas > 1 and work.md(plan) > seconds:
        plan = replace(plan, replicas=plan.replicas - 1)
    if plan.replicas == wanted:
        return plan, []
    return plan, [f"replicas: {wanted - plan.replicas} of {wanted} at each temperature"]


def _shorter(work: _Work, plan: Plan, seconds: float) -> tuple[Plan, list[str]]:
    """Shorten the replicas, to the points of one trace at least."""
    part = seconds / work.md(plan)
    if part >= 1.0:
        return plan, []
    steps = max(math.floor(plan.steps * part), min(plan.interval, plan.steps))
    ps = steps * plan.timestep / 1000.0
    if steps >= plan.steps:
        return plan, []
    return replace(plan, ps=ps), [f"length: {plan.ps - ps:.3g} of {plan.ps:g} ps of each replica"]
