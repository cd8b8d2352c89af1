"""How far a campaign is: one count of evaluations before MD, then steps; and how long each took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from ase_ws.md.run import Progress
from ase_ws.stability.runs.prepare import RELAXING


class BeforeMD:
    """One count from the first step of the relaxation to the last static check.

    Parameters
    ----------
    progress : callable or None
        Called as `progress(evaluations_done, evaluations_expected, label)`.
    static : int
        Evaluations that the static checks take, about.
    """

    def __init__(self, progress: Progress | None, static: int):
        self._progress, self._static, self._relaxed = progress, static, 0

    def __call__(self, done: int, planned: int, label: str) -> None:
        """Pass on what relaxation or static checks say."""
        if self._progress is None:
            return
        if label == RELAXING:
            self._relaxed = done
            self._progress(done, planned + self._static, label)
        else:
            self._progress(self._relaxed + done, self._relaxed + planned, label)


class Clock:
    """Wall time of the parts of a campaign, in seconds."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._parts: dict[str, float] = {}

    @contextmanager
    def timing(self, part: str) -> Iterator[None]:
        """Time what is done meanwhile."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._parts[part] = time.perf_counter() - started

    def times(self) -> dict[str, float]:
        """Give all so far, in the terms of a report's provenance."""
        return {"wall_time_s": time.perf_counter() - self._started, **self._parts}
