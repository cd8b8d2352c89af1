"""Checks of the geometry: contacts, bonds, detached hydrogen, isolated atoms."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np
from ase import Atoms

from ase_ws.md.observer import RunContext, Snapshot, label_atoms
from ase_ws.pairs import (
    Pairs,
    find_pairs,
    isolation_distance,
    longest,
    radii_sum,
)
from ase_ws.results.finding import Finding
from ase_ws.stability.checks.base import Check, close_pairs

#: Whether the bonds of the start must hold.
Topology = Literal["fixed", "reactive"]

#: Atomic numbers whose bonds are looked at.
NON_METALS = (1, 6, 7, 8, 9, 15, 16, 17, 34, 35, 53, 85)
_METALLOIDS = (5, 14, 32, 33, 51, 52)


@dataclass
class ContactCheck(Check):
    """Closest contact, min r_ij/(R_i + R_j) with covalent radii R, minimum image.

    Attributes
    ----------
    warn_at, fail_at : float
        Defaults 0.6 and 0.5. The shortest bond in these units, that of N2, lies at 0.77; at half
        the sum of the radii the universal repulsion of Ziegler, Biersack and Littmark (The Stopping
        and Range of Ions in Matter, 1985) is 16 eV for H–H, 37 for C–C, 41 for Cu–Cu.
    """

    warn_at: float = 0.6
    fail_at: float = 0.5

    name: ClassVar[str] = "contact"
    definition: ClassVar[str] = (
        "min r_ij/(R_i + R_j), minimum image; warns below {warn_at:.3g}, fails below {fail_at:.3g}"
    )
    unit: ClassVar[str] = "(R_i + R_j)"
    lower_is_worse: ClassVar[bool] = True

    def start(self, atoms: Atoms, context: RunContext) -> None:
        """Forget any earlier run."""
        super().start(atoms, context)
        # No pair within reach is a pass: nothing is too close.
        self.status = "passed"

    def measure(self, snapshot: Snapshot) -> np.ndarray:
        """Distance over radii sum of each close pair."""
        pairs = close_pairs(snapshot)
        return pairs.distance / radii_sum(snapshot.atoms.numbers, pairs.first, pairs.second)

    def describe(self, snapshot: Snapshot, item: int, value: float) -> tuple[str, tuple[int, ...]]:
        """Name the pair."""
        pairs = close_pairs(snapshot)
        atoms = int(pairs.first[item]), int(pairs.second[item])
        names = label_atoms(snapshot.atoms, atoms)
        distance = float(pairs.distance[item])
        return f"{names} are {distance:.2f} Å apart, {value:.2f} of their radii sum", atoms


@dataclass
class BondCheck(Check):
    """Change |r − r_ref| of the covalent bonds that the starting structure has.

    A bond joins two non-metals, or a non-metal and a metalloid, closer than
    `bonded` × (R_i + R_j). Bonds between two metalloids are left out, because silicon and its
    like melt into metals. A hydrogen that leaves its atom for another one within the same
    criterion is a proton transfer: that warns, and the new bond is watched instead.

    Attributes
    ----------
    topology : {"fixed", "reactive"}
        "reactive": any bond may break; that warns, and the bond is watched no longer.
    fail_at : float
        In Å; times max(1, √(T/1000 K)), as thermal amplitudes grow with √T. Default 0.5 (Fu et
        al., "Forces are not enough", TMLR 2023, which uses 0.5 Å for the MD17 molecules).
    repeat : float
        The change must stay beyond the limit for this long, in fs. Default 10: one period of an
        X–H stretch.
    bonded : float
        Default 1.3: covers F2, the longest in units of the radii (1.25), and leaves out hydrogen
        bonds (1.7 and more).
    """

    topology: Topology = "fixed"
    fail_at: float = 0.5
    repeat: float = 10.0
    bonded: float = 1.3

    name: ClassVar[str] = "bond"
    definition: ClassVar[str] = (
        "max |r - r_ref| of the non-metal bonds of the start; fails above {fail_at:g} Å × "
        "max(1, √(T/1000 K)) twice, {repeat:g} fs apart"
    )
    unit: ClassVar[str] = "Å"

    _bonds: Pairs = field(init=False, repr=False)

    @property
    def fail_limit(self) -> float:
        """In Å, at the set temperature."""
        return self.fail_at * max(1.0, np.sqrt(self.context.temperature / 1000.0))

    def start(self, atoms: Atoms, context: RunContext) -> None:
        """Note the bonds and their lengths."""
        super().start(atoms, context)
        self._bonds = covalent_bonds(atoms, self.bonded)
        if len(self._bonds.first) == 0:
            self.status = "does not apply"
            self.note = "no bonds between non-metals in the starting structure"

    def measure(self, snapshot: Snapshot) -> np.ndarray:
        """Absolute change of each bond length in Å."""
        return np.abs(self._lengths(snapshot.atoms) - self._bonds.distance)

    def _lengths(self, atoms: Atoms) -> np.ndarray:
        # The integrators do not wrap positions, so the image of the start stays the right one,
        # also in cells that are too small for the minimum image convention.
        first, second, _, shift = self._bonds
        vectors = atoms.positions[second] - atoms.positions[first]
        if atoms.pbc.any():
            vectors = vectors + shift @ atoms.cell.array
        return np.sqrt(np.einsum("ij,ij->i", vectors, vectors))

    def describe(self, snapshot: Snapshot, item: int, value: float) -> tuple[str, tuple[int, ...]]:
        """Name the bond and its lengths."""
        atoms = int(self._bonds.first[item]), int(self._bonds.second[item])
        length, reference = self._lengths(snapshot.atoms)[item], self._bonds.distance[item]
        names = label_atoms(snapshot.atoms, atoms).replace(", ", "-")
        return f"bond {names} is {length:.2f} Å long, {reference:.2f} Å at the start", atoms

    def failed(self, snapshot: Snapshot, values: np.ndarray, held: np.ndarray) -> list[Finding]:
        """Set proton transfers apart from broken bonds."""
        moves = {int(k): self._new_partner(snapshot, int(k)) for k in np.flatnonzero(held)}
        broken = held.copy()
        broken[[k for k, partner in moves.items() if partner is not None]] = False
        if broken.any() and self.topology == "fixed":
            return super().failed(snapshot, values, broken)
        findings = [self._transfer(snapshot, k, p) for k, p in moves.items() if p is not None]
        if broken.any():
            findings.append(self._reaction(snapshot, values, broken))
        return findings

    def _reaction(self, snapshot: Snapshot, values: np.ndarray, broken: np.ndarray) -> Finding:
        """Log the broken bonds and watch them no longer."""
        item = int(np.flatnonzero(broken)[np.argmax(values[broken])])
        finding = self.finding("warn", snapshot, item, float(values[item]))
        self.note = "bonds were broken, which is allowed here; they are watched no longer"
        self._bonds = Pairs(*(column[~broken] for column in self._bonds))
        if self._since is not None:
            self._since = self._since[~broken]
        return replace(finding, message=f"reaction: {finding.message}")

    def _new_partner(self, snapshot: Snapshot, item: int) -> tuple[int, int, np.ndarray] | None:
        """Where the bond's hydrogen sits now, as (hydrogen, heavy atom, cell shift)."""
        numbers = snapshot.atoms.numbers
        ends = int(self._bonds.first[item]), int(self._bonds.second[item])
        hydrogens = [end for end in ends if numbers[end] == 1]
        if len(hydrogens) != 1:
            return None
        hydrogen = hydrogens[0]
        old = ends[0] if ends[1] == hydrogen else ends[1]
        pairs = close_pairs(snapshot)
        limit = self.bonded * radii_sum(numbers, pairs.first, pairs.second)
        mine = np.flatnonzero(
            (pairs.first == hydrogen)
            & (numbers[pairs.second] != 1)
            & (pairs.second != old)
            & (pairs.distance <= limit)
        )
        if len(mine) == 0:
            return None
        nearest = mine[np.argmin(pairs.distance[mine])]
        return hydrogen, int(pairs.second[nearest]), pairs.shift[nearest]

    def _transfer(
        self, snapshot: Snapshot, item: int, move: tuple[int, int, np.ndarray]
    ) -> Finding:
        hydrogen, heavy, shift = move
        length, atoms = float(self.measure(snapshot)[item]), snapshot.atoms
        old = int(self._bonds.first[item] + self._bonds.second[item] - hydrogen)
        self._bonds.first[item], self._bonds.second[item] = hydrogen, heavy
        self._bonds.shift[item] = shift
        self._bonds.distance[item] = radii_sum(
            atoms.numbers, np.array([hydrogen]), np.array([heavy])
        )[0]
        if self._since is not None:
            self._since[item] = np.inf
        self.status = "warned"
        self.note = "a proton was transferred; its new bond is watched since"
        names = [label_atoms(atoms, [k]) for k in (hydrogen, old, heavy)]
        return Finding(
            check=self.name,
            severity="warn",
            message=f"proton transfer: {names[0]} went from {names[1]} to {names[2]}",
            value=length,
            threshold=self.fail_limit,
            atoms=(hydrogen, old, heavy),
            step=snapshot.step,
            time=snapshot.time,
            temperature=self.context.temperature,
        )


