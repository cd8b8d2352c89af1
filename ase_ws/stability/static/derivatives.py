"""Forces and stress against finite differences of the energy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_strain

from ase_ws.md.observer import Finding
from ase_ws.stability.static.differences import Differences, choose_steps, noise_note
from ase_ws.stability.static.probe import Probe, random_direction
from ase_ws.stability.static.result import StaticCheck, StaticResult


@dataclass
class ForcesFD(StaticCheck):
    """Forces F against −∂E/∂r by finite differences of the energy.

    Taken at a copy whose atoms are displaced at random by 0.05 Å, so that forces that vanish at a
    minimum do not hide a wrong sign or factor. Up to `all_components` atoms the value is the
    largest difference over all components. Above, it is √(3n) × the root mean square over
    `n_directions` random unit vectors u of F·u + dE/du, an estimate of the length of the whole
    error and so no less than its largest component; 60 energies whatever the size, 180 where
    shorter steps have to be tried.

    For a calculator that says that it is not conservative, the RMS difference of a component is
    reported, and warns.

    Attributes
    ----------
    fail_at : float
        In eV/Å. Default 1e-3 (design table, section 7): in float64 the differences are good to
        1e-6, and forces wrong by this much heat an atom that moves 10 Å/ps by 10 meV/ps at most.
        Where the energy is noisy (float32), five standard deviations of the differences where
        that is more; the note says so.
    all_components : int
    n_directions : int
    steps : tuple of float
        In Å; the first one that satisfies the limit counts (see `Differences`).
    noisy_step : float
        In Å, for energies with a noise above 1 µeV: the error that noise makes grows with the
        inverse of the step.
    seed : int
        Of the directions.
    """

    fail_at: float = 1e-3
    all_components: int = 10
    n_directions: int = 15
    steps: tuple[float, ...] = (0.005, 0.0005, 0.00005)
    noisy_step: float = 0.02
    seed: int = 0

    name: ClassVar[str] = "forces_fd"
    definition: ClassVar[str] = (
        "largest difference of the forces and -dE/dr by central differences, at a structure "
        "displaced by 0.05 Å; fails above 1e-3 eV/Å (direct forces: RMS, warns)"
    )
    unit: ClassVar[str] = "eV/Å"

    def judge(self, probe: Probe) -> StaticResult:
        """Compare."""
        atoms = probe.rattled()
        forces = probe.forces_of(atoms)
        few = len(atoms) <= self.all_components
        differences = choose_steps(self.steps, self.noisy_step, probe.noise.energy)
        # Over all 3n coordinates, random directions carry √(3n) times the error of one, and
        # their steps are √n times as long.
        sigma = differences.sigma(differences.steps[0]) * (1.0 if few else np.sqrt(3.0))
        limit = max(self.fail_at, 5.0 * sigma)
        compare = self._components if few else self._projections
        if not probe.conservative:
            errors = compare(probe, atoms.positions, forces, differences, np.inf)
            return self._direct(float(np.sqrt(np.mean(errors**2))))
        errors = compare(probe, atoms.positions, forces, differences, limit)
        worst = float(np.abs(errors).max() if few else np.linalg.norm(errors))
        note = ""
        if limit > self.fail_at:
            note = noise_note(differences.noise, self.fail_at, limit, self.unit)
        findings = []
        if not worst <= limit:
            findings.append(self._failure(probe, forces, errors, worst, limit, few))
        return self.result(worst, findings, fail_at=limit, note=note)

    @staticmethod
    def _components(
        probe: Probe,
        start: np.ndarray,
        forces: np.ndarray,
        differences: Differences,
        limit: float,
    ) -> np.ndarray:
        """Error of each force component, (n_atoms, 3)."""
        errors = np.empty(forces.shape)
        for index in np.ndindex(*forces.shape):

            def energy(t: float, index: tuple[int, ...] = index) -> float:
                moved = start.copy()
                moved[index] += t
                return -probe.energy(moved)

            errors[index] = differences.error(energy, float(forces[index]), limit)
        return errors

    def _projections(
        self,
        probe: Probe,
        start: np.ndarray,
        forces: np.ndarray,
        differences: Differences,
        limit: float,
    ) -> np.ndarray:
        """Numbers, (n_atoms, 3), with the RMS of the error along a few random unit vectors."""
        rng, found = np.random.default_rng(self.seed), []
        length = np.sqrt(len(forces))
        for _ in range(self.n_directions):
            direction = random_direction(rng, len(forces))

            def energy(t: float, direction: np.ndarray = direction) -> float:
                return -probe.energy(start + t * direction)

            expected = float(np.vdot(forces, direction))
            # The limit is for √(3n) × the error along the unit vector direction/√n.
            error = differences.error(energy, expected, limit / np.sqrt(3.0))
            found.append(error / length)
        return np.full(forces.shape, np.sqrt(np.mean(np.square(found))))

    def _failure(
        self,
        probe: Probe,
        forces: np.ndarray,
        errors: np.ndarray,
        worst: float,
        limit: float,
        few: bool,
    ) -> Finding:
        what = "the forces are not the gradient of the energy"
        if not few:
            message = f"{what}: they differ by about {worst:.3g} eV/Å in all"
            return self.finding("fail", message, worst, limit)
        atom, axis = divmod(int(np.abs(errors).argmax()), 3)
        force = forces[atom, axis]
        message = (
            f"{what}: {'xyz'[axis]} of the force on {probe.label(atom)} is {force:.4g} eV/Å, "
            f"the energy says {force - errors[atom, axis]:.4g}"
        )
        return self.finding("fail", message, worst, limit, [probe.original(atom)])

    def _direct(self, rms: float) -> StaticResult:
        message = (
            f"the forces are not the gradient of the energy: they differ by {1e3 * rms:.0f} meV/Å "
            "(RMS), so energy is not conserved and NVE runs heat up or cool down"
        )
        return self.result(rms, [self.finding("warn", message, rms)], note=message)


@dataclass
class StressFD(StaticCheck):
    """Stress σ against (1/V) ∂E/∂ε by finite differences, for each of the six strains ε.

    Taken at a copy with atoms displaced by 0.05 Å in a cell strained by 2 %, so that a stress
    that vanishes in the relaxed cell does not hide a wrong sign or factor. 24 energies.

    Attributes
    ----------
    fail_at : float
        In eV/Å³. Default 1e-4, 16 MPa: the 1e-3 eV/Å that the design allows a force (section 7)
        on the 10 Å² that an atom takes up in a plane. Wider where the energy is noisy, as for
        `ForcesFD`.
    steps, noisy_step : (tuple of) float
        Strains; see `ForcesFD`.
    """

    fail_at: float = 1e-4
    steps: tuple[float, ...] = (0.002, 0.0002, 0.00002)
    noisy_step: float = 0.008

    name: ClassVar[str] = "stress_fd"
    definition: ClassVar[str] = (
        "largest difference of the stress and (dE/d strain)/V by central differences, in a cell "
        "strained by 2 %; fails above 1e-4 eV/Å³ (direct forces: warns)"
    )
    unit: ClassVar[str] = "eV/Å³"

    def applies(self, probe: Probe) -> str | None:
        """Periodic structures with a full cell, where the calculator has a stress."""
        if not probe.atoms.pbc.any() or probe.atoms.cell.rank < 3:
            return "not periodic"
        if "stress" not in getattr(probe.calculator, "implemented_properties", ()):
            return "the calculator has no stress"
        return None

    def judge(self, probe: Probe) -> StaticResult:
        """Compare."""
        start = probe.rattled()
        start.set_cell(start.cell.array @ _bias_strain(), scale_atoms=True)
        stress = probe.stress_of(start)
        if stress is None:
            return self.without_value("does not apply", "the calculator has no stress")
        volume = start.get_volume()
        differences = choose_steps(self.steps, self.noisy_step, probe.noise.energy)
        limit = max(self.fail_at, 5.0 * differences.sigma(differences.steps[0]) / volume)
        errors = np.empty(6)
        for component in range(6):

            def energy(t: float, component: int = component) -> float:
                return probe.energy_of(_strained(probe, start, component, t))

            expected = stress[component] * volume
            errors[component] = differences.error(energy, expected, limit * volume) / volume
        worst = float(np.abs(errors).max())
        note = ""
        if limit > self.fail_at:
            note = noise_note(differences.noise, self.fail_at, limit, self.unit)
        findings = []
        if not worst <= limit:
            k = int(np.abs(errors).argmax())
            message = (
                f"the stress is not the gradient of the energy: {_VOIGT[k]} is {stress[k]:.4g} "
                f"eV/Å³, the energy says {stress[k] - errors[k]:.4g}"
            )
            severity = "fail" if probe.conservative else "warn"
            findings.append(self.finding(severity, message, worst, limit))
        return self.result(worst, findings, fail_at=limit, note=note)


_VOIGT = ("xx", "yy", "zz", "yz", "xz", "xy")


def _bias_strain() -> np.ndarray:
    """Identity plus a symmetric strain of 2 %, the same every time."""
    strain = np.random.default_rng(3).normal(0.0, 0.02, (3, 3))
    return np.eye(3) + 0.5 * (strain + strain.T)


def _strained(probe: Probe, atoms: Atoms, component: int, amount: float) -> Atoms:
    voigt = np.zeros(6)
    voigt[component] = amount
    strained = probe.with_calculator(atoms)
    # ASE's function adds the identity, and halves the shear components.
    strained.set_cell(atoms.cell.array @ voigt_6_to_full_3x3_strain(voigt), scale_atoms=True)
    return strained
