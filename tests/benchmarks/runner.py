"""Runs the cases of a benchmark, one process a core, and keeps every result as a line of JSON."""

from __future__ import annotations

import json
import multiprocessing
import os
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import TimeoutError as OutOfTime
from concurrent.futures import as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
Case = dict[str, Any]
#: For glibc: tensors of a few MB come and go at every step, and fetching their pages anew each time
#: costs up to a seventh of a step of direct forces with the gradient on aspirin.
KEEP_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "268435456",
}


def run_cases(
    name: str,
    run: Callable[[Case], dict[str, Any]],
    cases: Sequence[Case],
    *,
    until: float | None = None,
) -> list[dict[str, Any]]:
    """Run what is not done yet; give every result, each with its case, in the order of the cases.

    A killed run goes on where it was: results stand in `results/NAME.jsonl`, one line each with
    command, versions and wall time. Delete the file to start anew. A run that fails, or whose
    process is killed, ends the others; what was done stays. After `until` (as of
    `time.monotonic`) nothing more is begun and what is running is given up; what is missing then
    is missing in what comes back.
    """
    from reference.workers import one_core_pool

    from ase_ws.cli.progress import step_progress

    done = read_results(name)
    # The same case may belong to several questions.
    todo = list({_key(case): case for case in cases if _key(case) not in done}.values())
    if not todo:
        return [done[_key(case)] for case in cases]
    workers = max(1, min(len(todo), len(os.sched_getaffinity(0))))
    RESULTS.mkdir(exist_ok=True)
    with (
        one_core_pool(name, workers, {"OMP_NUM_THREADS": "1", **KEEP_MEMORY}) as pool,
        _journal(name).open("a") as file,
        step_progress(name) as report,
    ):
        futures = [pool.submit(_Timed(run), case) for case in todo]
        report(0, len(todo), "")
        left = None if until is None else max(0.0, until - time.monotonic())
        try:
            for k, future in enumerate(as_completed(futures, left)):
                result = future.result()
                done[_key(result["case"])] = result
                file.write(json.dumps(result) + "\n")
                file.flush()
                report(k + 1, len(todo), "")
        except BaseException as error:
            # End what is running, too: it may take an hour.
            for worker in multiprocessing.active_children():
                worker.terminate()
            time_is_over = until is not None and time.monotonic() >= until
            if not (isinstance(error, OutOfTime) and time_is_over):
                raise
    return [done[_key(case)] for case in cases if _key(case) in done]


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn what the user can mend into one line and exit code 2."""
    from ase_ws.errors import UserError

    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def read_results(name: str) -> dict[str, dict[str, Any]]:
    """Give what is on file, by case."""
    lines = _lines(RESULTS / f"{name}.jsonl")
    return {_key(r["case"]): r for r in map(json.loads, filter(_is_whole, lines))}


def _journal(name: str) -> Path:
    """Give the file to append to, rid of a line that was not written to its end."""
    from ase_ws.files.writing import write_text

    path = RESULTS / f"{name}.jsonl"
    lines = _lines(path)
    if not all(map(_is_whole, lines)):
        write_text(path, "".join(filter(_is_whole, lines)))
    return path


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines(keepends=True) if path.exists() else []


def _is_whole(line: str) -> bool:
    """Tell whether a line has its end; a kill may cut the last one, whose run is made again."""
    return line.endswith("\n")


class _Timed:
    """Adds the case, the command, the versions, the device and times to what a run gives."""

    def __init__(self, run: Callable[[Case], dict[str, Any]]):
        self.run = run
        script, *options = sys.argv
        path = Path(script).resolve()
        root = Path(__file__).parents[2].resolve()
        shown = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
        self.command = shlex.join(["python", shown.as_posix(), *options])

    def __call__(self, case: Case) -> dict[str, Any]:
        warnings.simplefilter("ignore")
        import torch

        from ase_ws._version import __version__

        torch.set_num_threads(1)
        start, worked = time.perf_counter(), time.process_time()
        found = self.run(case)
        return {
            "case": case,
            **found,
            "seconds": round(time.perf_counter() - start, 1),
            "cpu_seconds": round(time.process_time() - worked, 1),
            "versions": {"ase_ws": __version__, "torch": torch.__version__},
            "command": self.command,
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        }


def _key(case: Case) -> str:
    return json.dumps(case, sort_keys=True)
