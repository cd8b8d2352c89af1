"""Calls in processes of their own, or in this one: messages on the way, a result at the end.

Why not Dask's `LocalCluster`: Dask is an extra, and several processes must work without it.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from heapq import heappop, heappush
from itertools import count
from multiprocessing import connection
from typing import Any, NamedTuple

from ase_ws.errors import UserError


class Call(NamedTuple):
    """`function(*arguments, emit)`, where `emit(message)` sends something on the way.

    Of those that wait, the one of the highest priority comes first, then the oldest. What goes
    to another process and what comes back must be picklable.
    """

    id: Any
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    priority: int = 0
    #: For messages.
    name: str = ""


class Ended(NamedTuple):
    """A call is done; what it returned."""

    result: Any


class Lost(NamedTuple):
    """A call ended without an answer: its worker died."""

    reason: str


class WorkerError(Exception):
    """A call has raised something in its worker; the text is the traceback there."""


#: Called as `handle(id of the call, event)`: a message, `Ended` or `Lost`.
Handle = Callable[[Any, Any], None]


class InProcess:
    """Makes one call after the other in this very process."""

    workers = 1

    def __init__(self) -> None:
        self._waiting: list[tuple[int, int, Call]] = []
        self._count = count()

    def add(self, call: Call) -> None:
        """Take a call; returns at once."""
        heappush(self._waiting, (-call.priority, next(self._count), call))

    def wait(self, handle: Handle, timeout: float | None = None) -> None:
        """Make the next call."""
        call = self._next()
        result = call.function(*call.arguments, lambda message: handle(call.id, message))
        handle(call.id, Ended(result))

    def close(self, handle: Handle) -> None:
        """Nothing to stop."""

    def _next(self) -> Call:
        return heappop(self._waiting)[2]


class _Raised(NamedTuple):
    """Message: a call has raised this."""

    error: Exception
    trace: str


class _Worker(NamedTuple):
    process: Any
    pipe: Any
    #: The call it is at, as the only item; empty where it waits for one.
    at: list[Call]


class Processes(InProcess):
    """Makes calls in processes of their own.

    Each worker has a pipe of its own, so that one that is killed in the middle of a message
    harms no other. Workers leave when their parent dies. Ctrl-C is the parent's: whoever waits
    gets it, and calls `close`.

    Parameters
    ----------
    workers : int
        Number of processes; they are started when there is work for them.
    environment : mapping of str to str, optional
        For fresh processes, which read it before they load a library. Default: workers are made
        by a server that has the libraries loaded, where there is one. (A plain fork would take
        along the state of torch's threads.)
    preload : sequence of str
        Modules for that server.
    """

    def __init__(
        self,
        workers: int,
        environment: Mapping[str, str] | None = None,
        preload: Sequence[str] = (),
    ):
        super().__init__()
        self.workers = workers
        self._environment = environment or {}
        self._crew: list[_Worker] = []
        served = environment is None and "forkserver" in multiprocessing.get_all_start_methods()
        self._context: Any = multiprocessing.get_context("forkserver" if served else "spawn")
        if served:
            self._context.set_forkserver_preload(list(preload))

    def wait(self, handle: Handle, timeout: float | None = None) -> None:
        """Hand over events, after waiting for one (or `timeout` seconds) where there is none.

        Raises
        ------
        Exception
            What a call has raised; its cause is a `WorkerError`.
        """
        self._hand_out()
        ready = connection.wait([worker.pipe for worker in self._crew if worker.at], timeout)
        for worker in [worker for worker in self._crew if worker.pipe in ready]:
            self._hear(worker, handle)

    def close(self, handle: Handle) -> None:
        """Stop all work; hand over what is on its way."""
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
            call = self._next()
            worker.at.append(call)
            # A worker that has died meanwhile is found out when its answer is waited for.
            with suppress(OSError):
                worker.pipe.send((call.function, call.arguments))

    def _hire(self) -> _Worker:
        pipe, far_end = self._context.Pipe()
        process = self._context.Process(
            target=_serve, args=(far_end,), daemon=True, name="ase-ws worker"
        )
        with _environment(self._environment):
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
        call = worker.at[0]
        if isinstance(message, _Raised):
            worker.at.clear()
            raise message.error from WorkerError(f"{call.name}\n{message.trace}")
        if isinstance(message, Ended):
            worker.at.clear()
        handle(call.id, message)

    def _bury(self, worker: _Worker, handle: Handle) -> None:
        self._crew.remove(worker)
        worker.pipe.close()
        worker.process.join(5.0)
        code = worker.process.exitcode
        how = "ended" if code is None or code >= 0 else f"was killed by signal {-code}"
        for call in worker.at:
            handle(call.id, Lost(f"worker process {worker.process.pid} {how}"))


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables inside the block."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            os.environ.pop(name)
        os.environ.update({name: before[name] for name in values if name in before})


# ------------------------------------------------------------------ in the worker


def _serve(pipe: Any) -> None:
    """Make calls until there is nobody left to make them for."""
    # Ctrl-C goes to the whole group of processes; the parent decides what to do.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Leave through the door, so that what libraries have taken from the system is given back.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    with suppress(EOFError, OSError):
        while True:
            function, arguments = pipe.recv()
            pipe.send(_answer(function, arguments, pipe.send))


def _answer(
    function: Callable[..., Any], arguments: tuple[Any, ...], emit: Callable[[Any], None]
) -> Ended | _Raised:
    try:
        return Ended(function(*arguments, emit))
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent has to hear of it
        return _Raised(_portable(error), traceback.format_exc())


def _portable(error: Exception) -> Exception:
    """Give the error where it survives the way, else what it says."""
    with suppress(Exception):
        return pickle.loads(pickle.dumps(error))
    told = "".join(traceback.format_exception_only(type(error), error)).strip()
    return UserError(str(error)) if isinstance(error, UserError) else WorkerError(told)


def _leave_with_parent() -> None:
    """Leave when the parent is gone: one that is killed cannot tell its workers to."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
