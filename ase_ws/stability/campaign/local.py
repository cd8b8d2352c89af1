"""Units of work on this machine: in this process, or in several of one thread each."""

from __future__ import annotations

from typing import Any

from ase_ws.devices import threads
from ase_ws.jobs import pool
from ase_ws.stability.campaign.executors import Handle
from ase_ws.stability.campaign.units import PRIORITY, DeliveryError, Emit, Task, perform


class InProcess(pool.InProcess):
    """Does one unit after the other in this very process."""

    note = ""

    def submit(self, task: Task) -> None:
        """See `Executor`."""
        self.add(pool.Call(task.id, _perform, (task,), PRIORITY[task.kind], task.name))

    def collect(self, handle: Handle) -> None:
        """Nothing outlives this process."""


class Processes(pool.Processes, InProcess):
    """Does units in processes of their own; `workers` is their number."""

    def __init__(self, workers: int):
        super().__init__(workers, preload=[__name__, "ase_ws.potentials.mace.model"])


def _perform(task: Task, emit: Emit) -> Any:
    try:
        with threads(1):
            return perform(task, emit)
    except DeliveryError as error:
        # Such as a journal that cannot be written: say that, not that it was on the way.
        raise error.__cause__ or error from None
