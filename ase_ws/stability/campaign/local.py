"""Units of work on this machine: in this process, or in several of one thread each."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import traceback
from contextlib import suppress
from multiprocessing import connection
from typing import Any, NamedTuple

import torch

from ase_ws.devices import threads
from ase_ws.errors import UserError
from ase_ws.stability.campaign.executors import Ended, Handle, Lost, Waiting, WorkerError
from ase_ws.stability.campaign.units import DeliveryError, Message, Task, perform


class InProcess:
    """Does one unit after the other in this very process."""

    workers = 1
    note = ""

    def __init__(self) -> None:
        self._waiting = Waiting()

    def submit(self, task: Task) -> None:
        """See `Executor`."""
        self._waiting.push(task)

    def wait(self, handle: Handle) -> None:
        """Do the next unit."""
        task = self._waiting.pop()
        try:
            with threads(1):
                result = perform(task, lambda message: handle(task.id, message))
        except DeliveryError as error:
            # Such as a journal that cannot be written: say that, not that it was on the way.
            raise error.__cause__ or error from None
        handle(task.id, Ended(result))

    def collect(self, handle: Handle) -> None:
        """Nothing outlives this process."""

    def close(self, handle: Handle) -> None:
        """Nothing to stop."""


class _Broken(NamedTuple):
    """Message: a unit has raised this."""

    error: UserError | None
    trace: str


class _Worker(NamedTuple):
    process: Any
    pipe: Any
    #: The unit it is at, as the only item; empty where it waits for one.
    at: list[Task]


class Processes:
    """Does units in processes of their own, each with one torch thread.

    Each worker has a pipe of its own, so that one that is killed in the middle of a message
    harms no other. A worker whose parent has died ends with its next message.

    Parameters
    ----------
    workers : int
        Number of processes; they are started when there is work for them.
    """

    note = ""

    def __init__(self, workers: int):
        self.workers = workers
        self._waiting = Waiting()
        self._crew: list[_Worker] = []
        # A server that has the libraries loaded and makes workers in a moment, where there is
        # one: a plain fork would take along the state of torch's threads.
        known = multiprocessing.get_all_start_methods()
        self._context: Any = multiprocessing.get_context(
            "forkserver" if "forkserver" in known else "spawn"
        )
        if "forkserver" in known:
            self._context.set_forkserver_preload(
                ["ase_ws.stability.campaign.local", "ase_ws.potentials.mace.model"]
            )

    def submit(self, task: Task) -> None:
        """See `Executor`."""
        self._waiting.push(task)

    def wait(self, handle: Handle) -> None:
        """See `Executor`."""
        self._hand_out()
        ready = connection.wait([worker.pipe for worker in self._crew if worker.at])
        for worker in [worker for worker in self._crew if worker.pipe in ready]:
            self._hear(worker, handle)

    def collect(self, handle: Handle) -> None:
        """Nothing outlives the parent."""

    def close(self, handle: Handle) -> None:
        """See `Executor`."""
        for worker in list(self._crew):
            # Ctrl-C may have come in the middle of a message: the rest of it makes no sense.
            with suppress(Exception):
                while worker.at and worker.pipe.poll():
                    self._hear(worker, handle)
        for worker in self._crew:
            # One that waits for work leaves when its pipe is closed.
            worker.pipe.close()
            if worker.at:
                worker.process.terminate()
        for worker in self._crew:
            worker.process.join(5.0)
            worker.process.kill()
        self._crew.clear()

    def _hand_out(self) -> None:
        while self._waiting:
            free = next((worker for worker in self._crew if not worker.at), None)
            if free is None and len(self._crew) >= self.workers:
                return
            worker = free or self._hire()
            task = self._waiting.pop()
            worker.at.append(task)
            # A worker that has died meanwhile is found out when its answer is waited for.
            with suppress(OSError):
                worker.pipe.send(task)

    def _hire(self) -> _Worker:
        pipe, far_end = self._context.Pipe()
        process = self._context.Process(
            target=_serve, args=(far_end,), daemon=True, name="ase-ws campaign worker"
        )
        process.start()
        # Only the worker may hold its end: else its death would not close the pipe.
        far_end.close()
        worker = _Worker(process, pipe, [])
        self._crew.append(worker)
        return worker

    def _hear(self, worker: _Worker, handle: Handle) -> None:
        try:
            message = worker.pipe.recv()
        except (EOFError, OSError):
            self._bury(worker, handle)
            return
        task = worker.at[0]
        if isinstance(message, _Broken):
            raise message.error or WorkerError(f"{task.name}:\n{message.trace}")
        if isinstance(message, Ended):
            worker.at.clear()
        handle(task.id, message)

    def _bury(self, worker: _Worker, handle: Handle) -> None:
        self._crew.remove(worker)
        worker.pipe.close()
        worker.process.join(5.0)
        code = worker.process.exitcode
        how = "ended" if code is None or code >= 0 else f"was killed by signal {-code}"
        for task in worker.at:
            handle(task.id, Lost(f"worker process {worker.process.pid} {how}"))


def _serve(pipe: Any) -> None:
    """Do units until there is nobody left to do them for."""
    # Ctrl-C goes to the whole group of processes; the parent decides what to do.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Leave through the door, so that what libraries have taken from the system is given back.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    torch.set_num_threads(1)
    with suppress(EOFError, OSError, DeliveryError):
        while True:
            task = pipe.recv()
            pipe.send(_answer(task, pipe))


def _answer(task: Task, pipe: Any) -> Ended | _Broken:
    def emit(message: Message) -> None:
        pipe.send(message)

    try:
        return Ended(perform(task, emit))
    except DeliveryError:
        raise
    except UserError as error:
        return _Broken(UserError(str(error)), "")
    except Exception:  # noqa: BLE001 - whatever it is, the parent has to hear of it
        return _Broken(None, traceback.format_exc())


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
