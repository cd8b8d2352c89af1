"""Symmetry of the force Jacobian: whether the forces are the gradient of any energy at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ase_ws.stability.static.differences import SLOPE_NOISE, slope
from ase_ws.stability.static.probe import Probe, random_direction
from ase_ws.stability.static.result import StaticCheck, StaticResult


@dataclass
class JacobianSymmetry(StaticCheck):
    """Asymmetry ‖J − Jᵀ‖/(2‖J‖), Frobenius norms, of the force Jacobian J = ∂F/∂r.

    Zero where the forces are the gradient of an energy, 1 for a pure curl. By central differences
    of the forces: all columns up to `all_columns` atoms. Above, J v_k for `n_directions` random
    unit vectors v_k: with B_kl = v_k·J v_l − v_l·J v_k, ⟨B_kl²⟩ = ‖J − Jᵀ‖²/(3n)² over the pairs
    k < l, and ⟨|J v_k|²⟩ = ‖J‖²/(3n); 48 forces whatever the size, 144 where
    shorter steps have to be tried.

    Attributes
    ----------
    fail_at : float
        Default 1e-4 (design, section 7); the differences are good to 1e-6. Where the forces are
        noisy (float32), three times what the noise alone makes where that is more. A
        calculator that says that it is not conservative gets a warning instead.
    all_columns : int
    n_directions : int
    steps : tuple of float
        In Å. Beyond the limit, shorter steps are tried as long as the noise allows: across a step
        of the second derivative, as cutoff functions have, differences are not symmetric.
    noisy_step : float
        In Å, where the noise of the forces is above 1 µeV/Å.
    seed : int
    """

    fail_at: float = 1e-4
    all_columns: int = 10
    n_directions: int = 12
    steps: tuple[float, ...] = (0.005, 0.0005, 0.00005)
    noisy_step: float = 0.02
    seed: int = 0

    name: ClassVar[str] = "jacobian"
    definition: ClassVar[str] = (
        "asymmetry |J - J^T|/(2|J|) of the force Jacobian by central differences; "
        "fails above 1e-4 (direct forces: warns)"
    )

    def applies(self, probe: Probe) -> str | None:
        """At least two atoms."""
        return "a single atom" if len(probe.atoms) < 2 else None

    def judge(self, probe: Probe) -> StaticResult:
        """Measure and compare."""
        steps = self.steps if probe.noise.force < 1e-6 else (self.noisy_step,)
        asymmetry, noise = self._measure(probe, steps[0])
        limit = max(self.fail_at, 3.0 * noise)
        for step in steps[1:]:
            if np.isnan(asymmetry) or asymmetry <= limit:
                break
            closer, noise = self._measure(probe, step)
            if not 3.0 * noise <= limit:
                break
            asymmetry = closer
        if np.isnan(asymmetry):
            return self.without_value("does not apply", "the forces do not change")
        note = ""
        if limit > self.fail_at:
            note = (
                f"the forces have a noise of {probe.noise.force:.1g} eV/Å (single precision?): "
                f"limit {limit:.2g} instead of {self.fail_at:g}"
            )
        findings = []
        if not asymmetry <= limit:
            message = (
                f"the forces are not the gradient of any energy: the antisymmetric part of their "
                f"Jacobian is {asymmetry:.2g} of the whole"
            )
            severity = "fail" if probe.conservative else "warn"
            findings.append(self.finding(severity, message, asymmetry, limit))
        return self.result(asymmetry, findings, fail_at=limit, note=note)

    def _measure(self, probe: Probe, step: float) -> tuple[float, float]:
        """Give the asymmetry (NaN where J = 0), and what the noise of the forces makes of it."""
        few, n = len(probe.atoms) <= self.all_columns, 3 * len(probe.atoms)
        if few:
            jacobian = self._jacobian(probe, step)
            norm = float(np.linalg.norm(jacobian))
            difference = float(np.linalg.norm(jacobian - jacobian.T))
        else:
            norm, difference = self._projected(probe, step)
        # Of an element of J − Jᵀ. Random directions are √n_atoms times as long as unit vectors.
        sigma = np.sqrt(2.0) * SLOPE_NOISE * probe.noise.force / step
        sigma *= 1.0 if few else 1.0 / np.sqrt(len(probe.atoms))
        if not norm > 0.0:
            return np.nan, np.nan
        return difference / (2.0 * norm), n * sigma / (2.0 * norm)

    def _jacobian(self, probe: Probe, step: float) -> np.ndarray:
        shape = probe.atoms.positions.shape
        columns = []
        for index in np.ndindex(*shape):
            direction = np.zeros(shape)
            direction[index] = 1.0
            columns.append(_column(probe, direction, step))
        return np.array(columns).T

    def _projected(self, probe: Probe, step: float) -> tuple[float, float]:
        """Estimates of ‖J‖ and ‖J − Jᵀ‖."""
        rng, n_atoms = np.random.default_rng(self.seed), len(probe.atoms)
        directions = [random_direction(rng, n_atoms) for _ in range(self.n_directions)]
        products = np.array([_column(probe, d, step) for d in directions]) / np.sqrt(n_atoms)
        units = np.array([d.ravel() for d in directions]) / np.sqrt(n_atoms)
        n = 3 * n_atoms
        norm = np.sqrt(n * np.mean(np.sum(products**2, axis=1)))
        mixed = units @ products.T
        pairs = np.triu_indices(self.n_directions, k=1)
        difference = n * np.sqrt(np.mean((mixed - mixed.T)[pairs] ** 2))
        return float(norm), float(difference)


def _column(probe: Probe, direction: np.ndarray, step: float) -> np.ndarray:
    """J d, (3n,), by central differences."""
    start = probe.atoms.positions
    return slope(lambda t: probe.forces(start + t * direction).ravel(), step)
