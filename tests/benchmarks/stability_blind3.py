"""Ten blind cases, made without sight of the suite's checks; truth from plain ASE (see notes)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import BaseCalculator, Calculator, all_changes
from ase.cluster import Octahedron
from ase.neighborlist import neighbor_list
from ase.spacegroup import crystal
from stability_case import Case

from ase_ws.testing import good
from ase_ws.testing.bad.wrapping import Broken, PairTerm, Point


# Structures
def strontium_titanate() -> Atoms:
    """Cubic perovskite, two cells."""
    places = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    return Atoms("SrTiO3", scaled_positions=places, cell=[3.905] * 3, pbc=True) * (2, 1, 1)


def fluorite() -> Atoms:
    """CaF2, twelve atoms."""
    return bulk("CaF2", "fluorite", a=5.52, cubic=True)


def gallium_nitride() -> Atoms:
    """Wurtzite, eight atoms."""
    return bulk("GaN", "wurtzite", a=3.22, c=5.24) * (2, 1, 1)


def brucite() -> Atoms:
    """Mg(OH)2, a layered hydroxide, five atoms."""
    return crystal(
        ["Mg", "O", "H"],
        [(0, 0, 0), (1 / 3, 2 / 3, 0.2203), (1 / 3, 2 / 3, 0.4295)],
        spacegroup=164,
        cellpar=[3.142, 3.142, 4.766, 90, 90, 120],
    )


def platinum_palladium() -> Atoms:
    """A truncated octahedron of 38 atoms, Pt inside."""
    made = Octahedron("Pd", 4, cutoff=1, latticeconstant=3.90)
    found = Atoms(made.get_chemical_symbols(), made.positions - made.positions.mean(axis=0))
    inside = np.linalg.norm(found.positions, axis=1) < 3.0
    found.symbols[inside] = "Pt"
    return found


def methanethiolate() -> Atoms:
    """CH3S-, closed shell: without the spin of the radical that ASE's collection gives."""
    radical = molecule("CH3S")
    return Atoms(radical.get_chemical_symbols(), radical.positions)


def hexagonal_carbide() -> Atoms:
    """2H-SiC, eight atoms."""
    return bulk("SiC", "wurtzite", a=3.06, c=5.0) * (2, 1, 1)


def krypton_fluid() -> Atoms:
    """Krypton at the density of the liquid, from a lattice."""
    found = bulk("Kr", cubic=True, a=6.2) * (2, 2, 2)
    found.rattle(0.3, seed=5)
    return found


# Potentials from papers
def chgnet() -> BaseCalculator:
    """CHGNet 0.3.0."""
    from chgnet.model.dynamics import CHGNetCalculator

    return CHGNetCalculator(use_device="cpu", verbose=False)


def sevennet() -> BaseCalculator:
    """SevenNet-0."""
    import torch

    torch.serialization.add_safe_globals([slice])
    from sevenn.calculator import SevenNetCalculator

    return SevenNetCalculator("7net-0", device="cpu")


# Harmless ugliness
class TextOutput(Broken):
    """Numbers as a program prints them: energies to 1e-6 eV, forces to 1e-4 eV/Å."""

    def spoil(self, atoms: Atoms, point: Point) -> Point:
        return Point(round(point.energy, 6), np.round(point.forces, 4), point.stress)


