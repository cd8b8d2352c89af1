"""Tell who is at fault: the model, the time step, the precision, or the start."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ase import Atoms

from ase_ws.md.run import Progress
from ase_ws.results.blame import Blame, Cause, Rerun
from ase_ws.results.finding import Finding
from ase_ws.results.replica import ReplicaResult
from ase_ws.results.settings import StabilitySettings
from ase_ws.stability.checks.base import Check
from ase_ws.stability.judged.answers import MachineError
from ase_ws.stability.judged.float64 import raised_precision
from ase_ws.stability.runs.prepare import Preparation
from ase_ws.stability.runs.replicas import Run
from ase_ws.stability.static import Repeatable
from ase_ws.stability.verdict.reruns import Subject


def blame_for(
    settings: StabilitySettings,
    preparation: Preparation,
    runs: Sequence[Run],
    templates: Sequence[Check],
    *,
    progress: Progress | None = None,
) -> Blame | None:
    """Say who is at fault; None where nothing failed.

    Parameters
    ----------
    settings : StabilitySettings
        Without its `blame` only what failed before MD has someone to blame.
    preparation : Preparation
    runs : sequence of Run
    templates : sequence of Check
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
        return _before_md(preparation.failures)
    if failed and settings.blame:
        assert preparation.begin is not None
        results = [run.result for run in runs]
        try:
            return find_blame(preparation.begin, settings, results, templates, progress=progress)
        except MachineError as error:
            return Blame("not settled", f"the reruns had to be given up: {error}")
    return Blame("not settled", "no reruns were asked for")


def find_blame(
    start: Atoms,
    settings: StabilitySettings,
    runs: Sequence[ReplicaResult],
    templates: Sequence[Check],
    *,
    budget: float = 4.0,
    progress: Progress | None = None,
) -> Blame:
    """Rerun what failed in MD in float64 and at finer time steps.

    The failing temperature with the highest rate is rerun with the seeds that failed, and more
    where need be. Where fewer than four runs were made, and all failed, some more of the original
    are run first: four failures tell their rate, and so a cure, far better than one.

    A drift or a fluctuation is cured when it falls below half of its value. Anything else is an
    event: with n failures in the time T and none in the rerun of time T', it is cured unless that
    may be chance, (T/(T + T'))ⁿ > 5 % (the conditional test of two Poisson rates, Przyborowski
    and Wilenski, Biometrika 31, 313, 1940). The first change that cures is to blame; the model,
    where none does; and what is neither is not settled.

    Parameters
    ----------
    start : Atoms
        Start of the runs, with the calculator.
    settings : StabilitySettings
    runs : sequence of ReplicaResult
        At least one has failed.
    templates : sequence of Check
    budget : float
        Longest time of one rerun that can settle it, as a multiple of the time that was planned
        at that temperature.
    progress : callable, optional
        As for `run_md`.

    Returns
    -------
    Blame
    """
    first = min((run.failure for run in runs if run.failure is not None), key=lambda f: f.step)
    if first.step == 0:
        begun = any(run.failure is None or run.failure.step > 0 for run in runs)
        return _refused(first, []) if begun else _at_once(first)
    subject = Subject.of(runs, budget)
    more = subject.repeated(start, settings, templates, progress)
    refused = [run.failure for run in more if run.failure is not None and run.failure.step == 0]
    if refused:
        return _refused(refused[0], [])
    if more:
        subject = Subject.of([*subject.failed, *subject.others, *more], budget)
    reruns: list[Rerun] = []
    outcomes: set[str] = set()
    for cause, what, atoms, changed in _changes(start, settings):
        rerun, outcome, told = subject.rerun(what, atoms, changed, templates, progress)
        reruns.append(rerun)
        if rerun.failure is not None and rerun.failure.step == 0:
            return _refused(rerun.failure, reruns)
        if outcome == "cured":
            return Blame(cause, f"with {what} ({changed.timestep:g} fs) {told}", reruns)
        outcomes.add(outcome)
        # A quarter of the step is for failures that half of it made rarer.
        if cause == "timestep" and outcome == "stays":
            break
    if "open" not in outcomes:
        changes = " and ".join(rerun.what for rerun in reruns)
        return Blame("model", f"it fails with {changes} too: {first.message}", reruns)
    return Blame("not settled", "failures are too rare to tell: run more replicas", reruns)


def _changes(
    start: Atoms, settings: StabilitySettings
) -> Iterator[tuple[Cause, str, Atoms, StabilitySettings]]:
    """Change one thing at a time.

    Float64 comes first: a long time step stays long in it, while noise of a low precision also
    comes out smaller, by chance, at another time step.
    """
    raised = raised_precision(start.calc)
    if raised is not None:
        exact = start.copy()
        exact.calc = raised
        yield "precision", "float64", exact, settings
    for part, what in ((2, "half the timestep"), (4, "a quarter of the timestep")):
        yield "timestep", what, start, settings.but(timestep=settings.timestep / part)


def _at_once(failure: Finding) -> Blame:
    if failure.check in ("finite", "calculator"):
        return Blame("model", f"it cannot evaluate the start: {failure.message}")
    return Blame("starting structure", f"it fails before the first step: {failure.message}")


def _refused(failure: Finding, reruns: list[Rerun]) -> Blame:
    """Blame a potential that has begun runs from this very structure before."""
    told = "it has begun MD from this structure before, and now fails there"
    return Blame("model", f"{told}: {failure.message}", reruns)


#: Why it is neither the time step nor the thermostat.
BEFORE_MD = "it fails before MD, where no time step is in play"


def _before_md(failures: Sequence[Finding]) -> Blame:
    changed = [item for item in failures if item.check == Repeatable.name]
    if changed:
        return Blame("model", changed[0].message)
    # The static checks are made in the highest precision that the calculator has.
    rounding = {item.check for item in failures} == {"precision"}
    return Blame("precision" if rounding else "model", BEFORE_MD)
