"""ASE calculators."""

from ase_ws.calculators.potential import PotentialCalculator

__all__ = ["PotentialCalculator"]
