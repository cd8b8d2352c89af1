"""Steps in the derivative of the forces: what they mean for vibrations, and that MD bears them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ase_ws.stability.static.probe import Probe
from ase_ws.stability.static.result import StaticCheck, StaticResult
from ase_ws.stability.static.work import BARS


@dataclass
class Kinks(StaticCheck):
    """Force constants of single atoms by differences of the forces, with short and long steps.

    k(h) = −(F(h) − F(−h))·u/2h of one atom of each element, displaced along u from the structure
    itself. Smooth energies give the same k for both steps but for a part that grows as h² (0.5 %
    at 0.03 Å in the steepest bond there is, O-H). Where k changes more, the forces have a kink:
    functions of bond angles that are not smooth at 180°, cutoffs with a step in the second
    derivative. Vibrations and phonons then depend on the displacement they are computed with; MD
    goes over kinks without harm, which `Work` and the drift of the conserved quantity watch. Six
    forces for each element.

    Attributes
    ----------
    steps : tuple of float
        In Å, short and long. Defaults 0.003 and 0.03: what codes for phonons use lies between.
    warn_at : float
        Change of k over the largest k. Default 0.1: frequencies by 5 %.
    most : int
        At most so many elements.
    """

    steps: tuple[float, float] = (0.003, 0.03)
    warn_at: float = 0.1
    most: int = 4

    name: ClassVar[str] = "kinks"
    definition: ClassVar[str] = (
        "change of the force constants of single atoms between short and long steps, "
        "{steps} Å, over the largest; warns above {warn_at:g}: vibrations depend on the "
        "step"
    )

    def applies(self, probe: Probe) -> str | None:
        """At least two atoms."""
        return "a single atom" if len(probe.atoms) < 2 else None

    def judge(self, probe: Probe) -> StaticResult:
        """Compare short steps with long ones."""
        _, first = np.unique(probe.atoms.numbers, return_index=True)
        chosen = [int(atom) for atom in np.sort(first)[: self.most]]
        rng = np.random.default_rng(5)
        constants = []
        for atom in chosen:
            direction = rng.normal(size=3)
            direction /= np.linalg.norm(direction)
            constants.append([self._constant(probe, atom, direction, h) for h in self.steps])
        short, long = np.array(constants).T
        largest = float(np.abs(constants).max())
        if not largest > 0.0:
            return self.without_value("does not apply", "the forces do not change")
        changes = np.abs(short - long) / largest
        bar = probe.noise.force / (np.sqrt(2.0) * self.steps[0] * largest)
        worst = int(np.argmax(np.where(np.isnan(changes), np.inf, changes)))
        value = float(changes[worst])
        if value <= self.warn_at:
            return self.result(value, warn_at=self.warn_at)
        if value <= BARS * bar:
            return self.without_value("not judged", "the forces are too noisy for short steps")
        message = (
            f"the forces have a kink: the force constant of {probe.label(chosen[worst])} is "
            f"{short[worst]:.3g} eV/Å² with steps of {self.steps[0]:g} Å and {long[worst]:.3g} "
            f"with {self.steps[1]:g}; vibrations and phonons depend on the step, MD does not mind"
        )
        atoms = [probe.original(chosen[worst])]
        finding = self.finding("warn", message, value, self.warn_at, atoms)
        return self.result(value, [finding], warn_at=self.warn_at)

    @staticmethod
    def _constant(probe: Probe, atom: int, direction: np.ndarray, step: float) -> float:
        forces = []
        for sign in (1.0, -1.0):
            moved = probe.atoms.positions.copy()
            moved[atom] += sign * step * direction
            forces.append(float(probe.forces(moved)[atom] @ direction))
        return -(forces[0] - forces[1]) / (2.0 * step)
