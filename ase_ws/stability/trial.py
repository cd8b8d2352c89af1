"""One model on one structure, from the start to the report; whoever asks, and wherever it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ase import Atoms

from ase_ws.md.run import Progress
from ase_ws.results.blame import Blame
from ase_ws.results.outcome import Outcome
from ase_ws.results.report import StabilityReport
from ase_ws.results.settings import Job, StabilitySettings
from ase_ws.stability.checks.base import Check
from ase_ws.stability.checks.calibration import Calibration
from ase_ws.stability.judged.answers import MachineError, lost
from ase_ws.stability.runs.budget import Outlook
from ase_ws.stability.runs.prepare import Preparation, prepare
from ase_ws.stability.runs.replicas import Run, run_jobs
from ase_ws.stability.runs.stages import BeforeMD, Clock
from ase_ws.stability.static import StaticCheck
from ase_ws.stability.verdict.blame import blame_for
from ase_ws.stability.verdict.decide import assemble


@dataclass(frozen=True, eq=False)
class Trial:
    """The steps from a structure to a verdict on a calculator.

    `judge` takes them in a row; a campaign takes each where a worker is free, with what the step
    before has left on file.

    Attributes
    ----------
    given : Atoms
        The structure, with the calculator; without it only `report` can be taken.
    settings : StabilitySettings
    checks : list of Check
        Each replica gets copies.
    static_checks : sequence of StaticCheck, optional
        Those that fit a budget. Default: all.
    calibration : Calibration, optional
    name : str
        How the model is called.
    calculator : str
        Class of the calculator, for the report. Default: of that of `given`.
    progress : callable, optional
        Called as `progress(done, planned, label)`: evaluations before MD, then steps.
    """

    given: Atoms
    settings: StabilitySettings
    checks: Sequence[Check]
    static_checks: Sequence[StaticCheck] | None = None
    calibration: Calibration | None = None
    name: str = ""
    calculator: str = ""
    progress: Progress | None = None

    def prepare(self, static_evaluations: int = 0) -> Preparation:
        """Relax the structure and look at it; of about so many evaluations, for the progress."""
        progress = BeforeMD(self.progress, static_evaluations)
        return prepare(
            self.given, self.settings, static_checks=self.static_checks, progress=progress
        )

    def run(self, begin: Atoms, jobs: Sequence[Job], finished: Callable[[Run], None]) -> None:
        """Run replicas, see `run_jobs`."""
        run_jobs(begin, self.settings, jobs, self.checks, finished=finished, progress=self.progress)

    def blame(self, preparation: Preparation, runs: Sequence[Run]) -> Blame | None:
        """Say who is at fault, by reruns where these are wanted; None where nothing failed."""
        return blame_for(self.settings, preparation, runs, self.checks, progress=self.progress)

    def report(
        self,
        preparation: Preparation,
        runs: Sequence[Run],
        *,
        blame: Blame | None,
        comparison: Outcome | None = None,
        notes: Mapping[str, Any] | None = None,
    ) -> StabilityReport:
        """Put together what was found, see `assemble`."""
        settings = self.settings.model_dump(mode="json")
        return assemble(
            self.given,
            {**settings, "steps": self.settings.steps, "relaxation": preparation.relaxation},
            preparation,
            runs,
            calculator=self.calculator,
            name=self.name,
            blame=blame,
            comparison=comparison,
            calibration=self.calibration,
            notes=notes,
        )

    def judge(
        self,
        outlook: Outlook | None = None,
        *,
        finished: Callable[[Run], None] = lambda run: None,
        comparison: Callable[[], Outcome] | None = None,
        notes: Mapping[str, Any] | None = None,
        clock: Clock | None = None,
    ) -> StabilityReport:
        """Take all steps.

        Parameters
        ----------
        outlook : Outlook, optional
            What was found out when the work was planned.
        finished : callable, optional
            Called with each replica as it ends.
        comparison : callable, optional
            Gives what the report says of a second model; called when the replicas have run.
        notes : mapping, optional
            More for the provenance in the report.
        clock : Clock, optional
            That has been started before.

        Returns
        -------
        StabilityReport
        """
        clock = clock or Clock()
        estimate = None if outlook is None else outlook.estimate
        with clock.timing("before_md_s"):
            preparation = self.prepare(0 if estimate is None else estimate.static_evaluations)
        preparation = preparation.with_findings([] if outlook is None else outlook.findings)
        runs: dict[int | None, Run] = {}

        def ended(run: Run) -> None:
            runs[run.result.seed] = run
            finished(run)

        jobs = self.settings.jobs()
        with clock.timing("md_s"):
            if preparation.begin is not None:
                try:
                    self.run(preparation.begin, jobs, ended)
                except MachineError as error:
                    preparation = preparation.with_findings([lost(error)])
                preparation = preparation.recalled()
        ordered = [runs[job.seed] for job in jobs if job.seed in runs]
        other = None if comparison is None else comparison()
        return self.report(
            preparation,
            ordered,
            blame=self.blame(preparation, ordered),
            comparison=other,
            notes={
                **clock.times(),
                "estimate": None if estimate is None else estimate.to_dict(),
                **(notes or {}),
            },
        )
