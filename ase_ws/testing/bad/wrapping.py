"""What the bad calculators have in common: they ask a good one, then change its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, Calculator, CalculatorSetupError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from ase_ws.md.evaluation import potential_energy
from ase_ws.pairs import find_pairs


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


class Broken(Calculator):
    """A good calculator with something wrong; a subclass says what in `spoil`.

    It offers energy and forces, and the stress where the good one has it. It says nothing about
    its faults: no subclass has `conservative = False`.

    Parameters
    ----------
    base : ASE calculator
        The good one.
    """

    def __init__(self, base: BaseCalculator):
        super().__init__()
        self.base = base
        has_stress = "stress" in base.implemented_properties
        self.implemented_properties = [
            "energy",
            "free_energy",
            "forces",
            *(["stress"] if has_stress else []),
        ]

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

    def __init__(
        self, base: BaseCalculator, cutoff: float, elements: tuple[str, str] | None = None
    ):
        super().__init__(base)
        self.cutoff = cutoff
        self.elements = elements

    def pair(self, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give v in eV and the slope dv/dr in eV/Å that the forces use, at r in Å."""
        raise NotImplementedError

    def spoil(self, atoms: Atoms, point: Point) -> Point:
        """Add the pairs."""
        first, second, r, shift = find_pairs(atoms, self.cutoff)
        if self.elements is not None:
            symbols = np.array(atoms.get_chemical_symbols())
            one, other = self.elements
            keep = ((symbols[first] == one) & (symbols[second] == other)) | (
                (symbols[first] == other) & (symbols[second] == one)
            )
            first, second, r, shift = first[keep], second[keep], r[keep], shift[keep]
        v, slope = self.pair(r)
        vectors = atoms.positions[second] - atoms.positions[first] + shift @ atoms.cell.array
        pulls = (slope / r)[:, None] * vectors
        forces = point.forces.copy()
        np.add.at(forces, first, pulls)
        return Point(
            point.energy + 0.5 * float(v.sum()),
            forces,
            self._stress(atoms, point, pulls, vectors),
        )

    @staticmethod
    def _stress(
        atoms: Atoms, point: Point, pulls: np.ndarray, vectors: np.ndarray
    ) -> np.ndarray | None:
        """Add (1/2V) Σ_ij (dv/dr) r_ij ⊗ r_ij / r_ij to the stress."""
        if point.stress is None:
            return None
        virial = 0.5 * pulls.T @ vectors
        return point.stress + full_3x3_to_voigt_6_stress(virial / atoms.get_volume())


def closest_neighbours(atoms: Atoms, reach: float) -> np.ndarray:
    """Distance of each atom's nearest neighbour in Å, infinite beyond `reach`; (n_atoms,)."""
    first, _, r, _ = find_pairs(atoms, reach)
    nearest = np.full(len(atoms), np.inf)
    np.minimum.at(nearest, first, r)
    return nearest