@dataclass
class DetachedHydrogenCheck(Check):
    """Distance of each hydrogen from its nearest heavy atom.

    Watched are the hydrogens that had a heavy atom within the limit at the start (not those of
    H2 gas).

    Attributes
    ----------
    topology : {"fixed", "reactive"}
        "reactive": another hydrogen is as good as a heavy atom, so H2 may leave.
    fail_at : float
        In Å. Default 2.5: longer than any X–H bond (I–H 1.6) and than most hydrogen bonds.
    repeat : float
        For this long, in fs. Default 20: two periods of an X–H stretch.
    """

    topology: Topology = "fixed"
    fail_at: float = 2.5
    repeat: float = 20.0

    name: ClassVar[str] = "detached_h"
    definition: ClassVar[str] = (
        "distance of H from its nearest heavy atom; fails above {fail_at:g} Å for {repeat:g} fs"
    )
    unit: ClassVar[str] = "Å"

    _watched: np.ndarray = field(init=False, repr=False)

    def start(self, atoms: Atoms, context: RunContext) -> None:
        """Note which hydrogens to watch."""
        super().start(atoms, context)
        nearest = self._nearest_heavy(atoms, find_pairs(atoms, longest(atoms)))
        self._watched = np.flatnonzero((atoms.numbers == 1) & (nearest <= self.fail_at))
        if len(self._watched) == 0:
            self.status = "does not apply"
            self.note = "no hydrogen on a heavy atom in the starting structure"

    def measure(self, snapshot: Snapshot) -> np.ndarray:
        """Distance of each watched hydrogen in Å; infinite beyond the reach of the pair search."""
        return self._nearest_heavy(snapshot.atoms, close_pairs(snapshot))[self._watched]

    def _nearest_heavy(self, atoms: Atoms, pairs: Pairs) -> np.ndarray:
        heavy = (atoms.numbers[pairs.second] != 1) | (self.topology == "reactive")
        return nearest(len(atoms), pairs.first[heavy], pairs.distance[heavy])

    def describe(self, snapshot: Snapshot, item: int, value: float) -> tuple[str, tuple[int, ...]]:
        """Name the hydrogen."""
        atom = int(self._watched[item])
        name = label_atoms(snapshot.atoms, [atom])
        return f"{name} is farther than {self.fail_at:g} Å from every heavy atom", (atom,)


