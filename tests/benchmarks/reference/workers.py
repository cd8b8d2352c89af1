"""A pool of one-core processes whose finished results survive a kill at any moment."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from rich.progress import Progress

from ase_ws.errors import UserError

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
    results = _read(journal, settings)
    missing = [key for key in tasks if key not in results]
    bar = progress.add_task(description, total=len(tasks), completed=len(tasks) - len(missing))
    if missing:
        with (
            journal.open("a", encoding="utf-8") as file,
            one_core_pool(description, workers) as pool,
        ):
            futures = {pool.submit(function, *tasks[key]): key for key in missing}
            for future in as_completed(futures):
                key = futures[future]
                results[key] = future.result()
                _append(file, {"key": key, "result": results[key]})
                progress.advance(bar)
    return {key: results[key] for key in tasks}


def _read(journal: Path, settings: str) -> dict[str, Any]:
    """Read the finished results; start a journal that is absent, cut off a half-written line."""
    if not journal.exists():
        with journal.open("w", encoding="utf-8") as file:
            _append(file, {"settings": settings})
        return {}
    content = journal.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with journal.open("r+b") as file:
            file.truncate(len(whole))
    if not whole:
        journal.unlink()
        return _read(journal, settings)
    head, *lines = (json.loads(line) for line in whole.splitlines())
    if head.get("settings") != settings:
        raise UserError(
            f"{journal} holds results of other settings: give the settings it was started with, "
            "or another --work folder"
        )
    return {line["key"]: line["result"] for line in lines}


def _append(file: TextIO, record: dict[str, Any]) -> None:
    file.write(json.dumps(record) + "\n")
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def one_core_pool(
    what: str, workers: int, environment: Mapping[str, str] = _WORKER_ENVIRONMENT
) -> Iterator[ProcessPoolExecutor]:
    """Give processes of one thread each, which end with this one.

    An error, Ctrl-C among them, ends the block without working through the rest of the queue.

    Parameters
    ----------
    what : str
        Is worked on, for the error.
    workers : int
    environment : mapping of str to str
        Of the workers; the caller's is as before when the block is left.

    Raises
    ------
    UserError
        A worker was killed.
    """
    # Spawned, not forked: a fresh process reads its environment before it loads a library.
    context = multiprocessing.get_context("spawn")
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        with ProcessPoolExecutor(workers, context, initializer=_leave_with_parent) as pool:
            try:
                yield pool
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    except BrokenProcessPool:
        raise UserError(
            f"a worker of {what} was killed (out of memory?): what was done is on file, "
            "give the same command again"
        ) from None
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _leave_with_parent() -> None:
    """End this worker when its parent is gone: a killed parent cannot tell it to."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
