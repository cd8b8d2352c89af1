"""An append-only file of JSON lines, each on the disk before anything else happens."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Hashable, Iterable, Iterator
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from typing_extensions import Self

from ase_ws.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: no lock there, so nothing keeps a second writer out
    fcntl = None

Key = TypeVar("Key", bound=Hashable)
Fact = TypeVar("Fact")


class Line(NamedTuple):
    """Where a line stands in its file, in bytes, and what it says."""

    offset: int
    length: int
    record: dict[str, Any]


def read_lines(path: Path, remedy: str = "mend or remove it") -> Iterator[Line]:
    """Give the lines of a journal; one that was cut off at the end is none.

    Raises
    ------
    UserError
        A line is no JSON object; `remedy` is the end of the message.
    """
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                record = json.loads(line)
            except ValueError as error:
                raise _damaged(path, number, remedy) from error
            if not isinstance(record, dict):
                raise _damaged(path, number, remedy)
            yield Line(offset, len(line), record)
            offset += len(line)


class Journal(Generic[Key, Fact]):
    """Journal with one writer at a time.

    The operating system lifts the lock of a process that has died. A line that was cut off by
    such a death is dropped when the file is opened next.

    Parameters
    ----------
    path : Path
    index : callable
        Gives the key of a record, and what of it is kept in memory (see `entries`). The first
        line of a key counts.
    fresh : bool
        Forget what is there.
    busy, remedy : str
        Ends of the messages for a file that another process writes, and for a damaged one.

    Attributes
    ----------
    entries : dict
        What `index` gave, by key, in the order of the file.

    Raises
    ------
    UserError
        Another process is writing, or the file is damaged.
    """

    def __init__(
        self,
        path: Path,
        index: Callable[[dict[str, Any]], tuple[Key, Fact]],
        *,
        fresh: bool = False,
        busy: str = "another process is writing it; wait for its end",
        remedy: str = "mend or remove it",
    ):
        self.path = path
        self.entries: dict[Key, Fact] = {}
        self._index = index
        self._places: dict[Key, tuple[int, int]] = {}
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            self._lock(busy)
            if fresh:
                os.ftruncate(self._handle, 0)
            self._load(remedy)
        except BaseException:
            os.close(self._handle)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up the lock."""
        os.close(self._handle)

    def __contains__(self, key: Key) -> bool:
        return key in self.entries

    def append(self, line: str) -> Fact | None:
        """Take a line of JSON, without its end; return what is kept of it.

        When this returns the line is on the disk. None, and nothing is written, where the key
        is known.
        """
        key, fact = self._index(json.loads(line))
        if key in self.entries:
            return None
        data = line.encode() + b"\n"
        offset = os.fstat(self._handle).st_size
        written = os.write(self._handle, data)
        if written != len(data):
            raise OSError(f"{self.path}: the disk took {written} of {len(data)} bytes; is it full?")
        os.fsync(self._handle)
        self.entries[key], self._places[key] = fact, (offset, len(data))
        return fact

    def records(self, keys: Iterable[Key]) -> list[dict[str, Any]]:
        """Read the records of these keys from the file; those that are not there are left out."""
        found = []
        with self.path.open("rb") as file:
            for offset, length in (self._places[key] for key in keys if key in self._places):
                file.seek(offset)
                found.append(json.loads(file.read(length)))
        return found

    def _lock(self, busy: str) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"{self.path}: {busy}") from error

    def _load(self, remedy: str) -> None:
        end = 0
        for number, line in enumerate(read_lines(self.path, remedy), start=1):
            try:
                key, fact = self._index(line.record)
            except (ValueError, KeyError, TypeError) as error:
                raise _damaged(self.path, number, remedy) from error
            end = line.offset + line.length
            if key not in self.entries:
                self.entries[key], self._places[key] = fact, (line.offset, line.length)
        # The rest is of a writer that died in the middle of a line.
        os.ftruncate(self._handle, end)


def _damaged(path: Path, number: int, remedy: str) -> UserError:
    return UserError(f"{path}, line {number}: not a line of a journal; {remedy}")
