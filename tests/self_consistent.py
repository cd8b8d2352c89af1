"""A self-consistent toy: what a calculator that keeps its last density can do to a check."""

from __future__ import annotations

import time
from dataclasses import KW_ONLY, dataclass, field, fields
from typing import Literal

import numpy as np
from ase import Atoms
from ase.calculators.calculator import SCFError

from ase_ws.pairs import find_pairs
from ase_ws.testing.bad.wrapping import Broken, Point, pulled, with_pulls

Fault = Literal["keeps", "raises", "hangs"]


@dataclass(eq=False, repr=False)
class SelfConsistent(Broken):
    """A good calculator plus a self-consistent "density", one number q of each atom.

    With S(q) the entropy of a spin of mean q in k_B, as of a magnet in the mean field,

        E' = E + A Σ_i [−½ b q_i² − h_i q_i − S(q_i)],    q_i = tanh(b q_i + h_i),

    solved by iteration from the last q, at first from 1, which is the ground state at h > 0. The
    field h_i = h₀ − ½ Σ_j 1/(1 + exp((r_ij − `contact`)/`width`)) turns when two atoms come
    close. Where it is small both signs of q are solutions: a density that a squeeze has turned
    stays turned when the atoms are back, and the energy is off by about 2 A h₀ for each atom,
    until `reset`. The energy is stationary in q, so the forces are those at fixed q.

    Parameters
    ----------
    contact : float, Å
        Atoms closer than this turn their density, and set off the fault.
    fault : {"keeps", "raises", "hangs"}
        Below `contact`: no more than that; an `SCFError`; or some sleep.
    remembers : bool
        The density survives a `reset`, as that of tblite does: only a new calculator helps.
    width, sleep : float, Å, s

    Attributes
    ----------
    density : array or None
        The last q, (n_atoms,).
    calls : int
    """

    #: A in eV, b and h₀.
    strength, coupling, field = 5.0, 1.5, 0.1

    contact: float
    fault: Fault = "keeps"
    _: KW_ONLY
    remembers: bool = False
    width: float = 0.03
    sleep: float = 3600.0

    def __post_init__(self) -> None:
        self.density: np.ndarray | None = None
        self.calls = 0
        super().__post_init__()
        # ASE's way to say how a calculator was made.
        self.parameters = {f.name: getattr(self, f.name) for f in fields(self)}

    def reset(self) -> None:
        """Forget results, atoms and density (ASE's interface)."""
        super().reset()
        if not self.remembers:
            self.density = None

    def spoil(self, atoms: Atoms, point: Point) -> Point:
        """Converge the density, and add what it is worth."""
        self.calls += 1
        if self.density is None or len(self.density) != len(atoms):
            self.density = np.ones(len(atoms))
        pairs = find_pairs(atoms, self.contact + 30.0 * self.width)
        first, second, r, _ = pairs
        terms = 0.5 / (1.0 + np.exp(np.minimum((r - self.contact) / self.width, 50.0)))
        h = self.field - np.bincount(first, terms, minlength=len(atoms))
        if len(r) and r.min() < self.contact:
            self._fail()
        q = self.density = self._converged(self.density, h)
        spins = np.maximum(np.array([0.5 * (1.0 + q), 0.5 * (1.0 - q)]), 1e-300)
        entropy = -(spins * np.log(spins)).sum(axis=0)
        energy = self.strength * float((-0.5 * self.coupling * q**2 - h * q - entropy).sum())
        slope = -self.strength * (q[first] + q[second]) * terms * (1.0 - 2.0 * terms) / self.width
        pulls, _ = pulled(atoms, pairs, slope)
        return Point(point.energy + energy, with_pulls(point.forces, pairs, pulls), point.stress)

    def _fail(self) -> None:
        assert self.density is not None
        if self.fault == "keeps":
            return
        # Half way through: the density is that of no structure.
        self.density = -np.ones_like(self.density)
        if self.fault == "raises":
            raise SCFError("SCF not converged in 250 cycles")
        end = time.monotonic() + self.sleep
        while time.monotonic() < end:
            time.sleep(0.01)

    def _converged(self, q: np.ndarray, h: np.ndarray) -> np.ndarray:
        for _ in range(1000):
            last, q = q, np.tanh(self.coupling * q + h)
            if np.abs(q - last).max() < 1e-13:
                break
        return q


@dataclass(eq=False, repr=False)
class Rare(Broken):
    """A good calculator that gives NaN from call number `after` on: a part that wears out."""

    after: int
    calls: int = field(default=0, init=False)

    def spoil(self, atoms: Atoms, point: Point) -> Point:
        """Count."""
        self.calls += 1
        if self.calls < self.after:
            return point
        return Point(np.nan, point.forces * np.nan, point.stress)


class NeedsCell(Broken):
    """A good calculator that divides by the volume of the cell, as some graph networks do."""

    def spoil(self, atoms: Atoms, point: Point) -> Point:
        """Invert the cell."""
        np.linalg.inv(atoms.cell.array)
        return point
