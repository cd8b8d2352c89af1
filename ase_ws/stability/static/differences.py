"""Finite differences of an energy that may be noisy, or have a kink in its second derivative."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

#: The error of `slope` is this × the noise of the energy / step: √(8² + 8² + 1 + 1)/12.
SLOPE_NOISE = np.sqrt(130.0) / 12.0


Value = TypeVar("Value", float, np.ndarray)


def slope(function: Callable[[float], Value], step: float) -> Value:
    """Differentiate at zero by five points: (8(f₁ − f₋₁) − (f₂ − f₋₂))/(12 h).

    The error is h⁴/30 times the fifth derivative.
    """
    near = function(step) - function(-step)
    far = function(2.0 * step) - function(-2.0 * step)
    return (8.0 * near - far) / (12.0 * step)


@dataclass(frozen=True)
class Differences:
    """How finite differences of a noisy energy are taken.

    Attributes
    ----------
    steps : tuple of float
        From the longest down.
    noise : float
        Of the energy, in eV.
    """

    steps: tuple[float, ...]
    noise: float

    def sigma(self, step: float) -> float:
        """Give the standard deviation of a slope that the noise makes."""
        return SLOPE_NOISE * self.noise / step

    def error(self, energy: Callable[[float], float], expected: float, limit: float) -> float:
        """Difference of `expected` and the slope of the energy.

        Beyond the limit, shorter steps are tried as long as the noise allows: a step of the
        *second* derivative, as cutoff functions have, spoils the differences in proportion to
        the step, while a wrong derivative stays wrong.
        """
        error = np.nan
        for k, step in enumerate(self.steps):
            if k > 0 and not 5.0 * self.sigma(step) <= limit:
                break
            error = expected - slope(energy, step)
            if abs(error) <= limit:
                break
        return float(error)


def choose_steps(steps: tuple[float, ...], noisy_step: float, noise: float) -> Differences:
    """Choose between steps for exact energies and the step for those with noise above 1 µeV."""
    return Differences(steps if noise < 1e-6 else (noisy_step,), noise)


def noise_note(noise: float, limit: float, wider: float, unit: str) -> str:
    """Say why a limit was widened."""
    return (
        f"the energy has a noise of {noise:.1g} eV (single precision?): "
        f"limit {wider:.2g} instead of {limit:g} {unit}"
    )
