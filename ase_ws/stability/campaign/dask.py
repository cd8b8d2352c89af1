"""Units of work on a Dask cluster; the only file that knows Dask.

Finished replicas go through a queue that the scheduler holds. A worker hears from the scheduler
that it has a replica before it goes on, so what was handed over outlives the worker, and what a
client that has died did not fetch waits there for the next one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

from distributed import CancelledError, Client, Event, Future, KilledWorker, Queue, get_client

from ase_ws.devices import threads
from ase_ws.errors import UserError
from ase_ws.jobs.pool import Ended, Lost, WorkerError
from ase_ws.stability.campaign.executors import Handle
from ase_ws.stability.campaign.units import (
    PRIORITY,
    DeliveryError,
    Message,
    Replica,
    Steps,
    Task,
    perform,
)

#: Seconds between two looks at the queue.
LOOK_EVERY = 0.1
#: Seconds between two looks whether there is any worker, while nothing comes.
LOOK_FOR_WORKERS_EVERY = 2.0
#: Units are made for this many workers at least: a cluster may grow after the start.
FEW = 8
#: Seconds for which units of a client that has died are waited for.
PATIENCE = 60.0

#: What Dask raises where the scheduler is out of reach (Python 3.10 has two kinds of timeout).
_GONE = (OSError, TimeoutError, asyncio.TimeoutError)


class DaskCluster:
    """Does units as tasks of a Dask scheduler.

    Workers read the model from the path it has here, so the file system must be shared (its
    SHA-256 is compared); structures and settings are sent to them.

    Dask runs the tasks of a worker that has died again by itself. Such a rerun would repeat
    replicas, so the first run of a task puts up a flag, which stays up for the whole session, and
    any later one ends at once as lost; the client then hands out what is missing as a new task.

    Parameters
    ----------
    address : str
        Of the scheduler, such as "tcp://10.0.0.1:8786".
    campaign : str
        Id of the campaign; no other one on this scheduler may have it.

    Raises
    ------
    UserError
        There is no scheduler.
    """

    def __init__(self, address: str, campaign: str):
        self._address, self._campaign = address, campaign
        self._owner = uuid4().hex
        self._running: dict[str, tuple[Task, Future]] = {}
        self._flags: list[str] = []
        self.note, self._looked = "", 0.0
        try:
            # Any: Dask's types do not know that these are not coroutines here.
            self._client: Any = Client(address, timeout=20, set_as_default=False)
        except (ValueError, *_GONE) as error:
            detail = " ".join(str(error).split())
            raise UserError(
                f"--scheduler {address}: no Dask scheduler answers there ({detail:.120}); start "
                "one with 'dask scheduler'"
            ) from error
        self._queue: Any = Queue(_queue_name(campaign), client=self._client)
        self.workers = max(FEW, sum(self._client.nthreads().values()))

    def submit(self, task: Task) -> None:
        """See `Executor`."""
        future = self._client.submit(
            _perform,
            task,
            self._campaign,
            self._owner,
            key=_flag(task.id),
            pure=False,
            retries=0,
            priority=PRIORITY[task.kind],
        )
        self._running[task.id] = (task, future)
        if task.kind == "replicas":
            self._flags.append(_flag(task.id))

    def wait(self, handle: Handle) -> None:
        """See `Executor`."""
        # In this order: what a unit has handed over is there before the unit is done.
        done = [task for task, future in self._running.values() if future.done()]
        heard = self._drain(handle)
        for task in done:
            handle(task.id, self._outcome(task))
        if not done and not heard:
            time.sleep(LOOK_EVERY)
            self._look_for_workers()

    def collect(self, handle: Handle) -> None:
        """See `Executor`."""
        with self._connected():
            self._client.run(_take_over, self._campaign, self._owner, on_error="ignore")
        self._drain(handle)

    def close(self, handle: Handle) -> None:
        """See `Executor`."""
        with suppress(CancelledError, UserError, *_GONE):
            if self._running:
                self._client.cancel([future for _, future in self._running.values()])
                self._client.run(_take_over, self._campaign, "nobody", on_error="ignore")
            self._drain(handle)
            # Not before: as long as Dask knows of a task it may run it again, even one that is
            # done, where its result has died with the worker that held it.
            for flag in self._flags:
                Event(flag, client=self._client).clear()
            self._queue.close()
        self._client.close()

    def _look_for_workers(self) -> None:
        now = time.monotonic()
        if now - self._looked >= LOOK_FOR_WORKERS_EVERY:
            self._looked = now
            with self._connected():
                self.note = "" if self._client.nthreads() else "no workers at the scheduler"

    def _drain(self, handle: Handle) -> bool:
        with self._connected():
            items = self._queue.get(batch=True)
        for task_id, kind, *values in items:
            handle(task_id, Replica(*values) if kind == "replica" else Steps(*values))
        return bool(items)

    def _outcome(self, task: Task) -> Ended | Lost:
        _, future = self._running.pop(task.id)
        with self._connected():
            if future.cancelled():
                return Lost("Dask has cancelled it")
            error: Any = future.exception()
            if error is None:
                result = future.result()
                return result if isinstance(result, Lost) else Ended(result)
        if isinstance(error, UserError):
            raise error
        if isinstance(error, KilledWorker | DeliveryError):
            return Lost(f"{type(error).__name__}: {error}")
        raise WorkerError(f"{task.name}: {type(error).__name__}: {error}") from error

    @contextmanager
    def _connected(self) -> Iterator[None]:
        try:
            yield
        except _GONE as error:
            raise UserError(
                f"--scheduler {self._address}: the Dask scheduler does not answer any more; what "
                "has finished is kept, go on with --resume when it is back"
            ) from error


def _queue_name(campaign: str) -> str:
    return f"ase-ws-{campaign}"


def _flag(task_id: str) -> str:
    return f"ase-ws-unit-{task_id}"


# ------------------------------------------------------------------ in the worker

#: Who may have units done here, by campaign.
_owners: dict[str, str] = {}
#: Units that are being done here: campaign, owner, id.
_active: set[tuple[str, str, str]] = set()


async def _take_over(campaign: str, owner: str) -> None:
    """Have no units of this campaign done here but those of one owner, and wait till it is so.

    When a client dies, Dask forgets its tasks but does not stop them.
    """
    _owners[campaign] = owner
    for _ in range(int(PATIENCE / 0.05)):
        if not any(unit[0] == campaign and unit[1] != owner for unit in _active):
            return
        await asyncio.sleep(0.05)


def _perform(task: Task, campaign: str, owner: str) -> Any:
    client = get_client()
    if task.kind == "replicas":
        flag = Event(_flag(task.id), client=client)
        if flag.is_set():
            return Lost("the worker died")
        flag.set()
    queue = Queue(_queue_name(campaign), client=client)

    def emit(message: Message) -> None:
        if _owners.setdefault(campaign, owner) != owner:
            raise DeliveryError("another client has taken over")
        kind = "replica" if isinstance(message, Replica) else "steps"
        queue.put([task.id, kind, *message])

    unit = (campaign, owner, task.id)
    _active.add(unit)
    try:
        with threads(1):
            return perform(task, emit)
    finally:
        _active.discard(unit)
