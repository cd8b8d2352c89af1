"""Run a campaign: hand out units, journal what comes back, report each pair when it is complete."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ase_ws.devices import resolve_device
from ase_ws.errors import UserError
from ase_ws.jobs.pool import Ended, Lost, usable_cores
from ase_ws.results.blame import Blame
from ase_ws.results.outcome import Outcome
from ase_ws.results.report import StabilityReport
from ase_ws.stability.campaign.config import CampaignConfig, read_config
from ase_ws.stability.campaign.executors import Event, Executor
from ase_ws.stability.campaign.inputs import Campaign, Pair, PairKey, load_campaign
from ase_ws.stability.campaign.local import InProcess, Processes
from ase_ws.stability.campaign.progress import Standing, Watch
from ase_ws.stability.campaign.records import preparation_from_dict
from ase_ws.stability.campaign.state import Folder
from ase_ws.stability.campaign.summary import row_of, summarise
from ase_ws.stability.campaign.units import Replica, Task, chunks
from ase_ws.stability.runs.replicas import Run
from ase_ws.stability.verdict.candidates import save

#: A unit is given up when so many workers in a row have died on it with no replica finished.
#: Machines that are taken away at any moment rarely hit the same unit that often.
MOST_DEATHS = 5

#: Called with the names of model and structure and their report, when it is complete.
Reported = Callable[[PairKey, StabilityReport], None]


def run_campaign(
    config: CampaignConfig | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "cpu",
    command: str = "",
    watch: Watch | None = None,
    reported: Reported | None = None,
) -> dict[str, Any]:
    """Check the stability of many structures with many models; whatever dies, go on from there.

    Parameters
    ----------
    config : CampaignConfig or path
        What to run, or the YAML file that says it.
    out : path
        Folder for the results, see `Folder`. Each finished replica is on disk at once.
    workers : int, optional
        Processes on this machine, of one torch thread each; 1 works in this process. Default:
        as many as there are cores, or 1 on a GPU. As always with processes in Python, a script
        must call this below `if __name__ == "__main__":` where there is more than one.
    scheduler : str, optional
        Address of a Dask scheduler, whose workers then do the work.
    resume : bool
        Go on with the campaign in `out`: no finished replica is run again.
    overwrite : bool
        Replace the campaign in `out`.
    device : str
        See `PotentialCalculator`.
    command : str
        For the provenance in the reports.
    watch : callable, optional
        Called as `watch(standing)` when something has moved.
    reported : callable, optional
        Called as `reported((model, structure), report)` when a pair is complete.

    Returns
    -------
    dict
        What `summary.json` holds.

    Raises
    ------
    UserError
        Bad input; a folder with another campaign; a scheduler that is not there.
    """
    if workers is not None and workers < 1:
        raise UserError(f"--workers {workers}: expected at least 1")
    if workers is not None and scheduler is not None:
        raise UserError("--workers is for this machine; Dask's workers are started with Dask")
    if not isinstance(config, CampaignConfig):
        config = read_config(config)
    campaign = load_campaign(config, device=device)
    with Folder(Path(out), campaign, resume=resume, overwrite=overwrite) as folder:
        session = _Session(campaign, folder, command, watch, reported)
        session.take_stock()
        if session.open_pairs:
            executor = _executor(workers, scheduler, device, session.n_open, folder.id)
            session.run(executor)
        return session.summary()


def _executor(
    workers: int | None, scheduler: str | None, device: str, n_open: int, campaign: str
) -> Executor:
    if scheduler is not None:
        try:
            from ase_ws.stability.campaign.dask import DaskCluster
        except ImportError as error:
            raise UserError('--scheduler needs Dask: pip install "ase-ws[dask]"') from error
        return DaskCluster(scheduler, campaign)
    if workers is None:
        # One GPU has no room for several processes that do not know of each other.
        workers = usable_cores() if resolve_device(device).type == "cpu" else 1
    workers = max(1, min(workers, n_open))
    return InProcess() if workers == 1 else Processes(workers)


class _Session:
    """One process's work on a campaign."""

    def __init__(
        self,
        campaign: Campaign,
        folder: Folder,
        command: str,
        watch: Watch | None,
        reported: Reported | None,
    ):
        self._campaign, self._folder, self._journal = campaign, folder, folder.journal
        self._command, self._watch, self._reported = command, watch, reported
        self._preparations: dict[PairKey, dict[str, Any]] = {}
        self._rows: dict[PairKey, dict[str, Any]] = {}
        self._tasks: dict[str, Task] = {}
        self._deaths: dict[str, int] = {}
        self._standing = Standing(campaign.config.ps)
        self._executor: Executor

    # -------------------------------------------------------------- what is there

    def take_stock(self) -> None:
        """See what an earlier session has done."""
        for key, pair in self._campaign.pairs.items():
            self._standing.replicas += len(pair.jobs)
            preparation = self._folder.read(key, "preparation.json")
            if preparation is None:
                continue
            self._take_preparation(key, preparation)
            report = self._folder.read(key, "stability.json")
            if report is not None and not self._missing(key):
                self._rows[key] = row_of(*key, report)
        for entry in self._journal.entries.values():
            self._standing.add(entry, now=False)

    @property
    def open_pairs(self) -> list[PairKey]:
        """Pairs without a report."""
        return [key for key in self._campaign.pairs if key not in self._rows]

    @property
    def n_open(self) -> int:
        """Replicas still to run."""
        return self._standing.replicas - self._standing.done

    def summary(self) -> dict[str, Any]:
        """Make and write the summary of all pairs that are complete."""
        rows = [self._rows[key] for key in self._campaign.pairs if key in self._rows]
        record = summarise(rows, len(self._campaign.pairs))
        self._folder.write_summary(record)
        return record

    def _take_preparation(self, key: PairKey, record: dict[str, Any]) -> None:
        self._preparations[key] = record
        if record["begin"] is None:
            # The relaxation has failed: there is nothing to run.
            self._standing.replicas -= len(self._campaign.pairs[key].jobs)

    def _missing(self, key: PairKey) -> list[Any]:
        if self._preparations[key]["begin"] is None:
            return []
        return self._journal.missing(*key, self._campaign.pairs[key].jobs)

    # -------------------------------------------------------------- the work

    def run(self, executor: Executor) -> None:
        """Work until every pair has its report."""
        self._executor = executor
        try:
            self._tell()
            executor.collect(self._handle)
            for key in self.open_pairs:
                if key in self._preparations:
                    self._hand_out(key)
                else:
                    self._submit(Task("prepare", self._campaign.pairs[key]))
            self._tell()
            while self.open_pairs:
                executor.wait(self._handle)
                self._tell()
        finally:
            executor.close(self._handle)

    def _submit(self, task: Task) -> None:
        self._tasks[task.id] = task
        self._executor.submit(task)

    def _hand_out(self, key: PairKey) -> None:
        """Hand out the replicas of a pair that is prepared."""
        pair, missing = self._campaign.pairs[key], self._missing(key)
        for jobs in chunks(pair, missing, self.n_open, self._executor.workers):
            self._submit(Task("replicas", pair, self._preparations[key], jobs))
        if not missing:
            self._replicas_are_in(key)

    def _handle(self, task_id: str, event: Event) -> None:
        if isinstance(event, Replica):
            self._take_replica(task_id, event)
        elif isinstance(event, Ended | Lost):
            task = self._tasks.pop(task_id)
            self._standing.working.pop(task_id, None)
            if isinstance(event, Lost):
                self._start_again(task, event.reason)
            else:
                self._end(task, event.result)
        elif task_id in self._tasks:
            task = self._tasks[task_id]
            n_open = len(self._journal.missing(*task.pair.key, task.jobs))
            self._standing.move(task, event, n_open)
        self._tell()

    def _tell(self) -> None:
        kinds = {task.kind: task.name for task in self._tasks.values()}
        doing = self._executor.note or kinds.get("prepare") or kinds.get("blame") or ""
        self._standing.doing = doing
        if self._watch is not None:
            self._watch(self._standing)

    def _take_replica(self, task_id: str, event: Replica) -> None:
        entry = self._journal.append(event.line)
        if entry is None:
            self._standing.repeated += 1
            return
        self._standing.add(entry)
        task = self._tasks.get(task_id)
        if task is not None:
            n_open, part = self._standing.working.get(task_id, (0, 0.0))
            self._standing.working[task_id] = (max(0, n_open - 1), part)

    def _end(self, task: Task, result: Any) -> None:
        key = task.pair.key
        if task.kind == "prepare":
            self._folder.write(key, "preparation.json", result)
            self._take_preparation(key, result)
            self._hand_out(key)
        elif task.kind == "blame":
            self._report(key, result)
        elif self._journal.missing(*key, task.jobs):
            self._start_again(task, "it ended without all of its replicas")
        elif not self._missing(key):
            self._replicas_are_in(key)

    def _start_again(self, task: Task, reason: str) -> None:
        """Hand out what a lost unit has left."""
        key = task.pair.key
        jobs = self._journal.missing(*key, task.jobs)
        deaths = self._deaths.pop(task.id, 0) + 1
        if len(jobs) < len(task.jobs):
            deaths = 1
        if deaths >= MOST_DEATHS:
            raise UserError(
                f"{task.name}: given up after {MOST_DEATHS} workers in a row have died on it "
                f"(the last: {reason}); perhaps it needs more memory, or a smaller 'chunk'. What "
                "has finished is kept: go on with --resume"
            )
        if task.kind != "replicas" or jobs:
            again = Task(task.kind, task.pair, task.preparation, jobs, task.runs)
            self._deaths[again.id] = deaths
            self._submit(again)
        elif not self._missing(key):
            self._replicas_are_in(key)

    # -------------------------------------------------------------- the reports

    def _replicas_are_in(self, key: PairKey) -> None:
        """Go on to the report of this pair, and of those that have waited for it."""
        compare = self._campaign.config.compare
        for other, pair in self._campaign.pairs.items():
            waited = other == key or (key[0] == compare and other[1] == key[1])
            if waited and self._may_report(other):
                self._find_blame(other, pair)

    def _may_report(self, key: PairKey) -> bool:
        """Whether all replicas of the pair, and of the one it is compared with, are in."""
        compare = self._campaign.config.compare
        needed = [key] if compare is None else [key, (compare, key[1])]
        return (
            key not in self._rows
            and all(k in self._preparations and not self._missing(k) for k in needed)
            and not any(t.pair.key == key and t.kind == "blame" for t in self._tasks.values())
        )

    def _find_blame(self, key: PairKey, pair: Pair) -> None:
        lean = [Run(replace(run.result, traces={}, bonds={}), []) for run in self._runs(pair)]
        failed = any(run.result.failure is not None for run in lean)
        failed |= any(f["severity"] == "fail" for f in self._preparations[key]["findings"])
        if failed:
            self._submit(Task("blame", pair, self._preparations[key], runs=lean))
        else:
            self._report(key, None)

    def _report(self, key: PairKey, blame: Blame | None) -> None:
        pair, compare = self._campaign.pairs[key], self._campaign.config.compare
        comparison = None
        if compare is not None and compare != key[0]:
            other = self._campaign.pairs[compare, key[1]]
            comparison = self._put_together(other, self._runs(other)).for_comparison()
        runs = self._runs(pair)
        report = self._put_together(pair, runs, blame, comparison)
        save(report, runs, self._folder.of(key))
        self._rows[key] = row_of(*key, report.to_dict())
        self.summary()
        if self._reported is not None:
            self._reported(key, report)

    def _runs(self, pair: Pair) -> list[Run]:
        return self._journal.runs(*pair.key, pair.jobs)

    def _put_together(
        self,
        pair: Pair,
        runs: Sequence[Run],
        blame: Blame | None = None,
        comparison: Outcome | None = None,
    ) -> StabilityReport:
        model = pair.model
        return pair.trial().report(
            preparation_from_dict(self._preparations[pair.key]),
            runs,
            blame=blame,
            comparison=comparison,
            notes={"command": self._command, "model": model.path, "model_sha256": model.digest},
        )
