"""Checks of numbers of the whole system: finite, temperature, frozen, force, energy, cell."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
from ase import Atoms, units

from ase_ws.md.finite_guard import FiniteGuard
from ase_ws.md.observer import RunContext, Snapshot, label_atoms
from ase_ws.results.finding import Finding
from ase_ws.stability.checks.base import Check
from ase_ws.stability.checks.geometry import NON_METALS, Topology


@dataclass
class FiniteCheck(FiniteGuard, Check):
    """Energy, forces, stress, positions, momenta and cell are finite numbers; every step.

    The test itself is the runner's own `FiniteGuard`: there is no second definition.

    Attributes
    ----------
    interval : int
        Default 1: NaN spreads within a step, and the look costs microseconds.
    """

    interval: int = 1
    name: ClassVar[str] = "finite"
    definition: ClassVar[str] = (
        "energy, forces, stress, positions, momenta and cell hold no NaN or infinity"
    )

    def start(self, atoms: Atoms, context: RunContext) -> None:
        """Forget any earlier run."""
        Check.start(self, atoms, context)

    def check(self, snapshot: Snapshot) -> Sequence[Finding]:
        """Look at every number."""
        findings = FiniteGuard.check(self, snapshot)
        self.status = "failed" if findings else "passed"
        return findings


@dataclass
class TemperatureCheck(Check):
    """Kinetic temperature T = 2K/(n_dof k_B) explodes or stays hot.

    Attributes
    ----------
    explosion : float
        Fails at once above set + this, in K. Default 10,000 K: k_B T is then 0.86 eV, and no
        bond holds for long. Chosen: no MD of condensed matter or molecules is meant to go there.
    repeat : float
        Fails when hot for this long, in fs. Default 20: two periods of an X–H stretch, so that a
        single swing of a small molecule does not count. Hot is above
        max(3, 1 + 10 √(2/n_dof)) × set: the canonical ensemble has σ_T/T = √(2/n_dof), so 10 σ,
        and never below three times set.
    """

    explosion: float = 10_000.0
    repeat: float = 20.0

    name: ClassVar[str] = "temperature"
    definition: ClassVar[str] = (
        "T = 2K/(n_dof k_B); fails above set + {explosion:,.0f} K, or above max(3, 1 + 10 "
        "√(2/n_dof)) × set for {repeat:g} fs"
    )
    unit: ClassVar[str] = "K"

    @property
    def fail_limit(self) -> float:
        """Hot above this temperature in K."""
        factor = max(3.0, 1.0 + 10.0 * np.sqrt(2.0 / self.context.n_dof))
        return factor * self.context.temperature

    def measure(self, snapshot: Snapshot) -> np.ndarray:
        """Temperature in K."""
        return np.array([snapshot.temperature])

    def describe(self, snapshot: Snapshot, item: int, value: float) -> tuple[str, tuple[int, ...]]:
        """Say how hot."""
        return f"temperature is {value:.0f} K, set is {self.context.temperature:.0f} K", ()

    def check(self, snapshot: Snapshot) -> Sequence[Finding]:
        """Look for heat that stays, then for an explosion."""
        findings = super().check(snapshot)
        limit = self.context.temperature + self.explosion
        if findings or not self.beyond(snapshot.temperature, limit):
            return findings
        finding = self.finding("fail", snapshot, 0, snapshot.temperature)
        return [replace(finding, threshold=limit)]


@dataclass
class FrozenCheck(Check):
    """Mean kinetic temperature of the last while, over the set one: something must move.

    It only warns: nothing broke, but a run without motion is no evidence of stability either.

    Attributes
    ----------
    warn_at : float
        Default 0.1: a relaxed structure that shares its kinetic energy with the potential still
        has 0.5.
    window : float
        Mean over this time, in fs. Default 500: five time constants of the thermostat.
    """

    warn_at: float = 0.1
    window: float = 500.0

    name: ClassVar[str] = "frozen"
    definition: ClassVar[str] = "mean T of {window:g} fs over the set T; warns below {warn_at:g}"
    unit: ClassVar[str] = "T/T_set"
    lower_is_worse: ClassVar[bool] = True

    _recent: deque[tuple[float, float]] = field(init=False, default_factory=deque, repr=False)

    def start(self, atoms: Atoms, context: RunContext) -> None:
        """Forget any earlier run."""
        super().start(atoms, context)
        self._recent = deque()
        self.note = f"needs {self.window / 1000.0:g} ps in one run"

    def measure(self, snapshot: Snapshot) -> np.ndarray:
        """Mean over the window; nothing before it is full."""
        self._recent.append((snapshot.time, snapshot.temperature))
        # The small allowance is for rounding in step × timestep.
        if snapshot.time - self._recent[0][0] < self.window - 1e-6:
            return np.empty(0)
        self.note = ""
        mean = np.mean([temperature for _, temperature in self._recent])
        self._recent.popleft()
        return np.array([mean / self.context.temperature])

    def describe(self, snapshot: Snapshot, item: int, value: float) -> tuple[str, tuple[int, ...]]:
        """Say how cold."""
        kelvin = value * self.context.temperature
        message = (
            f"the mean temperature of the last {self.window:.0f} fs is {kelvin:.0f} K, "
            f"set is {self.context.temperature:.0f} K: nothing moves"
        )
        return message, ()


@dataclass
class ForceCheck(Check):
    """Largest force on an atom, max |F_i|.

    Attributes
    ----------
    warn_at : float
        In eV/Å. Default 30: a C–C bond breaks under a steady pull of 3 to 4 eV/Å, and the
        swing of an X–H stretch at 1,000 K reaches about 10: five times √(k k_B T), 2 eV/Å with
        k = 50 eV/Å².
    fail_at : float
        In eV/Å. Default 50.
    largest_training_force : float or None
        Where known, fails only above max(`fail_at`, 10 × this): what the model has seen cannot
        be called wild.
    """

    warn_at: float = 30.0
    fail_at: float = 50.0
    largest_training_force: float | None = None

    name: ClassVar[str] = "force"
    definition: ClassVar[str] = (
        "max |F_i|; warns above {warn_at:g} eV/Å, fails above max({fail_at:g} eV/Å, 10 × the "
        "training set's largest)"
    )
    unit: ClassVar[str] = "eV/Å"

    @property
    def fail_limit(self) -> float:
        """In eV/Å."""
        return max(self.fail_at, 10.0 * (self.largest_training_force or 0.0))

    def measure(self, snapshot: Snapshot) -> np.ndarray:
        """Length of the force on each atom."""
        return np.sqrt(np.einsum("ij,ij->i", snapshot.forces, snapshot.forces))

    def describe(self, snapshot: Snapshot, item: int, value: float) -> tuple[str, tuple[int, ...]]:
        """Name the atom."""
        return f"force on {label_atoms(snapshot.atoms, [item])} is {value:.1f} eV/Å", (item,)


@dataclass
class EnergyCheck(Check):
    """Potential energy per atom, counted from the start of the run.

    Attributes
    ----------
    above : float
        Fails when more than 4.5 k_B T + this above the start, in eV/atom. Default 0.5; the
        classical mean is 1.5 k_B T for a harmonic solid, so three times that and a reserve for
        anharmonic and reacting systems. Chosen: no good potential of the labelled cases comes near
        (`python tests/benchmarks/stability_cases.py`).
    below : float
        Warns when more than this below the start, in eV/atom. Default 0.1: a relaxed structure
        that finds something much deeper has rearranged, or has fallen into a hole.
    deeper : float
        Where a relaxed molecule whose bonds are to hold (non-metals only, not periodic, no force
        above `relaxed`) comes to lie so much below the start in all as well, in eV, it fails.
        Default 1: conformers differ by some tenths of an eV, and what gains more has become
        another molecule, of which the bonds that `BondCheck` looks at may tell nothing. Surfaces
        and clusters of metals may do it.
    relaxed : float
        In eV/Å. Default 0.1, twice what `relax` asks for.
    topology : {"fixed", "reactive"}
        See `BondCheck`.
    """

    above: float = 0.5
    below: float = 0.1
    deeper: float = 1.0
    relaxed: float = 0.1
    topology: Topology = "fixed"

    name: ClassVar[str] = "energy"
    definition: ClassVar[str] = (
        "E_pot per atom from the relaxed start; fails above 4.5 k_B T + {above:g} eV; warns "
        "below −{below:g} eV, where a molecule that is {deeper:g} eV below in all fails"
    )
    unit: ClassVar[str] = "eV/atom"

    lowest: float | None = field(init=False, default=None)
    _reference: float | None = field(init=False, default=None, repr=False)
    _holds: bool = field(init=False, default=False, repr=False)

    @property
    def fail_limit(self) -> float:
        """In eV/atom above the start."""
        return 4.5 * units.kB * self.context.temperature + self.above

    def start(self, atoms: Atoms, context: RunContext) -> None:
        """Forget any earlier run; the first snapshot becomes the reference."""
        super().start(atoms, context)
        self._reference = self.lowest = None
        self._holds = (
            self.topology == "fixed"
            and not atoms.pbc.any()
            and bool(np.isin(atoms.numbers, NON_METALS).all())
        )

    def measure(self, snapshot: Snapshot) -> np.ndarray:
        """Energy per atom from the first snapshot."""
        if self._reference is None:
            self._reference = snapshot.energy
            largest = float(np.linalg.norm(snapshot.forces, axis=1).max())
            self._holds = self._holds and largest <= self.relaxed
        return np.array([(snapshot.energy - self._reference) / len(snapshot.atoms)])

    def describe(self, snapshot: Snapshot, item: int, value: float) -> tuple[str, tuple[int, ...]]:
        """Say how far from the start."""
        side = "above" if value > 0 else "below"
        return f"potential energy is {abs(value):.3f} eV/atom {side} the start", ()

    def check(self, snapshot: Snapshot) -> Sequence[Finding]:
        """Fail above, warn below; a molecule fails far below."""
        findings = super().check(snapshot)
        value = float(self.measure(snapshot)[0])
        self.lowest = value if self.lowest is None else min(value, self.lowest)
        if findings or value >= -self.below:
            return findings
        depth = -value * len(snapshot.atoms)
        if self._holds and depth > self.deeper:
            failed = self.finding("fail", snapshot, 0, value)
            message = (
                f"{failed.message}, {depth:.2g} eV in all: the molecule has become another one, "
                "its start is no lasting minimum of this potential"
            )
            return [replace(failed, message=message, threshold=-self.below)]
        if self._has_warned:
            return []
        self.note = f"the lowest energy is {value:.3f} eV/atom below the start or deeper"
        return [replace(self.finding("warn", snapshot, 0, value), threshold=-self.below)]


@dataclass
class CellCheck(Check):
    """NPT: the cell neither explodes, nor collapses, nor leans over.

    The value is the part of the allowed range that is used up: ln(V/V₀) over that of the limit
    on its side, or the deviation of an angle from 90° over that of its limit, whichever is
    larger.

    Attributes
    ----------
    shrink, grow : float
        Limits of V/V₀. Defaults 0.5 and 2: a solid or liquid at moderate pressure changes by some
        per cent; a vapour does not belong in this check. Chosen.
    angle : float
        Limit of the cell angles, in degrees: no less than this, no more than 180° − this.
        Default 20.
    """

    shrink: float = 0.5
    grow: float = 2.0
    angle: float = 20.0

    name: ClassVar[str] = "cell"
    definition: ClassVar[str] = (
        "NPT: part of the range V/V₀ = {shrink:g} to {grow:g}, or of cell angles {angle:g}° "
        "from 0° and 180°, that is used; fails above 1"
    )
    unit: ClassVar[str] = "range"

    _volume: float = field(init=False, default=1.0, repr=False)

    @property
    def fail_limit(self) -> float:
        """The whole range."""
        return 1.0

    def start(self, atoms: Atoms, context: RunContext) -> None:
        """Note the starting volume."""
        super().start(atoms, context)
        self._volume = float(atoms.cell.volume)
        if context.ensemble != "npt":
            self.status = "does not apply"

    def measure(self, snapshot: Snapshot) -> np.ndarray:
        """Part of the range used by the volume and by each angle; nothing unless NPT."""
        if self.context.ensemble != "npt":
            return np.empty(0)
        ratio = np.log(snapshot.atoms.cell.volume / self._volume)
        volume = max(ratio / np.log(self.grow), ratio / np.log(self.shrink))
        angles = np.abs(snapshot.atoms.cell.angles() - 90.0) / (90.0 - self.angle)
        return np.array([volume, *angles])

    def describe(self, snapshot: Snapshot, item: int, value: float) -> tuple[str, tuple[int, ...]]:
        """Say which volume and angles."""
        ratio = snapshot.atoms.cell.volume / self._volume
        angles = ", ".join(f"{angle:.0f}" for angle in snapshot.atoms.cell.angles())
        return f"the volume is {ratio:.3g} times the start's, angles are {angles} degrees", ()
