"""A calculator that costs nothing: what a check or an integrator does can be rehearsed with it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, Calculator, all_changes


class Gas(Calculator):
    """A gas without forces, with the properties of another calculator.

    Parameters
    ----------
    like : ASE calculator, optional
        Whose `implemented_properties` and `conservative` it tells; default: all, and True.
    """

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012

    def __init__(self, like: BaseCalculator | None = None):
        super().__init__()
        given = getattr(like, "implemented_properties", None)
        if given is not None:
            self.implemented_properties = [
                p for p in type(self).implemented_properties if p in given
            ]
        self.conservative = bool(getattr(like, "conservative", True))

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Give zeros."""
        super().calculate(atoms, list(properties), list(system_changes))
        shape = (0 if atoms is None else len(atoms), 3)
        self.results = {"energy": 0.0, "forces": np.zeros(shape), "stress": np.zeros(6)}
