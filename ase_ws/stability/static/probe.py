"""Ask a calculator for energies and forces around a structure, and how noisy they are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import PropertyNotImplementedError

from ase_ws.md.evaluation import potential_energy
from ase_ws.md.observer import Ensemble, label_atoms
from ase_ws.results.settings import StabilitySettings
from ase_ws.stability.judged.answers import Judged, PotentialError, energy_tolerance
from ase_ws.stability.static.counter import Counter

#: Periodic cells with fewer atoms are repeated: an atom must be able to move against its images.
SMALLEST_CELL = 8
_NOISE_POINTS = 16
# In Å. Short for the energy, of which a kink in the second derivative leaves h² behind; longer for
# forces, which some codes print with few digits.
_ENERGY_STEP, _FORCE_STEP = 1e-4, 1e-3


class ProbeError(Exception):
    """The calculator raised, or gave something that is not finite.

    Attributes
    ----------
    atoms : tuple of int
        Whose forces are not finite.
    """

    def __init__(self, message: str, atoms: tuple[int, ...] = ()):
        super().__init__(message)
        self.atoms = atoms


class Noise(NamedTuple):
    """Standard deviation of energy (eV) and of a force component (eV/Å) around a smooth curve."""

    energy: float
    force: float


#: The most that is granted: a meV is what float32 loses on a molecule of 10,000 eV, and 1 % of a
#: thermal force is more than any converged self-consistency leaves.
MOST_NOISE = Noise(1e-3, 1e-2)


@dataclass(frozen=True)
class Conditions:
    """The MD that static checks speak about: what cannot matter in it fails no verdict.

    Attributes
    ----------
    temperature : float
        The highest that was asked for, in K.
    ensemble : {"nve", "nvt", "npt"}
    """

    temperature: float = 300.0
    ensemble: Ensemble = "nvt"

    @classmethod
    def of(cls, settings: StabilitySettings) -> Conditions:
        """Take the hottest of what is to be run."""
        return cls(max(settings.temperatures), settings.ensemble)

    @property
    def thermal_energy(self) -> float:
        """Thermal energy k_B T in eV."""
        return units.kB * self.temperature


class Probe:
    """A structure and its calculator, asked at displaced positions; the original stays as it is.

    Parameters
    ----------
    atoms : Atoms
        With a calculator. Constraints are left out. A periodic cell of fewer than
        `SMALLEST_CELL` atoms is repeated twice along each periodic direction.
    conditions : Conditions
        Of the MD that is asked about.

    Attributes
    ----------
    atoms : Atoms
        The (repeated) structure, without calculator.
    calculator : ASE calculator
    conservative : bool
        What the calculator says of its forces; True where it says nothing.
    evaluations : Counter
        Of the structures that were asked about.
    """

    def __init__(self, atoms: Atoms, conditions: Conditions | None = None):
        self.calculator = Judged.of(atoms)
        self.conditions = conditions or Conditions()
        self.evaluations = Counter()
        self.conservative = bool(getattr(self.calculator, "conservative", True))
        self._n_original = len(atoms)
        # Plain atoms: those of `ase.cluster` can be copied once, but not the copy.
        bare = atoms.copy()
        # Constraints of one's own may know no other way to be copied.
        bare.set_constraint()
        self.atoms = Atoms(bare)
        if atoms.pbc.any() and len(atoms) < SMALLEST_CELL:
            self.atoms = self.atoms.repeat([2 if periodic else 1 for periodic in atoms.pbc])
        self._moved = self.with_calculator(self.atoms)

    def with_calculator(self, atoms: Atoms) -> Atoms:
        """Copy some atoms and give the copy the calculator."""
        copy = atoms.copy()
        copy.calc = self.calculator
        return copy

    def come_home(self, stage: str) -> None:
        """Bring a calculator with a state back to the start, after squeezing or tearing atoms.

        Raises
        ------
        LostStart
            Nothing helps.
        """
        if self.calculator.home is not None:
            self.calculator.home.back(stage)

    def original(self, index: int | np.integer) -> int:
        """Index of an atom in the structure as it was given."""
        return int(index) % self._n_original

    def label(self, *indices: int) -> str:
        """Name atoms, as "C0, H5", with the indices of the structure as it was given."""
        return label_atoms(self.atoms, [self.original(i) for i in indices])

    def energy(self, positions: np.ndarray | None = None) -> float:
        """Energy in eV at these positions, (n_atoms, 3), Å; default the structure's own."""
        self._moved.positions = self.atoms.positions if positions is None else positions
        return self.energy_of(self._moved)

    def forces(self, positions: np.ndarray | None = None) -> np.ndarray:
        """Give the forces at these positions, (n_atoms, 3), eV/Å."""
        self._moved.positions = self.atoms.positions if positions is None else positions
        return self.forces_of(self._moved)

    def energy_of(self, atoms: Atoms) -> float:
        """Energy in eV of other atoms that have the calculator."""
        self.evaluations.asked(atoms)
        try:
            energy = potential_energy(atoms)
        except PotentialError as error:
            raise ProbeError(str(error)) from error
        if not np.isfinite(energy):
            raise ProbeError(f"the energy is {energy}")
        return energy

    def forces_of(self, atoms: Atoms) -> np.ndarray:
        """Give the forces in eV/Å of other atoms that have the calculator."""
        self.evaluations.asked(atoms)
        try:
            forces = np.array(atoms.get_forces(apply_constraint=False), dtype=float)
        except PotentialError as error:
            raise ProbeError(str(error)) from error
        bad = np.flatnonzero(~np.isfinite(forces).all(axis=1))
        if len(bad):
            named = tuple(sorted({self.original(i) for i in bad}))
            names = label_atoms(self.atoms, named)
            raise ProbeError(f"forces are not finite ({names})", named)
        return forces

    def stress_of(self, atoms: Atoms) -> np.ndarray | None:
        """Stress in eV/Å³, Voigt order; None where the calculator has none."""
        self.evaluations.asked(atoms)
        try:
            stress = np.array(atoms.get_stress(apply_constraint=False), dtype=float)
        except PropertyNotImplementedError:
            return None
        except PotentialError as error:
            raise ProbeError(str(error)) from error
        if not np.isfinite(stress).all():
            raise ProbeError("the stress is not finite")
        return stress

    @cached_property
    def start_energy(self) -> float:
        """Energy of the structure itself in eV."""
        return self.energy()

    @cached_property
    def largest_force(self) -> float:
        """Largest force on an atom of the structure itself, in eV/Å."""
        return float(np.linalg.norm(self.forces(), axis=1).max())

    def is_relaxed(self, fmax: float = 0.1) -> bool:
        """Whether no force is larger than `fmax`, twice what `relax` asks for, in eV/Å."""
        return bool(self.largest_force <= fmax)

    def rattled(self, sigma: float = 0.05, seed: int = 7) -> Atoms:
        """Displaced copy with the calculator: where no symmetry and no minimum hides an error."""
        copy = self.with_calculator(self.atoms)
        copy.positions += np.random.default_rng(seed).normal(0.0, sigma, copy.positions.shape)
        return copy

    @cached_property
    def noise(self) -> Noise:
        """Noise of energy and forces near the structure.

        Fourth differences of a smooth function along a short line vanish as the fourth power of
        its steps; those of noise have √70 times its standard deviation. Their median does not
        see a single step in the energy, which is no noise. Energies that are float32 numbers are
        uncertain by their spacing at least, also where all of them are the same. Self-consistent
        methods depend on where they come from: the largest deviation at the structure itself,
        reached from four displaced ones, counts as noise too.

        No more is granted than `MOST_NOISE`, or four times the spacing of float32 numbers: a
        calculator with more must not widen the limits that it is to be judged by.
        """
        direction = random_direction(np.random.default_rng(1), len(self.atoms))
        places = np.arange(_NOISE_POINTS) - _NOISE_POINTS / 2
        start = self.atoms.positions
        forces = np.array([self.forces(start + _FORCE_STEP * k * direction) for k in places])
        energies = np.array([self.energy(start + _ENERGY_STEP * k * direction) for k in places])
        energy, force = _median_noise(energies), _median_noise(forces)
        spacing = float(np.spacing(np.abs(energies).max().astype(np.float32)))
        if (energies == energies.astype(np.float32)).all():
            energy = max(energy, spacing)
        again = self._reached_again()
        most = energy_tolerance(float(np.abs(energies).max()))
        return Noise(
            min(max(energy, again.energy), most),
            min(max(force, again.force), MOST_NOISE.force),
        )

    def _reached_again(self) -> Noise:
        """Largest deviation at the structure itself, coming from elsewhere."""
        energies, forces = [], []
        for seed in range(4):
            self.forces(self.rattled(seed=seed).positions)
            forces.append(self.forces())
            energies.append(self.energy())
        deviations = np.abs(np.array(forces) - np.mean(forces, axis=0))
        return Noise(float(np.ptp(energies)) / 2.0, float(deviations.max()))


def random_direction(rng: np.random.Generator, n_atoms: int) -> np.ndarray:
    """Random (n_atoms, 3) displacement with a root mean square length per atom of 1."""
    direction = rng.normal(size=(n_atoms, 3))
    return direction * np.sqrt(n_atoms) / np.linalg.norm(direction)


def fourth_differences(values: np.ndarray) -> np.ndarray:
    """y₀ − 4y₁ + 6y₂ − 4y₃ + y₄ along the first axis; four shorter than `values`."""
    return np.diff(values, n=4, axis=0)


def _median_noise(values: np.ndarray) -> float:
    # The median of |x| is 0.6745 σ for normal x.
    return float(np.median(np.abs(fourth_differences(values))) / (0.6745 * np.sqrt(70.0)))
