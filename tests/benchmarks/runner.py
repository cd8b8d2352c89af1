"""Runs the cases of a benchmark, one process a core, and keeps every result as a line of JSON."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def run_cases(
    name: str, run: Callable[[dict[str, Any]], dict[str, Any]], cases: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Run what is not done yet; give every result, each with its case, in the order of the cases.

    A killed run goes on where it was: results stand in `results/NAME.jsonl`, one line each with
    versions and wall time. Delete the file to start anew.
    """
    RESULTS.mkdir(exist_ok=True)
    journal = RESULTS / f"{name}.jsonl"
    lines = journal.read_text().splitlines() if journal.exists() else []
    done = {_key(r["case"]): r for r in map(json.loads, lines)}
    todo = [case for case in cases if _key(case) not in done]
    # Before torch is imported by the workers: one thread each, or they fight for the cores.
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    workers = max(1, min(len(todo), len(os.sched_getaffinity(0))))
    with context.Pool(workers) as pool, journal.open("a") as file:
        for k, result in enumerate(pool.imap_unordered(_Timed(run), todo)):
            done[_key(result["case"])] = result
            file.write(json.dumps(result) + "\n")
            file.flush()
            sys.stderr.write(f"{name}: {k + 1} of {len(todo)} done\n")
    return [done[_key(case)] for case in cases]


class _Timed:
    """Adds the case, the versions and the wall time to what a run gives."""

    def __init__(self, run: Callable[[dict[str, Any]], dict[str, Any]]):
        self.run = run

    def __call__(self, case: dict[str, Any]) -> dict[str, Any]:
        warnings.simplefilter("ignore")
        import torch

        from ase_ws._version import __version__

        torch.set_num_threads(1)
        start = time.perf_counter()
        found = self.run(case)
        versions = {"ase_ws": __version__, "torch": torch.__version__}
        return {
            "case": case,
            **found,
            "seconds": round(time.perf_counter() - start, 1),
            "versions": versions,
        }


def _key(case: dict[str, Any]) -> str:
    return json.dumps(case, sort_keys=True)
