"""How far a campaign is, in numbers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ase_ws.stability.campaign.journal import Entry
from ase_ws.stability.campaign.units import Steps, Task


@dataclass
class Standing:
    """How far a campaign is.

    Attributes
    ----------
    ps : float
        Length of a replica.
    replicas : int
        To run, with those that have run.
    done, failed : int
        Those that have run, and those of them that failed.
    repeated : int
        Replicas that were handed over although the journal had them. Their results are dropped;
        above 0 only where two workers were at the same replica, as when a network came apart.
    simulated_ps : float
        By those that have run, in this session.
    working : dict
        The units at work: number of open replicas, and part that is done.
    doing : str
        What is being done or waits to be, where it is not replicas.
    """

    ps: float
    replicas: int = 0
    done: int = 0
    failed: int = 0
    repeated: int = 0
    simulated_ps: float = 0.0
    working: dict[str, tuple[int, float]] = field(default_factory=dict)
    doing: str = ""
    _began: float = field(default_factory=time.monotonic)

    def add(self, entry: Entry, *, now: bool = True) -> None:
        """Count a replica; `now` is False for one of an earlier session."""
        self.done += 1
        self.failed += entry.failed
        self.simulated_ps += entry.simulated_ps if now else 0.0

    def move(self, task: Task, steps: Steps, n_open: int) -> None:
        """Take note of how far a unit is."""
        if task.kind == "replicas":
            self.working[task.id] = (n_open, steps.done / max(steps.planned, 1))

    @property
    def live_ps(self) -> float:
        """Simulated so far by replicas that are still running."""
        return sum(n_open * part * self.ps for n_open, part in self.working.values())

    @property
    def part(self) -> float:
        """How much of all is done; a replica that failed is done as a whole."""
        if self.replicas == 0:
            return 1.0
        return min(1.0, (self.done + self.live_ps / self.ps) / self.replicas)

    @property
    def ps_per_s(self) -> float:
        """Simulated time of all replicas per second of this session."""
        seconds = time.monotonic() - self._began
        return (self.simulated_ps + self.live_ps) / seconds if seconds > 0 else 0.0


#: Called whenever something has moved.
Watch = Callable[[Standing], None]
