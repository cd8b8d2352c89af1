"""What the bad calculators have in common: they ask a good one, then change its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, Calculator, CalculatorSetupError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from ase_ws.md.evaluation import potential_energy
from ase_ws.pairs import Pairs, find_pairs

#: Two symbols such as ("C", "H"), or any.
Elements = tuple[str, str] | None


@dataclass
class Point:
    """What a calculator says about one structure.

    Attributes
    ----------
    energy : float
        In eV, the one that the forces derive from.
    forces : (n_atoms, 3) array
        In eV/Å.
    stress : (6,) array or None
        In eV/Å³, Voigt order; None where it was not asked for.
    """

    energy: float
    forces: np.ndarray
    stress: np.ndarray | None = None


@dataclass(eq=False, repr=False)
class Broken(Calculator):
    """A good calculator with something wrong; a subclass says what in `spoil`.

    It offers energy and forces, and the stress where the good one has it. It says nothing about
    its faults: no subclass has `conservative = False`. Its parameters are fields.

    Parameters
    ----------
    base : ASE calculator
        The good one.
    """

    base: BaseCalculator

    def __post_init__(self) -> None:
        super().__init__()
        stress = ["stress"] if "stress" in self.base.implemented_properties else []
        self.implemented_properties = ["energy", "free_energy", "forces", *stress]

    def spoil(self, atoms: Atoms, point: Point) -> Point:
        """Change what the good calculator said about `atoms`."""
        raise NotImplementedError

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Ask the good calculator, then spoil the answer."""
        super().calculate(atoms, list(properties), list(system_changes))
        given = self.atoms if atoms is None else atoms
        if given is None:
            raise CalculatorSetupError("no atoms to calculate")
        # Nothing that is not finite may warn: it is for the checks to find.
        with np.errstate(all="ignore"):
            point = self.spoil(given, self.ask(given, stress="stress" in properties))
        self.results = {
            "energy": float(point.energy),
            "free_energy": float(point.energy),
            "forces": point.forces,
        }
        if point.stress is not None:
            self.results["stress"] = point.stress

    def ask(self, atoms: Atoms, *, stress: bool) -> Point:
        """Ask the good calculator."""
        probe = atoms.copy()
        probe.calc = self.base
        forces = np.array(probe.get_forces(apply_constraint=False))
        energy = potential_energy(probe)
        return Point(energy, forces, np.array(probe.get_stress()) if stress else None)


class PairTerm(Broken):
    """The good energy plus ½ Σ_ij v(r_ij), with the forces and the stress that belong to it.

    Parameters
    ----------
    base : ASE calculator
        The good one.
    cutoff : float, Å
        v is zero beyond.
    elements : pair of str, optional
        Only pairs of these two elements, such as ("C", "H"); default all pairs.
    """

    def __init__(self, base: BaseCalculator, cutoff: float, elements: Elements = None):
        super().__init__(base)
        self.cutoff = cutoff
        self.elements = elements

    def pair(self, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give v in eV and the slope dv/dr in eV/Å that the forces use, at r in Å."""
        raise NotImplementedError

    def spoil(self, atoms: Atoms, point: Point) -> Point:
        """Add the pairs."""
        pairs = find_pairs(atoms, self.cutoff)
        if self.elements is not None:
            symbols = np.array(atoms.get_chemical_symbols())
            ends = np.sort([symbols[pairs.first], symbols[pairs.second]], axis=0).T
            keep = np.all(ends == np.sort(self.elements), axis=1)
            pairs = Pairs(*(part[keep] for part in pairs))
        v, slope = self.pair(pairs.distance)
        pulls, vectors = pulled(atoms, pairs, slope)
        stress = point.stress
        if stress is not None:
            # (1/2V) Σ_ij (dv/dr) r_ij ⊗ r_ij / r_ij
            virial = 0.5 * pulls.T @ vectors
            stress = stress + full_3x3_to_voigt_6_stress(virial / atoms.get_volume())
        energy = point.energy + 0.5 * float(v.sum())
        return Point(energy, with_pulls(point.forces, pairs, pulls), stress)


def pulled(atoms: Atoms, pairs: Pairs, strength: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Force on the first atom of each pair towards the second, and the vector, (n_pairs, 3)."""
    vectors = atoms.positions[pairs.second] - atoms.positions[pairs.first]
    vectors = vectors + pairs.shift @ atoms.cell.array
    return (strength / pairs.distance)[:, None] * vectors, vectors


def with_pulls(forces: np.ndarray, pairs: Pairs, pulls: np.ndarray) -> np.ndarray:
    """Add what each pair does to its first atom, (n_atoms, 3), eV/Å."""
    forces = forces.copy()
    np.add.at(forces, pairs.first, pulls)
    return forces


def closest_neighbours(atoms: Atoms, reach: float) -> np.ndarray:
    """Distance of each atom's nearest neighbour in Å, infinite beyond `reach`; (n_atoms,)."""
    first, _, r, _ = find_pairs(atoms, reach)
    nearest = np.full(len(atoms), np.inf)
    np.minimum.at(nearest, first, r)
    return nearest