@dataclass
class IsolatedAtomCheck(Check):
    """Nearest neighbour of each atom, as r_ij / max(2.5 Å, 1.5(R_i + R_j)).

    Watched are the atoms that had a neighbour within the limit at the start (not those of a gas
    or of solid argon, whose atoms are held by dispersion at 1.8 (R_i + R_j)).

    Attributes
    ----------
    fail_at : float
        Default 1.
    repeat : float
        For this long, in fs. Default 20.
    """

    fail_at: float = 1.0
    repeat: float = 20.0

    name: ClassVar[str] = "isolated_atom"
    definition: ClassVar[str] = (
        "min over j of r_ij/max(2.5 Å, 1.5 (R_i + R_j)) for each atom; fails above {fail_at:g} "
        "for {repeat:g} fs"
    )
    unit: ClassVar[str] = "max(2.5 Å, 1.5 (R_i + R_j))"

    _watched: np.ndarray = field(init=False, repr=False)

    def start(self, atoms: Atoms, context: RunContext) -> None:
        """Note which atoms to watch."""
        super().start(atoms, context)
        values = self._values(atoms, find_pairs(atoms, longest(atoms)))
        self._watched = np.flatnonzero(values <= self.fail_at)
        if len(self._watched) == 0:
            self.status = "does not apply"
            self.note = "every atom is isolated in the starting structure"

    def measure(self, snapshot: Snapshot) -> np.ndarray:
        """Value of each watched atom; infinite beyond the reach of the pair search."""
        return self._values(snapshot.atoms, close_pairs(snapshot))[self._watched]

    @staticmethod
    def _values(atoms: Atoms, pairs: Pairs) -> np.ndarray:
        reach = isolation_distance(radii_sum(atoms.numbers, pairs.first, pairs.second))
        return nearest(len(atoms), pairs.first, pairs.distance / reach)

    def describe(self, snapshot: Snapshot, item: int, value: float) -> tuple[str, tuple[int, ...]]:
        """Name the atom."""
        atom = int(self._watched[item])
        return f"{label_atoms(snapshot.atoms, [atom])} has lost all its neighbours", (atom,)


def covalent_bonds(atoms: Atoms, bonded: float) -> Pairs:
    """Bonds closer than `bonded` × (R_i + R_j), each once; see `BondCheck` for the elements."""
    numbers = atoms.numbers
    pairs = find_pairs(atoms, longest(atoms))
    non_metal, metalloid = np.isin(numbers, NON_METALS), np.isin(numbers, _METALLOIDS)
    first, second = pairs.first, pairs.second
    covalent = (non_metal[first] & (non_metal | metalloid)[second]) | (
        metalloid[first] & non_metal[second]
    )
    near = pairs.distance <= bonded * radii_sum(numbers, first, second)
    # The list holds both directions; of an atom and its own image keep the one whose shift is
    # positive when read as a number with the first component leading.
    leading = pairs.shift @ np.array([10**6, 10**3, 1])
    once = (first < second) | ((first == second) & (leading > 0))
    return Pairs(*(column[covalent & near & once].copy() for column in pairs))


def nearest(n_atoms: int, first: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Smallest value of each atom; infinite for atoms without any."""
    smallest = np.full(n_atoms, np.inf)
    np.minimum.at(smallest, first, values)
    return smallest
