"""Potentials as ASE calculators."""

from ase_ws.calculators.committee import CommitteeCalculator
from ase_ws.calculators.guarded import (
    GuardedCalculator,
    Violation,
    ViolationError,
    ViolationWarning,
)
from ase_ws.calculators.potential import PotentialCalculator

__all__ = [
    "CommitteeCalculator",
    "GuardedCalculator",
    "PotentialCalculator",
    "Violation",
    "ViolationError",
    "ViolationWarning",
]
