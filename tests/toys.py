"""Toy calculators and structures that the tests of MD and stability share."""

from typing import ClassVar

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.constraints import FixSymmetry

from ase_ws.md.observer import RunContext, Snapshot
from ase_ws.md.velocities import degrees_of_freedom


class Springs(Calculator):
    """Springs between all atoms: stiff along bonds (below 1.6 Å), soft elsewhere."""

    implemented_properties: ClassVar = ["energy", "forces"]

    def __init__(self, reference, stiff=20.0, soft=1.0):
        super().__init__()
        self.first, self.second = np.triu_indices(len(reference), 1)
        vectors = reference.positions[self.second] - reference.positions[self.first]
        self.lengths = np.linalg.norm(vectors, axis=1)
        self.k = np.where(self.lengths < 1.6, stiff, soft)
        self.calls = 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.calls += 1
        vectors = atoms.positions[self.second] - atoms.positions[self.first]
        lengths = np.sqrt((vectors**2).sum(axis=1))
        pull = (self.k * (lengths - self.lengths) / lengths)[:, None] * vectors
        forces = np.zeros_like(atoms.positions)
        np.add.at(forces, self.first, pull)
        np.add.at(forces, self.second, -pull)
        energy = 0.5 * (self.k * (lengths - self.lengths) ** 2).sum()
        self.results = {"energy": energy, "forces": forces}
        self.spoil(atoms, lengths)

    def spoil(self, atoms, lengths):
        """Do something bad; here nothing."""


class CurlSprings(Springs):
    """Adds a force that no energy has: r × z, which turns and heats for ever."""

    strength = 0.004

    def spoil(self, atoms, lengths):
        arms = atoms.positions - atoms.positions.mean(axis=0)
        curl = np.cross([0.0, 0.0, 1.0], arms)
        self.results["forces"] = self.results["forces"] + self.strength * curl


class NaNSprings(Springs):
    """Energy and forces are NaN once a bond is stretched by more than `reach`."""

    reach = 0.06

    def spoil(self, atoms, lengths):
        if (lengths - self.lengths)[self.k > self.k.min()].max() > self.reach:
            self.results = {"energy": np.nan, "forces": np.full_like(atoms.positions, np.nan)}


class RaisingSprings(NaNSprings):
    """Raises instead."""

    error = ValueError("neighbour list: too many neighbours")

    def spoil(self, atoms, lengths):
        if (lengths - self.lengths)[self.k > self.k.min()].max() > self.reach:
            raise self.error


class WrongSign(Springs):
    """Pushes where it should pull, with the matching energy."""

    def spoil(self, atoms, lengths):
        self.results = {name: -value for name, value in self.results.items()}


class Pairwise(Calculator):
    """Lennard-Jones argon, all pairs; below `hole` (Å) the repulsion turns into attraction.

    The hole is shallow: two atoms that fall in barely heat the others, but end up in one place.
    """

    depth = 0.02

    implemented_properties: ClassVar = ["energy", "forces"]

    def __init__(self, epsilon=0.0104, sigma=3.4, hole=0.0):
        super().__init__()
        self.epsilon, self.sigma, self.hole = epsilon, sigma, hole

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        first, second = np.triu_indices(len(atoms), 1)
        vectors = atoms.positions[second] - atoms.positions[first]
        r = np.sqrt((vectors**2).sum(axis=1))
        inside = r < self.hole
        # Inside the hole: V(hole) − depth (hole − r)², continuous, falling towards r = 0.
        at = np.where(inside, self.hole, r)
        x = (self.sigma / at) ** 6
        energy = 4 * self.epsilon * (x * x - x) - np.where(
            inside, self.depth * (self.hole - r) ** 2, 0.0
        )
        slope = np.where(
            inside, 2 * self.depth * (self.hole - r), -24 * self.epsilon * (2 * x * x - x) / at
        )
        pull = (slope / r)[:, None] * vectors
        forces = np.zeros_like(atoms.positions)
        np.add.at(forces, first, pull)
        np.add.at(forces, second, -pull)
        self.results = {"energy": energy.sum(), "forces": forces}


def ethanol():
    return molecule("CH3CH2OH")


def argon():
    """Thirteen argon atoms, an icosahedron's worth, near their lattice."""
    golden = (1 + 5**0.5) / 2
    corners = [(0, a, b * golden) for a in (-1, 1) for b in (-1, 1)]
    shell = np.array([np.roll(corner, k) for corner in corners for k in range(3)], dtype=float)
    positions = np.vstack([np.zeros(3), shell / np.linalg.norm(shell[0]) * 3.6])
    return Atoms("Ar13", positions=positions)


def mirror():
    """FixSymmetry of a mirror plane, made by hand: its constructor needs spglib."""
    constraint = FixSymmetry.__new__(FixSymmetry)
    constraint.atoms, constraint.symprec, constraint.verbose = bulk("Cu", cubic=True), 0.01, False
    constraint.rotations = [np.eye(3, dtype=int), np.diag([1, 1, -1])]
    constraint.translations, constraint.symm_map = [np.zeros(3)] * 2, [np.arange(16)] * 2
    constraint.do_adjust_positions = constraint.do_adjust_cell = True
    return constraint


def context(atoms, **changes):
    settings = {"ensemble": "nvt", "temperature": 300.0, "timestep": 1.0, "steps": 10_000}
    return RunContext(n_dof=degrees_of_freedom(atoms), **{**settings, **changes})


def snapshot(atoms, where, *, time=0.0, energy=0.0, forces=None, conserved=0.0, stress=None):
    forces = np.zeros((len(atoms), 3)) if forces is None else forces
    step = round(time / where.timestep)
    return Snapshot(step, time, atoms, energy, forces, conserved, where, stress)


def play(check, start, frames, **changes):
    """Show `frames` (dicts of snapshot arguments) to a check; give all findings."""
    where = context(start, **changes)
    check.start(start, where)
    found = []
    for frame in frames:
        atoms = frame.pop("atoms", start)
        found += check.check(snapshot(atoms, where, **frame))
    return found
