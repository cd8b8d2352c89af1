"""Plan a run to a given time: what is left out first, and what is said about it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ase import Atoms

from ase_ws.results.finding import Finding
from ase_ws.results.settings import BudgetedSettings
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
from ase_ws.stability.static.cost import costs
from ase_ws.stability.static.probe import Conditions
from ase_ws.stability.static.result import StaticCheck
from ase_ws.stability.static.smoothness import BondScan, ContactScan
from ase_ws.stability.static.suite import default_static_checks


@dataclass(frozen=True)
class Outlook:
    """What will be done, and how long it will take.

    Attributes
    ----------
    settings : BudgetedSettings
    checks : list of StaticCheck
        Empty where there will be none.
    estimate : Estimate or None
        None where the potential fails already.
    lines : list of str
        To be told before the work.
    findings : list of Finding
        Where the potential gave no answer when it was timed: once is enough.
    """

    settings: BudgetedSettings
    checks: list[StaticCheck]
    estimate: Estimate | None
    lines: list[str]
    findings: list[Finding] = field(default_factory=list)


def look_ahead(
    starts: Sequence[Atoms],
    settings: BudgetedSettings,
    templates: Sequence[Check],
) -> Outlook:
    """Estimate the time of a run, and trim it to its budget, if it has one.

    Scans go first (fewer pairs of atoms), then replicas (one stays at each temperature), then the
    length. The verdict stays honest: what has been simulated too little for one is inconclusive.
    A plan, no limit: nothing is stopped when its time is over, and reruns of what fails, which
    find out who is to blame, come on top.

    Parameters
    ----------
    starts : sequence of Atoms
        With the calculators: the potential to judge, and those to compare it with.
    settings : BudgetedSettings
    templates : sequence of Check
        Of MD.

    Returns
    -------
    Outlook
    """
    checks = default_static_checks() if settings.static else []
    budget, relax_steps = settings.budget, settings.relax_steps
    speeds: list[Speed] = []
    try:
        for start in starts:
            speeds.append(measure(start, settings, templates, static=bool(checks) and not speeds))
        if is_relaxed(starts[0], settings.fmax):
            relax_steps = min(1, relax_steps)
    except (PotentialError, MachineError) as error:
        untimed = "no estimate: the potential fails when it is timed"
        lines = [untimed if budget is None else f"{untimed}; nothing is left out"]
        # What the others answer, which it is only compared with, is for their own runs to find.
        found = [] if speeds else [_failure(error)]
        return Outlook(settings, checks, None, lines, found)
    work = _Work(starts[0], speeds, relax_steps)
    evaluations = work.evaluations(settings, checks)
    estimate = work.estimate(settings, evaluations)
    if budget is None:
        return Outlook(settings, checks, estimate, [estimate.sentence()])
    seconds = 60.0 * budget
    left_out: list[str] = []
    if estimate.total_s > seconds:
        checks, evaluations, left_out = _fewer_pairs(work, settings, checks, seconds)
        rest = seconds - (work.estimate(settings, evaluations).total_s - work.md(settings))
        for trim in (_fewer_replicas, _shorter):
            settings, told = trim(work, settings, rest)
            left_out += told
        estimate = work.estimate(settings, evaluations)
    settings = settings.but(left_out=tuple(left_out))
    lines = [estimate.sentence()]
    if left_out:
        lines.append(f"left out to fit {budget:g} min: {'; '.join(left_out)}")
    if estimate.total_s > 1.05 * seconds:
        lines.append(f"{budget:g} min are too few: what is left takes {spoken(estimate.total_s)}")
    return Outlook(settings, checks, estimate, lines)


def _failure(error: PotentialError | MachineError) -> Finding:
    if isinstance(error, MachineError):
        return lost(error)
    # The names under which MD finds the same.
    name = "finite" if isinstance(error, NotFiniteError) else "calculator"
    return Finding(name, "fail", str(error))


@dataclass(frozen=True)
class _Work:
    """What an estimate needs to know beside the settings."""

    start: Atoms
    speeds: list[Speed]
    relax_steps: int

    def estimate(self, settings: BudgetedSettings, evaluations: int) -> Estimate:
        """Put the parts together, with so many evaluations of static checks."""
        return Estimate(
            relaxation_s=sum(self.relax_steps * speed.evaluation for speed in self.speeds),
            static_evaluations=evaluations,
            static_s=evaluations * self.speeds[0].static,
            md_steps=settings.total_steps * len(self.speeds),
            md_s=self.md(settings),
        )

    def evaluations(self, settings: BudgetedSettings, checks: Sequence[StaticCheck]) -> int:
        """Count those of static checks."""
        return sum(costs(self.start, checks, Conditions.of(settings)))

    def md(self, settings: BudgetedSettings) -> float:
        """Time of MD in s."""
        jobs = settings.replicas * len(settings.temperatures)
        return sum(speed.md(settings.steps, jobs) for speed in self.speeds)


def _fewer_pairs(
    work: _Work, settings: BudgetedSettings, checks: Sequence[StaticCheck], seconds: float
) -> tuple[list[StaticCheck], int, list[str]]:
    """Take one pair of atoms less from each scan until the time suffices; count evaluations."""
    trimmed, fewest = list(checks), 0
    whole = count = work.evaluations(settings, trimmed)
    for most in range(max((scan.most for scan in _scans(trimmed)), default=1), 0, -1):
        fewer = [_at_most(check, most) for check in checks]
        left = work.evaluations(settings, fewer)
        # Where there are no more pairs than that, nothing is left out.
        if left < count:
            trimmed, count, fewest = fewer, left, most
        if work.estimate(settings, count).total_s <= seconds:
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


def _fewer_replicas(
    work: _Work, settings: BudgetedSettings, seconds: float
) -> tuple[BudgetedSettings, list[str]]:
    """Take away replicas until MD fits in the seconds that it has, one at least staying."""
    wanted = settings.replicas
    while settings.replicas > 1 and work.md(settings) > seconds:
        settings = settings.but(replicas=settings.replicas - 1)
    if settings.replicas == wanted:
        return settings, []
    return settings, [f"replicas: {wanted - settings.replicas} of {wanted} at each temperature"]


def _shorter(
    work: _Work, settings: BudgetedSettings, seconds: float
) -> tuple[BudgetedSettings, list[str]]:
    """Shorten the replicas, to the points of one trace at least."""
    part = seconds / work.md(settings)
    if part >= 1.0:
        return settings, []
    steps = max(math.floor(settings.steps * part), min(settings.interval, settings.steps))
    ps = steps * settings.timestep / 1000.0
    if steps >= settings.steps:
        return settings, []
    return settings.but(ps=ps), [
        f"length: {settings.ps - ps:.3g} of {settings.ps:g} ps of each replica"
    ]
