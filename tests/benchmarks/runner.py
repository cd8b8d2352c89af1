"""Runs the cases of a benchmark, one process a core, and keeps every result as a line of JSON."""

from __future__ import annotations

import json
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reference.workers import results

from ase_ws.jobs.journal import Journal, read_lines
from ase_ws.jobs.pool import InProcess, Processes, usable_cores

RESULTS = Path(__file__).parent / "results"
Case = dict[str, Any]
#: For glibc: tensors of a few MB come and go at every step, and fetching their pages anew each time
#: costs up to a seventh of a step of direct forces with the gradient on aspirin.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
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
    # Here: what only reads results needs no processes.
    from ase_ws.cli.progress import step_progress

    RESULTS.mkdir(exist_ok=True)
    with Journal(RESULTS / f"{name}.jsonl", _by_case) as journal:
        # The same case may belong to several questions.
        todo = {key: (case,) for case in cases if (key := _key(case)) not in journal}
        pool = Processes(max(1, min(len(todo), usable_cores())), ENVIRONMENT)
        if todo:
            with step_progress(name) as report:
                report(0, len(todo), "")
                found = results(pool, _Timed(run), todo, what=name, until=until)
                for k, (_, result) in enumerate(found):
                    journal.append(json.dumps(result))
                    report(k + 1, len(todo), "")
    done = read_results(name)
    return [done[key] for case in cases if (key := _key(case)) in done]


def run_named(
    run: Callable[[str], dict[str, Any]],
    names: Sequence[str],
    path: Path,
    *,
    field: str,
    version: str,
    workers: int,
    fresh: bool = False,
) -> dict[str, dict[str, Any]]:
    """Run what is not done for this version; give all of this version that is on file, by name.

    `run(name)` gives a record with the name in `field`; one worker works in this process. The
    journal at `path` holds the records of all versions, unless it is to be `fresh`.
    """
    path.parent.mkdir(exist_ok=True)
    with Journal(path, lambda r: ((r[field], r["version"]), r), fresh=fresh) as journal:
        todo = {name: (name,) for name in names if (name, version) not in journal}
        alone = workers == 1 or len(todo) < 2
        pool = InProcess() if alone else Processes(workers, {"OMP_NUM_THREADS": "1"})
        for name, result in results(pool, run, todo, what=path.stem):
            journal.append(json.dumps(result | {"version": version}))
            told = f"{result['verdict']}, " if "verdict" in result else ""
            print(f"{name}: {told}{result['seconds']} s", file=sys.stderr)
        return {name: r for (name, of), r in journal.entries.items() if of == version}


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
    path = RESULTS / f"{name}.jsonl"
    records = (line.record for line in read_lines(path)) if path.exists() else ()
    return dict(map(_by_case, records))


def _by_case(result: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return _key(result["case"]), result


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
