"""Forces and stress against finite differences of the energy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_strain

from ase_ws.stability.static.probe import Probe, random_direction
from ase_ws.stability.static.result import StaticCheck, StaticResult

#: The error of `slope` is this × the noise of the energy / step: √(8² + 8² + 1 + 1)/12.
SLOPE_NOISE = np.sqrt(130.0) / 12.0


def slope(function: Callable[[float], float], step: float) -> float:
    """Differentiate at zero by five points: (8(f₁ − f₋₁) − (f₂ − f₋₂))/(12 h).

    The error is h⁴/30 times the fifth derivative.
    """
    near = function(step) - function(-step)
    far = function(2.0 * step) - function(-2.0 * step)
    return (8.0 * near - far) / (12.0 * step)


@dataclass
class ForcesFD(StaticCheck):
    """Forces F against −∂E/∂r by finite differences of the energy.

    Taken at a copy whose atoms are displaced at random by 0.05 Å, so that forces that vanish at a
    minimum do not hide a wrong sign or factor. Up to `all_components` atoms the value is the
    largest difference over all components. Above, it is √(3n) × the root mean square over
    `n_directions` random unit vectors u of F·u + dE/du, an estimate of the length of the whole
    error and so no less than its largest component; 60 energies whatever the size.

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
    step, noisy_step : float
        In Å. The error of the differences grows with the fourth power of the step, that of noise
        with its inverse; the longer one is for energies with a noise above 1 µeV.
    seed : int
        Of the directions.
    """

    fail_at: float = 1e-3
    all_components: int = 10
    n_directions: int = 15
    step: float = 0.005
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
        noise = probe.noise.energy
        step = self.step if noise < 1e-6 else self.noisy_step
        few = len(atoms) <= self.all_components
        errors = self._components(probe, atoms, forces, step) if few else None
        if errors is None:
            errors = self._projections(probe, atoms, forces, step)
        rms = float(np.sqrt(np.mean(errors**2)))
        if not probe.conservative:
            return self._direct(rms)
        worst = float(np.abs(errors).max()) if few else rms * np.sqrt(errors.size)
        sigma = SLOPE_NOISE * noise / step * (1.0 if few else np.sqrt(3.0))
        limit = max(self.fail_at, 5.0 * sigma)
        note = "" if limit == self.fail_at else noise_note(noise, self.fail_at, limit, self.unit)
        findings = []
        if not worst <= limit:
            findings.append(self._failure(probe, forces, errors, worst, limit, few))
        return self.result(worst, findings, fail_at=limit, note=note)

    @staticmethod
    def _components(probe: Probe, atoms: Atoms, forces: np.ndarray, step: float) -> np.ndarray:
        start, errors = atoms.positions.copy(), np.empty(forces.shape)
        for index in np.ndindex(*forces.shape):

            def energy(t: float, index: tuple[int, ...] = index) -> float:
                moved = start.copy()
                moved[index] += t
                return probe.energy(moved)

            errors[index] = forces[index] + slope(energy, step)
        return errors

    def _projections(
        self, probe: Probe, atoms: Atoms, forces: np.ndarray, step: float
    ) -> np.ndarray:
        """Give (3n,) numbers with the right root mean square, from projections on few directions."""
        rng, start, found = np.random.default_rng(self.seed), atoms.positions.copy(), []
        for _ in range(self.n_directions):
            direction = random_direction(rng, len(atoms))

            def energy(t: float, direction: np.ndarray = direction) -> float:
                return probe.energy(start + t * direction)

            length = np.sqrt(len(atoms))
            found.append((np.vdot(forces, direction) + slope(energy, step)) / length)
        return np.full(forces.size, np.sqrt(np.mean(np.square(found))))

    def _failure(
        self,
        probe: Probe,
        forces: np.ndarray,
        errors: np.ndarray,
        worst: float,
        limit: float,
        few: bool,
    ):
        if not few:
            message = (
                f"the forces are not the gradient of the energy: they differ by about "
                f"{worst:.3g} eV/Å in all"
            )
            return self.finding("fail", message, worst, limit)
        atom, axis = np.unravel_index(np.abs(errors).argmax(), errors.shape)
        force, expected = forces[atom, axis], forces[atom, axis] - errors[atom, axis]
        message = (
            f"the forces are not the gradient of the energy: {'xyz'[int(axis)]} of the force on "
            f"{probe.label(int(atom))} is {force:.4g} eV/Å, the energy says {expected:.4g}"
        )
        return self.finding("fail", message, worst, limit, [probe.original(int(atom))])

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
    step, noisy_step : float
        Strains.
    """

    fail_at: float = 1e-4
    step: float = 0.002
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
        if "stress" not in probe.calculator.implemented_properties:
            return "the calculator has no stress"
        return None

    def judge(self, probe: Probe) -> StaticResult:
        """Compare."""
        start = probe.rattled()
        start.set_cell(start.cell.array @ _bias_strain(), scale_atoms=True)
        stress = probe.stress_of(start)
        if stress is None:
            return self.without_value("does not apply", "the calculator has no stress")
        noise, volume = probe.noise.energy, start.get_volume()
        step = self.step if noise < 1e-6 else self.noisy_step
        errors = np.empty(6)
        for component in range(6):

            def energy(t: float, component: int = component) -> float:
                return probe.energy_of(_strained(probe, start, component, t))

            errors[component] = stress[component] - slope(energy, step) / volume
        worst = float(np.abs(errors).max())
        limit = max(self.fail_at, 5.0 * SLOPE_NOISE * noise / step / volume)
        note = "" if limit == self.fail_at else noise_note(noise, self.fail_at, limit, self.unit)
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


def noise_note(noise: float, limit: float, wider: float, unit: str) -> str:
    """Say why a limit was widened."""
    return (
        f"the energy has a noise of {noise:.1g} eV (single precision?): "
        f"limit {wider:.2g} instead of {limit:g} {unit}"
    )
