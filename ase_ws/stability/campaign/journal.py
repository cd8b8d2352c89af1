"""The journal: one line for each finished replica, on disk before anything else happens."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ase_ws.errors import UserError
from ase_ws.results.settings import Job
from ase_ws.stability.campaign.records import run_from_dict, run_to_dict
from ase_ws.stability.runs.replicas import Run

try:
    import fcntl
except ImportError:  # Windows: no lock there, so nothing keeps a second writer out
    fcntl = None

#: Model, structure, temperature (K), number of the replica.
ReplicaKey = tuple[str, str, float, int]


class Entry(NamedTuple):
    """Where a replica stands in the journal, and what is asked about it most."""

    offset: int
    length: int
    failed: bool
    simulated_ps: float


def journal_line(model: str, structure: str, run: Run) -> str:
    """Write a finished replica as one line of JSON, without the end of the line."""
    record = {"model": model, "structure": structure, **run_to_dict(run)}
    return json.dumps(record, allow_nan=False, separators=(",", ":"))


class Journal:
    """Append-only file of finished replicas, each flushed to the disk; one writer at a time.

    The operating system lifts the lock of a process that has died. A line that was cut off by
    such a death is dropped when the file is opened next.

    Parameters
    ----------
    path : Path
    fresh : bool
        Forget what is there.

    Raises
    ------
    UserError
        Another process is writing, or the file is damaged.
    """

    def __init__(self, path: Path, *, fresh: bool = False):
        self.path = path
        self.entries: dict[ReplicaKey, Entry] = {}
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            self._lock()
            if fresh:
                os.ftruncate(self._handle, 0)
            self._read()
        except BaseException:
            os.close(self._handle)
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up the lock."""
        os.close(self._handle)

    def __contains__(self, key: ReplicaKey) -> bool:
        return key in self.entries

    def append(self, line: str) -> Entry | None:
        """Take a line of `journal_line`; return None, and write nothing, where it is known.

        When this returns the line is on the disk.
        """
        key, failed, simulated = _facts(json.loads(line))
        if key in self.entries:
            return None
        data = line.encode() + b"\n"
        offset = os.fstat(self._handle).st_size
        written = os.write(self._handle, data)
        if written != len(data):
            raise OSError(f"{self.path}: the disk took {written} of {len(data)} bytes; is it full?")
        os.fsync(self._handle)
        self.entries[key] = Entry(offset, len(data), failed, simulated)
        return self.entries[key]

    def missing(self, model: str, structure: str, jobs: Sequence[Job]) -> list[Job]:
        """Those of the jobs that have not finished yet."""
        return [
            job
            for job in jobs
            if (model, structure, job.temperature, job.replica) not in self.entries
        ]

    def runs(self, model: str, structure: str, jobs: Sequence[Job]) -> list[Run]:
        """Read the finished ones of these jobs, in their order."""
        keys = [(model, structure, job.temperature, job.replica) for job in jobs]
        entries = [self.entries[key] for key in keys if key in self.entries]
        with self.path.open("rb") as file:
            runs = []
            for entry in entries:
                file.seek(entry.offset)
                runs.append(run_from_dict(json.loads(file.read(entry.length))))
        return runs

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"{self.path}: another process is running this campaign; wait for its end, or "
                "use another --out"
            ) from error

    def _read(self) -> None:
        offset = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    # The writer died in the middle of it: that replica has not finished.
                    os.ftruncate(self._handle, offset)
                    break
                try:
                    key, failed, simulated = _facts(json.loads(line))
                except (ValueError, KeyError, TypeError) as error:
                    raise UserError(
                        f"{self.path}, line {number}: not a line of a journal; mend or remove it, "
                        "or start anew with --overwrite"
                    ) from error
                self.entries.setdefault(key, Entry(offset, len(line), failed, simulated))
                offset += len(line)


def _facts(record: dict[str, Any]) -> tuple[ReplicaKey, bool, float]:
    replica = record["replica"]
    key = (
        str(record["model"]),
        str(record["structure"]),
        float(replica["temperature"]),
        int(replica["replica"]),
    )
    return key, replica["failure"] is not None, float(replica["simulated_ps"])
