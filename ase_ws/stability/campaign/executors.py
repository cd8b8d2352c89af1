"""What a campaign asks of whoever does the work, and what it hears back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ase_ws.jobs.pool import Ended, Lost
from ase_ws.stability.campaign.units import Replica, Steps, Task

Event = Replica | Steps | Ended | Lost
#: Called as `handle(id of the task, event)`.
Handle = Callable[[str, Event], None]


class Executor(Protocol):
    """Does units of work in some order, by priority.

    Attributes
    ----------
    workers : int
        Units that it does at a time.
    note : str
        Why nothing moves, where that is known; else "".
    """

    workers: int
    note: str

    def submit(self, task: Task) -> None:
        """Take a unit; returns at once."""
        ...

    def wait(self, handle: Handle) -> None:
        """Hand over events, after waiting for one where there is none; may return with none.

        Raises
        ------
        Exception
            What a unit has raised.
        """
        ...

    def collect(self, handle: Handle) -> None:
        """Hand over what an earlier process, which has died, has left behind."""
        ...

    def close(self, handle: Handle) -> None:
        """Stop all work; hand over replicas that are on their way."""
        ...
