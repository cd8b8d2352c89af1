"""Bad calculators whose fault lies in the forces, the stress, the numbers or the frame.

In the equations E and F are the good calculator's, and in "caught by" stand the checks that are
meant to find the fault: during MD | before any MD. `base` is the good calculator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import BaseCalculator

from ase_ws.testing.bad.wrapping import Broken, Point

#: Hartree/Bohr in eV/Å: 51.42.
HARTREE_PER_BOHR = units.Hartree / units.Bohr


class Curl(Broken):
    """Forces that no energy has, from a calculator that claims to be conservative.

    F'_i = F_i + c × (r_i − r̄), r̄ the mean position; the net force stays zero, curl F' = 2 c.

    Caught by: drift, temperature | work.

    Parameters
    ----------
    axis : 3 floats, eV/Å²
        c.
    """

    def __init__(self, base: BaseCalculator, axis: Sequence[float] = (0.0, 0.0, 0.3)):
        super().__init__(base)
        self.axis = np.array(axis, dtype=float)

    def spoil(self, atoms: Atoms, point: Point) -> Point:
        """Add the curl."""
        arms = atoms.positions - atoms.positions.mean(axis=0)
        return Point(point.energy, point.forces + np.cross(self.axis, arms), point.stress)


@dataclass(eq=False, repr=False)
class ScaledForces(Broken):
    """Forces in the wrong unit: F' = s F, E' = E.

    Caught by: drift, energy, bond, temperature, relaxation | work.

    Parameters
    ----------
    factor : float
        s. Default 1/51.42, forces in Hartree/Bohr passed on as eV/Å; 51.42 is the unit applied
        twice.
    """

    factor: float = 1.0 / HARTREE_PER_BOHR

    def spoil(self, atoms: Atoms, point: Point) -> Point:
        """Scale the forces."""
        return Point(point.energy, self.factor * point.forces, point.stress)


@dataclass(eq=False, repr=False)
class WrongSign(ScaledForces):
    """Gradients passed on as forces: F' = −F, E' = E.

    Caught by: relaxation, drift, force, contact, energy | work.
    """

    factor: float = field(default=-1.0, init=False)


@dataclass(eq=False, repr=False)
class ScaledStress(Broken):
    """A stress with the wrong sign or unit: σ' = s σ; everything else is right.

    Caught by: cell, drift, contact (NPT only) | stress_work.

    Parameters
    ----------
    factor : float
        s. Default −1, the pressure convention (VASP's); 160.2 is GPa passed on as eV/Å³.
    """

    factor: float = -1.0

    def spoil(self, atoms: Atoms, point: Point) -> Point:
        """Scale the stress."""
        stress = None if point.stress is None else self.factor * point.stress
        return Point(point.energy, point.forces, stress)


@dataclass(eq=False, repr=False)
class _Noise(Broken):
    """Random numbers, new at each call."""

    size: float
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._rng = np.random.default_rng(self.seed)


class ForceNoise(_Noise):
    """Random forces on top, new at each call: F' = F + σ ξ, ξ normal and independent.

    MD heats by 3 σ² Δt/(2 m) per atom and time. The fault of charges that are not converged, or
    of a committee drawn anew at each call.

    Caught by: drift, temperature | work.

    Parameters
    ----------
    size : float, eV/Å
        σ.
    seed : int
    """

    def spoil(self, atoms: Atoms, point: Point) -> Point:
        """Add noise to the forces."""
        noise = self._rng.normal(0.0, self.size, point.forces.shape)
        return Point(point.energy, point.forces + noise, point.stress)


class EnergyNoise(_Noise):
    """A random energy on top, new at each call: E' = E + σ ξ; the forces are right.

    MD does not feel it, and its mean does not drift: only the energy itself gives it away.

    Caught by: (nothing during MD) | work, bond_scan, invariances.

    Parameters
    ----------
    size : float, eV
        σ.
    seed : int
    """

    def spoil(self, atoms: Atoms, point: Point) -> Point:
        """Add noise to the energy."""
        energy = point.energy + self.size * float(self._rng.normal())
        return Point(energy, point.forces, point.stress)


@dataclass(eq=False, repr=False)
class SlowHeating(Broken):
    """Negative friction: F'_i = F_i + γ p_i, so that the kinetic energy grows as exp(2 γ t).

    A steady heating of 2 γ K whatever the geometry, where everything static is right: the forces
    at rest are the gradient of the energy.

    Caught by: drift | (nothing before MD).

    Parameters
    ----------
    rate : float, 1/ps
        γ; at temperature T each atom gains 3 γ k_B T per time (78 meV/ps at 300 K for 1/ps).
    """

    rate: float

    def spoil(self, atoms: Atoms, point: Point) -> Point:
        """Push along the momenta."""
        push = self.rate / (1000.0 * units.fs) * atoms.get_momenta()
        return Point(point.energy, point.forces + push, point.stress)


@dataclass(eq=False, repr=False)
class ExternalField(Broken):
    """A dependence on where the structure is: E' = E + ½ k Σ |r_i|², forces to match.

    Conserves energy, but neither momentum nor the invariance to translation: the fault of raw
    coordinates that enter a model.

    Caught by: temperature, energy, relaxation | invariances.

    Parameters
    ----------
    k : float, eV/Å²
    """

    k: float

    def spoil(self, atoms: Atoms, point: Point) -> Point:
        """Add the field."""
        energy = 0.5 * self.k * float(np.vdot(atoms.positions, atoms.positions))
        return Point(point.energy + energy, point.forces - self.k * atoms.positions, point.stress)


@dataclass(eq=False, repr=False)
class StaleResults(Broken):
    """Old results for new positions, until an atom has moved by more than `tolerance`.

    E'(r) = E(r₀), F'(r) = F(r₀), r₀ the last positions that were computed: a cache, or a neighbour
    list, that is not renewed in time. Forces that lag behind heat.

    Caught by: drift, temperature | work.

    Parameters
    ----------
    tolerance : float, Å
    """

    tolerance: float
    _known: Atoms | None = field(default=None, init=False)

    def ask(self, atoms: Atoms, *, stress: bool) -> Point:
        """Ask about the last positions that were computed, as long as they are near."""
        known = self._known
        if known is None or self._has_changed(known, atoms):
            self._known = known = atoms.copy()
        return super().ask(known, stress=stress)

    def spoil(self, atoms: Atoms, point: Point) -> Point:
        """Nothing more is wrong."""
        return point

    def _has_changed(self, known: Atoms, atoms: Atoms) -> bool:
        if len(known) != len(atoms) or (known.numbers != atoms.numbers).any():
            return True
        if (known.pbc != atoms.pbc).any() or (known.cell.array != atoms.cell.array).any():
            return True
        moved = np.linalg.norm(known.positions - atoms.positions, axis=1).max()
        # Written so that NaN counts as moved.
        return not moved <= self.tolerance


class HalfPrecision(Broken):
    """A model that runs in float16: positions, energy, forces and stress are rounded to it.

    11 bits: 0.001 Å at 1 to 2 Å from the origin, 0.008 Å at 8 to 16 Å; energies beyond 65,504 eV
    overflow. The same model in float64, see `in_float64`, is good.

    Caught by: drift, temperature, finite, bond, relaxation | work, bond_scan,
    invariances, stress_work.
    """

    def in_float64(self) -> BaseCalculator:
        """Give the same model without the rounding."""
        return self.base

    def ask(self, atoms: Atoms, *, stress: bool) -> Point:
        """Ask about rounded positions."""
        rounded = atoms.copy()
        rounded.positions = _half(atoms.positions)
        return super().ask(rounded, stress=stress)

    def spoil(self, atoms: Atoms, point: Point) -> Point:
        """Round the answer."""
        stress = None if point.stress is None else _half(point.stress)
        return Point(float(_half(np.array(point.energy))), _half(point.forces), stress)


def _half(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float16).astype(float)
