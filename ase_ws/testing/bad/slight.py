"""Bad calculators whose fault is slight: just above what MD bears.

In the equations E and F are the good calculator's, and in "caught by" stand the checks that are
meant to find the fault: during MD | before any MD. `base` is the good calculator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms

from ase_ws.pairs import find_pairs
from ase_ws.testing.bad.wrapping import Broken, Point, pulled, with_pulls


@dataclass(eq=False, repr=False)
class PairForces(Broken):
    """Smooth pair forces that the energy does not know.

    F'_i = F_i + Σ_j f(r_ij) r̂_ij with f(r) = s exp(−((r − r₀)/w)²): a correction (dispersion, say)
    that was added to the forces and forgotten in the energy. MD conserves another energy.

    Caught by: (nothing during MD) | work.

    Parameters
    ----------
    size : float, eV/Å
        s.
    place, width : float, Å
        r₀ and w.
    """

    size: float
    place: float
    width: float = 0.5

    def strength(self, r: np.ndarray) -> np.ndarray:
        """Force towards the other atom at these distances, eV/Å."""
        return self.size * np.exp(-(((r - self.place) / self.width) ** 2))

    def spoil(self, atoms: Atoms, point: Point) -> Point:
        """Add the pairs."""
        pairs = find_pairs(atoms, self.place + 4.0 * self.width)
        pulls, _ = pulled(atoms, pairs, self.strength(pairs.distance))
        return Point(point.energy, with_pulls(point.forces, pairs, pulls), point.stress)


@dataclass(eq=False, repr=False)
class RippledForces(PairForces):
    """Pair forces that ripple with a distance elsewhere, and that no energy has.

    f(r) = s exp(−((r − r₀)/w)²) cos(2π d/λ) with d the distance of the first two atoms: MD crosses
    a ripple in some femtoseconds, with work left over each time. NVE heats, at a rate that goes
    as s².

    Caught by: drift, fluctuation | work.

    Parameters
    ----------
    size, place, width
        See `PairForces`.
    wavelength : float, Å
        λ.
    """

    wavelength: float = 0.1

    def spoil(self, atoms: Atoms, point: Point) -> Point:
        """Add the pairs, rippled."""
        distance = float(atoms.get_distance(0, 1, mic=bool(atoms.pbc.any())))
        ripple = np.cos(2.0 * np.pi * distance / self.wavelength)
        plain = super().spoil(atoms, point)
        forces = point.forces + ripple * (plain.forces - point.forces)
        return Point(point.energy, forces, point.stress)


@dataclass(eq=False, repr=False)
class Handed(Broken):
    """An energy that tells left from right: E' = E + s tanh(V/V₀), forces to match.

    V = a·(b × c) of the vectors from the first atom to the next three, V₀ = 1 Å³. All else is
    right: energy, momentum and angular momentum are conserved.

    Caught by: (nothing during MD) | invariances.

    Parameters
    ----------
    size : float, eV
        s.
    """

    size: float

    def spoil(self, atoms: Atoms, point: Point) -> Point:
        """Add the term."""
        mic = bool(atoms.pbc.any())
        a, b, c = (atoms.get_distance(0, k, mic=mic, vector=True) for k in (1, 2, 3))
        tanh = np.tanh(float(np.dot(a, np.cross(b, c))))
        pulls = (
            -self.size
            * (1.0 - tanh**2)
            * np.array([np.cross(b, c), np.cross(c, a), np.cross(a, b)])
        )
        forces = point.forces.copy()
        forces[1:4] += pulls
        forces[0] -= pulls.sum(axis=0)
        return Point(point.energy + self.size * tanh, forces, point.stress)
