"""Fluctuation of the conserved quantity: what a drift cannot show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from ase import Atoms

from ase_ws.md.observer import RunContext, Snapshot
from ase_ws.results.finding import Finding
from ase_ws.stability.checks.base import Check

#: Points that are needed to tell a fluctuation.
POINTS = 10


@dataclass
class FluctuationCheck(Check):
    r"""Fluctuation of the conserved quantity over that of the kinetic energy.

    .. math:: \sigma(H) / \sigma(K)

    with H the conserved quantity less its trend (which is the drift's business). Energies that
    jump or scatter while the forces know nothing of it do not heat a run, and so do not drift.
    For velocity Verlet and a vibration of angular frequency ω it is (ωΔt)²/8: 0.015 for an X–H
    stretch at 0.5 fs, 0.06 at 1 fs, 0.24 at 2 fs.

    Attributes
    ----------
    warn_at, fail_at : float
        Defaults 0.1 and 0.2. A fifth is the rule of thumb for a usable integration (van Gunsteren
        and Berendsen, Angew. Chem. Int. Ed. 29, 992, 1990); good potentials with a sensible time
        step were seen at 0.0015 to 0.035 (`tests/benchmarks/stability_cases.py`).
    skip : float
        Left out at the start, in fs. Default 200, as for the drift.
    least : float
        Data needed before judging, in fs. Default 300, as for the drift.
    """

    interval: int = 5
    warn_at: float = 0.1
    fail_at: float = 0.2
    skip: float = 200.0
    least: float = 300.0

    name: ClassVar[str] = "fluctuation"
    definition: ClassVar[str] = (
        "standard deviation of the conserved quantity, less its trend, over that of the kinetic "
        "energy; warns above {warn_at:g}, fails above {fail_at:g}"
    )
    unit: ClassVar[str] = "sigma_K"

    _points: list[tuple[float, float, float]] = field(init=False, default_factory=list, repr=False)
    _next: float = field(init=False, default=0.0, repr=False)

    def start(self, atoms: Atoms, context: RunContext) -> None:
        """Forget any earlier run."""
        super().start(atoms, context)
        self._points, self._next = [], self.skip + self.least
        self.note = f"needs {self._next / 1000.0:g} ps in one run"

    def check(self, snapshot: Snapshot) -> Sequence[Finding]:
        """Take one more point; judge when enough has come since the last time."""
        if snapshot.time >= self.skip - 1e-6:
            self._points.append((snapshot.time, snapshot.conserved, snapshot.kinetic_energy))
        last = snapshot.step >= self.context.steps
        due = last or snapshot.time >= self._next - 1e-6
        if not due or snapshot.time < self.skip + self.least - 1e-6:
            return []
        # Each look reads all points; a growing distance between looks keeps the total cheap.
        self._next = self.skip + 1.5 * (snapshot.time - self.skip)
        return super().check(snapshot)

    def measure(self, snapshot: Snapshot) -> np.ndarray:
        """Ratio over all points so far."""
        if len(self._points) < POINTS:
            return np.empty(0)
        self.note = ""
        time, conserved, kinetic = np.array(self._points).T
        time = time - time.mean()
        conserved = conserved - conserved.mean()
        rest = conserved - time * (time @ conserved) / (time @ time)
        # Where nothing moves there is nothing to compare with; the frozen check says so.
        # 1e-6 of the energy itself is rounding.
        still = kinetic.std() <= 1e-6 * abs(kinetic.mean())
        return np.empty(0) if still else np.array([rest.std() / kinetic.std()])

    def describe(self, snapshot: Snapshot, item: int, value: float) -> tuple[str, tuple[int, ...]]:
        """Say by how much."""
        message = (
            f"the conserved quantity fluctuates by {value:.2f} of the fluctuation of the kinetic "
            "energy: jumps or noise in the energy, or a time step that is too long"
        )
        return message, ()
