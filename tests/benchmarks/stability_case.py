"""What a labelled case of the stability suite is, and the structures that the cases share."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import add_adsorbate, bulk, diamond100, fcc111, molecule
from ase.calculators.calculator import BaseCalculator
from ase.cluster import Icosahedron
from ase.constraints import FixAtoms

#: Names of the checks that the suite runs before any MD.
STATIC = {
    "repeatable",
    "work",
    "stress_work",
    "kinks",
    "invariances",
    "extensivity",
    "bond_scan",
    "contact_scan",
    "rattle_ladder",
    "volume_curve",
    "precision",
}


@dataclass(frozen=True)
class Case:
    """A potential, a structure and a run, with the verdict that they deserve.

    Attributes
    ----------
    name : str
        "good_..." or "bad_...".
    atoms, calculator : callable
        Make the structure and the calculator.
    temperature : float, K
    ps : float
        Of each replica.
    replicas : int
    timestep : float, fs
    ensemble : str
    checks : frozenset of str
        The checks that are meant to catch it, any of them; empty for good cases.
    blame : str or None
        Whom the suite should blame.
    needs : str or None
        A module without which the case is left out.
    after_thresholds : bool
        Made after the suite's thresholds were fixed: a blind test, nothing was tuned on it.
    options : dict
        More arguments of `check_stability`.
    note : str
        What the case is about.
    """

    name: str
    atoms: Callable[[], Atoms]
    calculator: Callable[[], BaseCalculator]
    temperature: float
    ps: float = 1.0
    replicas: int = 1
    timestep: float = 0.5
    ensemble: str = "nvt"
    checks: frozenset[str] = frozenset()
    blame: str | None = None
    needs: str | None = None
    after_thresholds: bool = False
    options: tuple[tuple[str, Any], ...] = ()
    note: str = ""

    @property
    def verdict(self) -> str:
        """The verdict that it deserves."""
        return "unstable" if self.checks else "stable"

    @property
    def static_only(self) -> bool:
        """No run of MD can see what is wrong."""
        return bool(self.checks) and self.checks <= STATIC

    @property
    def available(self) -> bool:
        """Whether all that it needs is installed."""
        return self.needs is None or importlib.util.find_spec(self.needs) is not None


def named(name: str) -> Callable[[], Atoms]:
    """Give a molecule of ASE's collection."""
    return lambda: molecule(name)


def crystal(symbol: str, *repeat: int, **lattice: Any) -> Callable[[], Atoms]:
    """Give a cubic cell, repeated."""
    return lambda: bulk(symbol, cubic=True, **lattice) * (repeat or (1, 1, 1))


def argon(a: float = 5.26, repeat: tuple[int, int, int] = (2, 2, 2)) -> Callable[[], Atoms]:
    """Give argon in an fcc lattice, which melts at once where a is large enough."""
    return crystal("Ar", *repeat, a=a)


def nitrogen() -> Atoms:
    """N2 at the minimum of `ase_ws.testing.good.morse`."""
    return Atoms("N2", [[0.0, 0.0, 0.0], [0.0, 0.0, 1.098]])


def argon_gas() -> Atoms:
    """Eight atoms of argon, 10 Å apart."""
    corners = 10.0 * np.indices((2, 2, 2)).reshape(3, -1).T
    return Atoms("Ar8", corners, cell=[20.0] * 3, pbc=True)


def argon_drop() -> Atoms:
    """A block of 32 atoms in vacuum, which flies apart when hot."""
    drop = argon()()
    return Atoms(drop.symbols, drop.positions)


def cluster(symbol: str, a: float) -> Callable[[], Atoms]:
    """Give an icosahedron of 13 atoms."""

    def make() -> Atoms:
        found = Icosahedron(symbol, 2, latticeconstant=a)
        return Atoms(found.get_chemical_symbols(), found.positions)

    return make


def slab_with_adatom(symbol: str = "Al", adsorbate: str | None = None) -> Atoms:
    """Three layers of fcc(111), the lowest fixed, and an atom on top."""
    slab = fcc111(symbol, (2, 2, 3), vacuum=8.0)
    add_adsorbate(slab, adsorbate or symbol, 2.2, "fcc")
    slab.set_constraint(FixAtoms(indices=[a.index for a in slab if a.tag == 3]))
    return slab


def silicon_surface() -> Atoms:
    """Si(100), six layers, both sides open."""
    return diamond100("Si", (2, 2, 6), vacuum=8.0)


def zundel() -> Atoms:
    """H5O2+: a proton between two waters."""
    return Atoms(
        "OHHOHHH",
        [
            [-1.2, 0.0, 0.0],
            [-1.7, 0.75, 0.25],
            [-1.7, -0.55, 0.55],
            [1.2, 0.0, 0.0],
            [1.7, -0.25, 0.75],
            [1.7, -0.55, -0.55],
            [0.05, 0.0, 0.0],
        ],
    )


def malonaldehyde() -> Atoms:
    """Enol form: O-H...O in a ring of six, the textbook proton transfer."""
    return Atoms(
        "CCCOOHHHH",
        [
            [0.00, 1.25, 0.0],
            [-1.22, 0.60, 0.0],
            [1.22, 0.60, 0.0],
            [-1.28, -0.70, 0.0],
            [1.28, -0.64, 0.0],
            [-0.35, -1.05, 0.0],
            [0.00, 2.33, 0.0],
            [-2.15, 1.18, 0.0],
            [2.15, 1.20, 0.0],
        ],
    )


def water_trimer() -> Atoms:
    """Three waters, 2.9 Å apart."""
    corners = 2.9 * np.array([[0, 0, 0], [1, 0, 0], [0.5, 0.866, 0]])
    found = Atoms()
    for k, corner in enumerate(corners):
        water = molecule("H2O")
        water.rotate(50.0 + 120.0 * k, "z")
        water.positions += corner - water.positions[0]
        found += water
    return found


def moved(make: Callable[[], Atoms], by: float) -> Callable[[], Atoms]:
    """Give the same structure `by` Å away from the origin along each axis."""

    def make_moved() -> Atoms:
        atoms = make()
        atoms.positions += by
        return atoms

    return make_moved
