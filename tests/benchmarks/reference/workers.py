"""Tasks in one-core processes, whose finished results survive a kill at any moment."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from rich.progress import Progress

from ase_ws.errors import UserError
from ase_ws.jobs.journal import Journal
from ase_ws.jobs.pool import Call, Ended, InProcess, Lost, Processes

Key = TypeVar("Key", bound=Hashable)
# Read once, when a process starts or loads its numerical libraries.
_WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # glibc: keep freed memory instead of handing it back. Gradients allocate the same large
    # arrays again and again, and a third of their time went into mapping pages.
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
}


def run_tasks(
    function: Callable[..., Any],
    tasks: Mapping[str, tuple[Any, ...]],
    journal: Path,
    *,
    settings: str,
    workers: int,
    progress: Progress,
    description: str,
) -> dict[str, Any]:
    """Run `function(*arguments)` for every task that the journal does not hold yet.

    Each result is appended to the journal as it comes and synced to disk, so a run that was
    killed goes on where it was and loses the tasks in progress only.

    Parameters
    ----------
    function : callable
        At module level (it travels to other processes); returns something that JSON can hold.
    tasks : mapping of str to tuple
        Arguments under a key that names the task for good.
    journal : Path
        JSON lines: the settings, then one `{"key", "result"}` per finished task.
    settings : str
        What the results depend on; a journal of other settings is refused.
    workers : int
        Processes, one thread each.
    progress : Progress
        Gets a bar.
    description : str
        Of the bar.

    Returns
    -------
    dict of str to object
        Results in the order of `tasks`.
    """
    with Journal(journal, _index) as done:
        if not done.entries:
            done.append(json.dumps({"settings": settings}))
        if done.entries.get(None) != settings:
            raise UserError(
                f"{journal} holds results of other settings: give the settings it was started "
                "with, or another --work folder"
            )
        missing = {key: arguments for key, arguments in tasks.items() if key not in done}
        finished = len(tasks) - len(missing)
        bar = progress.add_task(description, total=len(tasks), completed=finished)
        pool = Processes(workers, _WORKER_ENVIRONMENT)
        for key, result in results(pool, function, missing, what=description):
            done.append(json.dumps({"key": key, "result": result}))
            progress.advance(bar)
        return {key: done.entries[key] for key in tasks}


def _index(record: dict[str, Any]) -> tuple[str | None, Any]:
    """Give key and result of a line; None and the settings for the first one."""
    return (None, record["settings"]) if "settings" in record else (record["key"], record["result"])


def results(
    pool: InProcess,
    function: Callable[..., Any],
    tasks: Mapping[Key, tuple[Any, ...]],
    *,
    what: str,
    until: float | None = None,
) -> Iterator[tuple[Key, Any]]:
    """Give key and `function(*arguments)` of each task as it is done, then close the pool.

    Parameters
    ----------
    pool : InProcess or Processes
    function : callable
        At module level, where it goes to other processes.
    tasks : mapping of hashable to tuple
        Arguments by key.
    what : str
        Is worked on, for the error.
    until : float, optional
        As of `time.monotonic`: what is not done then is given up.

    Raises
    ------
    UserError
        A worker was killed.
    Exception
        What a task has raised; the others are given up.
    """
    done: list[tuple[Any, Any]] = []

    def handle(key: Any, event: Ended | Lost) -> None:
        if isinstance(event, Lost):
            raise UserError(
                f"a worker of {what} was killed (out of memory?): what was done is on file, "
                "give the same command again"
            )
        done.append((key, event.result))

    for key, arguments in tasks.items():
        pool.add(Call(key, _silently, (function, arguments)))
    left = len(tasks)
    try:
        while left:
            timeout = None if until is None else until - time.monotonic()
            if timeout is not None and timeout <= 0:
                return
            pool.wait(handle, timeout)
            while done:
                left -= 1
                yield done.pop(0)
    finally:
        pool.close(lambda *_: None)


def _silently(function: Callable[..., Any], arguments: tuple[Any, ...], _: Any) -> Any:
    return function(*arguments)
