"""Bad calculators whose fault depends on distances between atoms.

In the equations E and F are the good calculator's, sums run over pairs i < j, and in "caught by"
stand the checks that are meant to find the fault: during MD | before any MD. `base` is the good
calculator; `elements`, if given, are the two between which alone the fault is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, CalculationFailed

from ase_ws.testing.bad.wrapping import Broken, Elements, PairTerm, Point, closest_neighbours


class Hole(PairTerm):
    """A hole at short range: two atoms that come too close are pulled together.

    E' = E − A Σ (1 − r/r_h)³ for r < r_h, forces to match (smooth at r_h). The fault of models
    that have never seen a short distance.

    Caught by: contact, force, temperature, energy, relaxation | contact_scan, bond_scan.

    Parameters
    ----------
    distance : float, Å
        r_h, the rim of the hole; put it where the thermal motion just gets.
    depth : float, eV
        A, the depth at r = 0; it must beat the good calculator's repulsion.
    """

    def __init__(
        self, base: BaseCalculator, distance: float, depth: float = 300.0, elements: Elements = None
    ):
        super().__init__(base, distance, elements)
        self.depth = depth

    def pair(self, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give −A (1 − r/r_h)³ and its slope."""
        x = np.clip(1.0 - r / self.cutoff, 0.0, None)
        return -self.depth * x**3, 3.0 * self.depth / self.cutoff * x**2


class EnergyStep(PairTerm):
    """A step: the energy jumps by `jump` for each pair closer than `distance`, unknown to F.

    E' = E + J Σ θ(r_s − r), F' = F. The fault of a cutoff function that ends above zero, or of a
    table read without interpolation.

    Caught by: drift, where pairs cross the step more one way than the other (melting, diffusion)
    | bond_scan, contact_scan, rattle_ladder; work where a pair of the probed structure lies
    within its displacement of the step.

    Parameters
    ----------
    distance : float, Å
        r_s.
    jump : float, eV
        J.
    """

    def __init__(
        self, base: BaseCalculator, distance: float, jump: float, elements: Elements = None
    ):
        super().__init__(base, distance, elements)
        self.jump = jump

    def pair(self, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give J inside, and no slope at all."""
        return np.where(r < self.cutoff, self.jump, 0.0), np.zeros_like(r)


class CutoffJump(PairTerm):
    """Dispersion that is truncated without shift: the energy jumps at the cutoff.

    E' = E − Σ C/r⁶ for r < r_c, exact forces on either side; each pair that passes r_c changes
    the energy by C/r_c⁶.

    Caught by: drift, where pairs cross more one way than the other | bond_scan, contact_scan,
    rattle_ladder, volume_curve; work as for `EnergyStep`.

    Parameters
    ----------
    cutoff : float, Å
        r_c.
    jump : float, eV
        C/r_c⁶.
    """

    def __init__(self, base: BaseCalculator, cutoff: float, jump: float, elements: Elements = None):
        super().__init__(base, cutoff, elements)
        self.jump = jump

    def pair(self, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give −C/r⁶ and its slope."""
        v = -self.jump * (self.cutoff / r) ** 6
        return v, -6.0 * v / r


class SpuriousMinimum(PairTerm):
    """A deep, narrow well at a wrong distance.

    E' = E − D Σ exp(−(r − r_w)²/2w²), forces to match. A conservative, smooth and wrong model:
    only what it does to the structure gives it away.

    Caught by: bond, contact, energy, temperature, relaxation | bond_scan, contact_scan,
    volume_curve.

    Parameters
    ----------
    distance : float, Å
        r_w.
    depth : float, eV
        D.
    width : float, Å
        w.
    """

    def __init__(
        self,
        base: BaseCalculator,
        distance: float,
        depth: float,
        width: float = 0.1,
        elements: Elements = None,
    ):
        # At 9 w the well is 1e-18 of its depth: no step is left at the cutoff.
        super().__init__(base, distance + 9.0 * width, elements)
        self.distance, self.depth, self.width = distance, depth, width

    def pair(self, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give −D exp(−x²/2) and its slope, x = (r − r_w)/w."""
        x = (r - self.distance) / self.width
        well = self.depth * np.exp(-0.5 * x**2)
        return -well, well * x / self.width


class WrongSignPair(PairTerm):
    """A pair repulsion with the wrong sign: it pulls.

    E' = E − B Σ exp(−r/ρ) (1 − r/r_c)² for r < r_c, forces to match: what a Born-Mayer
    correction (ZBL and its like) does whose sign was lost.

    Caught by: contact, force, temperature, energy, relaxation | contact_scan, bond_scan,
    volume_curve.

    Parameters
    ----------
    strength : float, eV
        B.
    rho : float, Å
        ρ.
    cutoff : float, Å
        r_c.
    """

    def __init__(
        self,
        base: BaseCalculator,
        strength: float,
        rho: float = 0.3,
        cutoff: float = 4.0,
        elements: Elements = None,
    ):
        super().__init__(base, cutoff, elements)
        self.strength, self.rho = strength, rho

    def pair(self, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give −B exp(−r/ρ) (1 − r/r_c)² and its slope."""
        x = 1.0 - r / self.cutoff
        v = -self.strength * np.exp(-r / self.rho)
        return v * x**2, -v * x**2 / self.rho - 2.0 * v * x / self.cutoff


@dataclass(eq=False, repr=False)
class NaNBeyond(Broken):
    """NaN as soon as an atom's nearest neighbour is farther away than `distance`.

    The fault of a division by the number of neighbours, or by a distance that is not there.

    Caught by: finite | bond_scan, rattle_ladder.

    Parameters
    ----------
    distance : float, Å
    """

    distance: float

    def spoil(self, atoms: Atoms, point: Point) -> Point:
        """Turn everything into NaN where an atom is alone."""
        if (closest_neighbours(atoms, 2.0 * self.distance) <= self.distance).all():
            return point
        stress = None if point.stress is None else np.full_like(point.stress, np.nan)
        return Point(np.nan, np.full_like(point.forces, np.nan), stress)


class RaisesBeyond(NaNBeyond):
    """The same with an exception instead of NaN, as of charges that do not converge.

    Caught by: calculator | bond_scan, rattle_ladder.
    """

    def spoil(self, atoms: Atoms, point: Point) -> Point:
        """Raise where an atom is alone."""
        found = super().spoil(atoms, point)
        if np.isnan(found.energy):
            raise CalculationFailed(
                f"an atom has no neighbour within {self.distance:g} Å: no convergence"
            )
        return found
