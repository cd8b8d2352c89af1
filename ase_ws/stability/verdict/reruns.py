"""Run again what failed, with one thing changed, and see whether that cures it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ase import Atoms

from ase_ws.md.run import Progress
from ase_ws.results.blame import Rerun
from ase_ws.results.replica import ReplicaResult
from ase_ws.results.settings import Job, StabilitySettings
from ase_ws.stability.checks.base import Check
from ase_ws.stability.runs.replicas import run_jobs

#: What a change did: cured it, made it rarer, left it as it was, or cannot be told.
Outcome = Literal["cured", "rarer", "stays", "open"]

#: A cure by chance may be taken for a real one with this probability.
DOUBT = 0.05
#: Failures of the original that are enough to compare with.
ENOUGH = 4
#: Checks that measure rather than wait for an event: cured is what falls below this part of its
#: value. Verlet's error goes with the square of the step, to a quarter; a model's stays.
MEASURES, FALLS = ("drift", "fluctuation"), 0.5


@dataclass(frozen=True)
class Subject:
    """The conditions to rerun: one temperature and its failures.

    Attributes
    ----------
    failed, others : list of ReplicaResult
        Earliest first.
    ps : float
        Length of a rerun.
    n_runs : int
        How many.
    """

    temperature: float
    failed: list[ReplicaResult]
    others: list[ReplicaResult]
    ps: float
    n_runs: int

    @classmethod
    def of(cls, runs: Sequence[ReplicaResult], budget: float) -> Subject:
        """Take the temperature with the highest rate of failures, none of them at the start."""

        def rate(kelvin: float) -> float:
            mine = [run for run in runs if run.temperature == kelvin]
            return sum(run.failure is not None for run in mine) / _time(mine)

        worst = max({run.temperature for run in runs if run.failure is not None}, key=rate)
        mine = sorted(
            (run for run in runs if run.temperature == worst), key=lambda run: run.simulated_ps
        )
        failed = [run for run in mine if run.failure is not None]
        others = [run for run in mine if run.failure is None]
        planned = failed[0].planned_ps
        if _measured(failed[0]):
            return cls(worst, failed, others, planned, min(len(failed), 4))
        # Long enough that no failure in it cannot be chance. Where that is too long, as long as
        # the original: a failure in it tells something too.
        wanted = _time(mine) * (DOUBT ** (-1.0 / len(failed)) - 1.0)
        original = planned * len(mine)
        length = wanted if wanted <= budget * original else min(wanted, original)
        ps = min(planned, max(length, 3.0 * failed[0].simulated_ps))
        n_runs = max(1, math.ceil(length / ps - 1e-9))
        return cls(worst, failed, others, ps, n_runs)

    def repeated(
        self,
        start: Atoms,
        settings: StabilitySettings,
        templates: Sequence[Check],
        progress: Progress | None,
    ) -> list[ReplicaResult]:
        """Run the original with other seeds, where few have run, and all of them failed."""
        planned = self.failed[0].planned_ps
        if _measured(self.failed[0]) or len(self.failed) >= ENOUGH or self.others:
            return []
        return self._run(
            "other seeds",
            start,
            settings.but(ps=planned),
            ENOUGH - len(self.failed),
            templates,
            progress,
            skip=len(self.failed),
        )

    def _run(
        self,
        what: str,
        start: Atoms,
        settings: StabilitySettings,
        n_runs: int,
        templates: Sequence[Check],
        progress: Progress | None,
        skip: int = 0,
    ) -> list[ReplicaResult]:
        known = [run.seed or 0 for run in (*self.failed, *self.others)]
        # More runs than there are seeds get seeds of their own.
        seeds = known + [(known[0] + k) % 2**32 for k in range(1, skip + n_runs)]
        chosen = seeds[skip : skip + n_runs]
        found: list[ReplicaResult] = []
        run_jobs(
            start,
            settings.but(temperatures=(self.temperature,)),
            [Job(self.temperature, k, seed) for k, seed in enumerate(chosen)],
            templates,
            finished=lambda run: found.append(run.result),
            progress=None
            if progress is None
            else lambda step, steps, _: progress(step, steps, f"blame: {what}"),
        )
        return found

    def rerun(
        self,
        what: str,
        start: Atoms,
        settings: StabilitySettings,
        templates: Sequence[Check],
        progress: Progress | None,
    ) -> tuple[Rerun, Outcome, str]:
        """Run again; give what came out, whether that is a cure, and what was seen in words."""
        found = self._run(what, start, settings.but(ps=self.ps), self.n_runs, templates, progress)
        failures = [run.failure for run in found if run.failure is not None]
        before, again = _time([*self.failed, *self.others]), _time(found)
        rerun = Rerun(
            what=what,
            timestep=settings.timestep,
            replicas=len(found),
            failed=len(failures),
            total_ps=again,
            by_chance=(before / (before + again)) ** len(self.failed),
            failure=min(failures, key=lambda finding: finding.time, default=None),
        )
        return rerun, *self._outcome(rerun, found)

    def _outcome(self, rerun: Rerun, found: Sequence[ReplicaResult]) -> tuple[Outcome, str]:
        measured = _measured(self.failed[0])
        if measured and all(run.failure is None or _measured(run) for run in found):
            name, value = measured
            after = max(abs(_worst(run, name)) for run in found)
            # Written so that NaN is no cure.
            cured = after < FALLS * abs(value)
            told = f"{name} goes from {value:+.2g} to {after:.2g}"
            return ("cured" if cured else "stays"), told
        if not rerun.failed:
            cured = not measured and rerun.by_chance <= DOUBT * 1.001
            return ("cured" if cured else "open"), f"nothing fails in {rerun.total_ps:.3g} ps"
        original = len(self.failed) / _time([*self.failed, *self.others])
        rarer = rerun.failed < 0.5 * original * rerun.total_ps
        return ("rarer" if rarer else "stays"), "it fails too"


def _time(runs: Sequence[ReplicaResult]) -> float:
    """Time in ps up to the ends and failures; a step in which the calculator fails counts."""
    return sum(max(run.simulated_ps, run.time_to_failure_ps or 0.0) for run in runs)


def _measured(run: ReplicaResult) -> tuple[str, float] | None:
    """Name and value of the measure that failed, where it was one."""
    failure = run.failure
    if failure is None or failure.check not in MEASURES or failure.value is None:
        return None
    return failure.check, failure.value


def _worst(run: ReplicaResult, name: str) -> float:
    """Value of a measure in a run; 0 where it was too short or quiet to be judged."""
    check = next((check for check in run.checks if check.name == name), None)
    return 0.0 if check is None or check.worst is None else check.worst
