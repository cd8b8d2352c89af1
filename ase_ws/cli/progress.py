"""How far long work is, on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ase_ws.cli.output import err_console

if TYPE_CHECKING:
    from ase_ws.stability.campaign.progress import Standing, Watch


Report = Callable[[float, int, str], None]


@contextmanager
def step_progress(title: str | Callable[[str], str], *, quiet: bool = False) -> Iterator[Report]:
    """Give a function (done, total, text) that draws a bar on stderr; nothing when quiet.

    `title` is the name of the bar, or says to which bar a text belongs.
    """
    if quiet:
        yield lambda done, total, text: None
        return
    tasks: dict[str, TaskID] = {}
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=16), MofNCompleteColumn())
    # What comes last is cut off on a narrow terminal.
    last = TextColumn("{task.fields[text]}", style="cyan", markup=False)
    with _drawn(columns, [last]) as bar:

        def report(done: float, total: int, text: str) -> None:
            bar.start()
            name = title if isinstance(title, str) else title(text)
            if name not in tasks:
                _fill(bar)
                tasks[name] = bar.add_task(name, total=total, text="")
            bar.update(tasks[name], completed=done, total=total, text=text)

        yield report


def stability_stage(label: str) -> str:
    """Say to which bar a label of `check_stability` belongs: each stage has one of its own."""
    if label.startswith("blame: "):
        return "reruns"
    return "before MD" if label in _before_md() else "MD"


@cache
def _before_md() -> set[str]:
    from ase_ws.stability.runs.prepare import RELAXING
    from ase_ws.stability.static import default_static_checks

    return {RELAXING, "done", *(check.name for check in default_static_checks())}


@contextmanager
def campaign_progress(*, quiet: bool = False) -> Iterator[Watch]:
    """Give a function that draws how far a campaign is on stderr; nothing when quiet."""
    if quiet:
        yield lambda standing: None
        return
    columns = (
        BarColumn(),
        TextColumn("{task.fields[replicas]}"),
        TextColumn("{task.fields[failed]}"),
        TextColumn("{task.fields[speed]}", style="cyan"),
    )
    # On a narrow terminal the numbers matter more.
    wide = [TextColumn("{task.fields[doing]}", style="dim")] if err_console.width >= 100 else []
    with _drawn(columns, wide) as bar:
        task = bar.add_task("campaign", total=1.0, replicas="", failed="", speed="", doing="")

        def watch(standing: Standing) -> None:
            bar.start()
            colour = "red" if standing.failed else "green"
            bar.update(
                task,
                completed=standing.part,
                replicas=f"{standing.done} of {standing.replicas} replicas",
                failed=f"[{colour}]{standing.failed} failed[/]",
                speed=f"{standing.ps_per_s:.3g} ps/s",
                doing=standing.doing,
            )

        yield watch


@contextmanager
def _drawn(columns: Sequence[ProgressColumn], last: Sequence[ProgressColumn]) -> Iterator[Progress]:
    """Give bars that are to be started with the first report: a refused run leaves one line."""
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    bar = Progress(SpinnerColumn(), *columns, *times, *last, console=err_console)
    try:
        yield bar
        _fill(bar)
    finally:
        # Stopping a bar that never started prints an empty line where stderr is a file.
        if bar.live.is_started:
            bar.stop()


def _fill(bar: Progress) -> None:
    """Fill the bars: what ended before its planned length has ended."""
    for task in bar.tasks:
        bar.update(task.id, total=task.completed, text="")
