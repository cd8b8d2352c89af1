"""How far a stability run is, on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ase_ws.cli.output import err_console, plain

#: Gets (done, planned, label).
Report = Callable[[int, int, str], None]


@contextmanager
def stability_progress(*, quiet: bool = False) -> Iterator[tuple[Report, Callable[[str], None]]]:
    """Give a function that draws, and one that prints a line; on stderr, nothing when quiet.

    Evaluations before MD have a bar of their own, and so have the steps of MD and of reruns.
    """
    if quiet:
        yield lambda done, planned, label: None, lambda line: None
        return
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        # What comes last is cut off on a narrow terminal.
        TextColumn("{task.fields[label]}", style="cyan"),
        console=err_console,
    )
    tasks: dict[str, TaskID] = {}

    def report(done: int, planned: int, label: str) -> None:
        # Drawn from the first report on: a run that is refused leaves one line, the error.
        bar.start()
        name = _bar(label)
        if name not in tasks:
            _finish(bar)
            tasks[name] = bar.add_task(name, total=planned, label="")
        bar.update(tasks[name], completed=done, total=planned, label=plain(label))

    def tell(line: str) -> None:
        err_console.print(line, markup=False, highlight=False, soft_wrap=True)

    try:
        yield report, tell
        _finish(bar)
    finally:
        # Stopping a bar that never started prints an empty line where stderr is a file.
        if bar.live.is_started:
            bar.stop()


def _finish(bar: Progress) -> None:
    """Fill the bars: what ended before its planned length has ended."""
    for task in bar.tasks:
        bar.update(task.id, total=task.completed, label="")


def _bar(label: str) -> str:
    """Say to which bar something belongs."""
    if label.startswith("blame: "):
        return "reruns"
    return "before MD" if label in _looks() else "MD"


@cache
def _looks() -> set[str]:
    """Labels of what is done before MD."""
    from ase_ws.stability.runs.relax import RELAXING
    from ase_ws.stability.static import default_static_checks

    return {RELAXING, "done", *(check.name for check in default_static_checks())}
