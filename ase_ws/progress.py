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
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}", style="cyan"),
        console=Console(stderr=True),
    ) as bar:
        task = bar.add_task(title, total=None, text="")
        yield lambda done, total, text: bar.update(task, completed=done, total=total, text=text)
