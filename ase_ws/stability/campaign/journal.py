"""The journal: one line for each finished replica, on disk before anything else happens."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ase_ws.jobs import journal
from ase_ws.results.settings import Job
from ase_ws.stability.campaign.records import run_from_dict, run_to_dict
from ase_ws.stability.runs.replicas import Run

#: Model, structure, temperature (K), number of the replica.
ReplicaKey = tuple[str, str, float, int]


class Entry(NamedTuple):
    """What is asked about a replica most."""

    failed: bool
    simulated_ps: float


def journal_line(model: str, structure: str, run: Run) -> str:
    """Write a finished replica as one line of JSON, without the end of the line."""
    record = {"model": model, "structure": structure, **run_to_dict(run)}
    return json.dumps(record, allow_nan=False, separators=(",", ":"))


class Journal(journal.Journal[ReplicaKey, Entry]):
    """Finished replicas of a campaign; `fresh` forgets what is there."""

    def __init__(self, path: Path, *, fresh: bool = False):
        super().__init__(
            path,
            _entry,
            fresh=fresh,
            busy="another process is running this campaign; wait for its end, or use another --out",
            remedy="mend or remove it, or start anew with --overwrite",
        )

    def missing(self, model: str, structure: str, jobs: Sequence[Job]) -> list[Job]:
        """Those of the jobs that have not finished yet."""
        keys = _keys(model, structure, jobs)
        return [job for job, key in zip(jobs, keys, strict=True) if key not in self]

    def runs(self, model: str, structure: str, jobs: Sequence[Job]) -> list[Run]:
        """Read the finished ones of these jobs, in their order."""
        return [run_from_dict(record) for record in self.records(_keys(model, structure, jobs))]


def _keys(model: str, structure: str, jobs: Iterable[Job]) -> list[ReplicaKey]:
    return [(model, structure, job.temperature, job.replica) for job in jobs]


def _entry(record: dict[str, Any]) -> tuple[ReplicaKey, Entry]:
    replica = record["replica"]
    key = (
        str(record["model"]),
        str(record["structure"]),
        float(replica["temperature"]),
        int(replica["replica"]),
    )
    return key, Entry(replica["failure"] is not None, float(replica["simulated_ps"]))