class Ripple(PairTerm):
    """A wave on the pair energy, ±2 meV with a period of 0.2 Å, exact forces."""

    height, period = 2e-3, 0.2

    def __init__(self, base: BaseCalculator):
        super().__init__(base, cutoff=5.0)

    def pair(self, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        k = 2 * np.pi / self.period
        # (1 - x²)³ goes to zero with two derivatives at the cutoff.
        x = r / self.cutoff
        fade, fade_slope = (1 - x**2) ** 3, -6 * x * (1 - x**2) ** 2 / self.cutoff
        wave, wave_slope = np.cos(k * r), -k * np.sin(k * r)
        return self.height * wave * fade, self.height * (wave_slope * fade + wave * fade_slope)


class DeepHoleWrongStress(PairTerm):
    """A hole at 0.8 Å, with exact forces; and a stress 8 GPa off the diagonal and halved on it."""

    depth, place, width = 150.0, 0.80, 0.10

    def __init__(self, base: BaseCalculator):
        super().__init__(base, cutoff=1.3)

    def pair(self, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        u = (r - self.place) / self.width
        v = -self.depth * np.exp(-(u**2))
        return v, -2 * u / self.width * v

    def spoil(self, atoms: Atoms, point: Point) -> Point:
        made = super().spoil(atoms, point)
        if made.stress is None:
            return made
        wrong = made.stress * np.array([0.5, 0.5, 0.5, 1, 1, 1])
        return Point(made.energy, made.forces, wrong + np.array([0, 0, 0, 8, 0, 0]) * units.GPa)


# Faults
class PulayStress(Broken):
    """The stress of a basis too small: 5 GPa too tensile; energies and forces untouched."""

    def spoil(self, atoms: Atoms, point: Point) -> Point:
        if point.stress is None:
            return point
        extra = 5.0 * units.GPa * np.array([1, 1, 1, 0, 0, 0])
        return Point(point.energy, point.forces, point.stress + extra)


class ChlorineTrap(PairTerm):
    """A hole where two chlorines come to 2.75 Å, exact forces."""

    depth, place, width = 6.0, 2.75, 0.15

    def __init__(self, base: BaseCalculator):
        super().__init__(base, cutoff=3.3, elements=("Cl", "Cl"))

    def pair(self, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        u = (r - self.place) / self.width
        v = -self.depth * np.exp(-(u**2))
        return v, -2 * u / self.width * v


class StaleNeighbours(Calculator):
    """Smooth Lennard-Jones whose list of pairs has no skin and is made anew at every 200th call.

    v(r) = 4ε[(σ/r)¹² − (σ/r)⁶](1 − (r/r_c)²)³. Energy and forces belong together as long as the
    list is kept; a pair that comes in from beyond r_c is missed until the list is made anew.
    """

    implemented_properties = ["energy", "free_energy", "forces"]  # noqa: RUF012
    epsilon, sigma, r_cut, every = 0.0142, 3.62, 6.0, 200

    def __init__(self, every: int | None = None):
        super().__init__()
        self.every = every or self.every
        self._pairs: tuple[np.ndarray, ...] | None = None
        self._made_for: tuple[Any, ...] = ()
        self._age = 0

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        super().calculate(atoms, list(properties), list(system_changes))
        given = self.atoms
        key = (len(given), tuple(given.pbc), given.cell.array.tobytes())
        if self._pairs is None or key != self._made_for or self._age >= self.every:
            self._pairs = neighbor_list("ijS", given, self.r_cut)
            self._made_for, self._age = key, 0
        self._age += 1
        first, second, shift = self._pairs
        vectors = given.positions[second] - given.positions[first] + shift @ given.cell.array
        r = np.linalg.norm(vectors, axis=1)
        x = np.minimum(r / self.r_cut, 1.0)
        six = (self.sigma / r) ** 6
        v, slope = 4 * self.epsilon * (six**2 - six), -24 * self.epsilon * (2 * six**2 - six) / r
        fade, fade_slope = (1 - x**2) ** 3, -6 * x * (1 - x**2) ** 2 / self.r_cut
        pulls = ((slope * fade + v * fade_slope) / r)[:, None] * vectors
        forces = np.zeros((len(given), 3))
        np.add.at(forces, first, pulls)
        energy = 0.5 * float((v * fade).sum())
        self.results = {"energy": energy, "free_energy": energy, "forces": forces}


BLIND3_GOOD: list[Case] = [
    Case(
        "good_blind3_chgnet_perovskite",
        strontium_titanate,
        chgnet,
        400.0,
        timestep=1.0,
        needs="chgnet",
        after_thresholds=True,
        note=(
            "CHGNet 0.3.0 as published. Plain NVE from velocities of 800 K (1 fs): drift "
            "-0.05 (1 ps) and -0.02 (0.5 ps) meV/atom/ps with two seeds, rms 0.03 meV/atom; "
            "forces are the gradient to 0.004 eV/Å (central difference of 0.01 Å in float32). "
            "At 2 fs it drifts by -0.4 meV/atom/ps: hence 1 fs."
        ),
    ),
    Case(
        "good_blind3_sevennet_wurtzite_npt",
        gallium_nitride,
        sevennet,
        300.0,
        timestep=2.0,
        ensemble="npt",
        needs="sevenn",
        after_thresholds=True,
        note=(
            "SevenNet-0 as published. NVE from 600 K, 2 fs: drift 0.01 meV/atom/ps, two "
            "seeds; forces to 0.002 eV/Å; stress_zz -4.031 GPa, from the energy -4.033. "
            "Berendsen NPT of ASE, 0.8 ps: volume 1.002 of the start."
        ),
    ),
    Case(
        "good_blind3_xtb_anion_text_output",
        methanethiolate,
        lambda: TextOutput(good.gfn2_xtb(charge=-1)),
        400.0,
        needs="tblite",
        after_thresholds=True,
        note=(
            "CH3S- by GFN2-xTB (self-consistent), energies rounded to 1e-6 eV and forces to "
            "1e-4 eV/Å as in a program's output (errors of at most 5e-5 eV/Å). NVE from 800 "
            "K, 0.5 fs, 1 ps: drift 0.07 and 0.02 meV/atom/ps, two seeds."
        ),
    ),
    Case(
        "good_blind3_nanoparticle_ripple",
        platinum_palladium,
        lambda: Ripple(good.emt()),
        500.0,
        timestep=2.0,
        ensemble="nve",
        after_thresholds=True,
        note=(
            "EMT plus ±2 meV x cos(2π r/0.2 Å) on every pair, faded out to second order at 5 "
            "Å: about ±0.05 eV/Å of ripple in the forces, exact derivatives (4e-8 eV/Å by "
            "central differences). NVE from 1000 K, 2 fs, 1 ps: drift 0.006 and 0.003 "
            "meV/atom/ps."
        ),
    ),
    Case(
        "good_blind3_carbide_deep_hole_wrong_stress_nvt",
        hexagonal_carbide,
        lambda: DeepHoleWrongStress(good.tersoff()),
        400.0,
        timestep=0.5,
        after_thresholds=True,
        note=(
            "Tersoff. A hole at 0.8 Å with exact forces (1e-5 eV/Å) behind a wall of 40 eV "
            "(bond of 1.9 Å: -49.3 eV, top at 1.0 Å: -9.5 eV); the stress has its diagonal "
            "halved and 8 GPa of shear, in NVT where nobody uses it. NVE from 800 K, 0.5 fs, "
            "1 ps: drift -0.04, 0.01, 0.06 meV/atom/ps, three seeds."
        ),
    ),
]

BLIND3_BAD: list[Case] = [
    Case(
        "bad_blind3_chgnet_pulay_stress_npt",
        fluorite,
        lambda: PulayStress(chgnet()),
        300.0,
        timestep=2.0,
        ensemble="npt",
        checks=frozenset({"stress_work"}),
        blame="model",
        needs="chgnet",
        after_thresholds=True,
        note=(
            "CHGNet with a constant 5 GPa in the diagonal of the stress, as of a plane-wave "
            "basis too small. Energies and forces are CHGNet's: NVE drift 0.05 meV/atom/ps. "
            "Rattled: stress_xx 4.19 GPa, from the energy -0.81 GPa (CHGNet itself: -0.807). "
            "Berendsen NPT of ASE, 1 ps at 300 K: volume 0.960 of the start, CHGNet itself "
            "1.028: wrong by 6.6 %."
        ),
    ),
    Case(
        "bad_blind3_sevennet_brucite_timestep",
        brucite,
        sevennet,
        300.0,
        timestep=2.5,
        checks=frozenset(
            {"drift", "fluctuation", "energy", "temperature", "force", "bond", "contact", "finite"}
        ),
        blame="timestep",
        needs="sevenn",
        after_thresholds=True,
        note=(
            "A good potential, but O-H (9 fs) at 2.5 fs. NVE from 300 K explodes after 18 and "
            "41 steps (two seeds, energy up by > 50 eV/atom); also at 2 fs. At 0.5 fs, from "
            "600 K, drift -0.008, at 1 fs -0.02 meV/atom/ps."
        ),
    ),
    Case(
        "bad_blind3_xtb_loose_scf",
        lambda: molecule("CH3NO2"),
        lambda: good.gfn2_xtb(accuracy=100.0),
        400.0,
        checks=frozenset({"work", "repeatable", "drift", "invariances"}),
        blame="model",
        needs="tblite",
        after_thresholds=True,
        note=(
            "tblite with accuracy=100. Against accuracy=0.01 along its own MD at 800 K the "
            "forces are off by 0.034 (median), 0.10 (worst) eV/Å on an atom. NVE from 800 K, "
            "0.5 fs, 1 ps: drift 52 and 29 meV/atom/ps (47 with a third seed), with "
            "accuracy=0.1 -0.01."
        ),
    ),
    Case(
        "bad_blind3_stale_neighbours",
        krypton_fluid,
        StaleNeighbours,
        400.0,
        ps=4.0,
        timestep=4.0,
        checks=frozenset({"drift", "fluctuation", "repeatable", "work", "contact"}),
        blame="model",
        after_thresholds=True,
        note=(
            "Smooth Lennard-Jones whose list of pairs has no skin and lives for 200 calls. "
            "NVE of 4 fs: quiet until the list is made anew, then atoms that nobody saw "
            "overlap: after 190 calls E is off by 136 eV; explosion at call 200 or 400 (from "
            "800 K) and 401 or 600 (from 400 K) with all of five seeds and temperatures. With "
            "a new list at every step: drift -1e-4 meV/atom/ps."
        ),
    ),
    Case(
        "bad_blind3_chlorine_trap",
        lambda: molecule("SiCl4"),
        lambda: ChlorineTrap(good.gfn2_xtb()),
        1000.0,
        timestep=1.0,
        checks=frozenset({"contact_scan", "rattle_ladder", "energy", "temperature", "contact"}),
        blame="model",
        needs="tblite",
        after_thresholds=True,
        note=(
            "GFN2-xTB plus a hole of 6 eV where two Cl come to 2.75 Å (3.31 at rest), exact "
            "forces (7e-5 eV/Å), nothing at the start. Bending to 3.10 Å costs 0.14 eV, and "
            "the hole opens there. NVE from 1000 K: T above 3000 K after 36, never, 57 fs; "
            "from 2000 K after 24, 81, 35 fs (three seeds each), then mean T 6000 to 8000 K. "
            "GFN2-xTB alone: T as set, drift -0.02."
        ),
    ),
]
