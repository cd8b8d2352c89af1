"""Progress on long work, on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

#: Called as `report(done, total, text)`.
Report = Callable[[int, int, str], None]


@contextmanager
def step_progress(title: str, *, quiet: bool = False) -> Iterator[Report]:
    """Give a function (done, total, text) that draws a bar on stderr; nothing when quiet."""
    if quiet:
        yield lambda done, total, text: None
        return
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}", style="cyan"),
        console=Console(stderr=True),
    )
    task = bar.add_task(title, total=None, text="")

    def report(done: int, total: int, text: str) -> None:
        # Drawn from the first report on: a run that is refused leaves one line, the error.
        bar.start()
        bar.update(task, completed=done, total=total, text=text)

    try:
        yield report
        # What ended before its planned length has ended.
        bar.update(task, total=bar.tasks[task].completed, text="")
    finally:
        # Stopping a bar that never started prints an empty line where stderr is a file.
        if bar.live.is_started:
            bar.stop()
