"""How far a campaign is, on the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ase_ws.cli.output import err_console

if TYPE_CHECKING:
    from ase_ws.stability.campaign.progress import Standing, Watch


@contextmanager
def campaign_progress(*, quiet: bool = False) -> Iterator[Watch]:
    """Give a function that draws how far a campaign is on stderr; nothing when quiet."""
    if quiet:
        yield lambda standing: None
        return
    bar = Progress(
        SpinnerColumn(),
        BarColumn(),
        TextColumn("{task.fields[replicas]}"),
        TextColumn("{task.fields[failed]}"),
        TextColumn("{task.fields[speed]}", style="cyan"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        # On a narrow terminal the numbers matter more.
        *([TextColumn("{task.fields[doing]}", style="dim")] if err_console.width >= 100 else []),
        console=err_console,
    )
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

    try:
        yield watch
    finally:
        if bar.live.is_started:
            bar.stop()
