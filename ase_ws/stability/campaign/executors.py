"""What a campaign asks of whoever does the work, and what it hears back."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Any, NamedTuple, Protocol

from ase_ws.stability.campaign.units import PRIORITY, Replica, Steps, Task


class Ended(NamedTuple):
    """A unit is done; what `perform` returned."""

    result: Any


class Lost(NamedTuple):
    """A unit ended without an answer: its worker died."""

    reason: str


Event = Replica | Steps | Ended | Lost
#: Called as `handle(id of the task, event)`.
Handle = Callable[[str, Event], None]


class WorkerError(Exception):
    """A unit raised what nobody expected; the text is the worker's traceback."""


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
        UserError, WorkerError
            What a unit has raised.
        """
        ...

    def collect(self, handle: Handle) -> None:
        """Hand over what an earlier process, which has died, has left behind."""
        ...

    def close(self, handle: Handle) -> None:
        """Stop all work; hand over replicas that are on their way."""
        ...


class Waiting:
    """Units that wait for a worker; the most urgent first, then the oldest."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Task]] = []
        self._count = count()

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, task: Task) -> None:
        """Add a unit."""
        heappush(self._heap, (-PRIORITY[task.kind], next(self._count), task))

    def pop(self) -> Task:
        """Take the next unit."""
        return heappop(self._heap)[2]
