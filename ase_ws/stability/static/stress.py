"""Stress against the energy by the work that it does while the cell is strained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_strain, voigt_6_to_full_3x3_stress

from ase_ws.stability.static.probe import Probe
from ase_ws.stability.static.quadrature import INTEGRAL_NOISE, integrate
from ase_ws.stability.static.result import StaticCheck, StaticResult
from ase_ws.stability.static.work import BARS

_VOIGT = ("xx", "yy", "zz", "yz", "xz", "xy")
_NO_STRESS = "the calculator has no stress"


@dataclass
class StressWork(StaticCheck):
    """Work of the stress along six short paths of strain against the differences of the energy.

    With the cell (rows) h(t) = h₀ (1 + t η), atoms scaled with it, dE/dt = V σ : (1 + t η)⁻¹ η.
    The difference of its integral and of the energy, over V and the strain, is the error of a
    component of the stress, averaged over the path. It starts from atoms displaced by 0.05 Å in a
    cell strained by 2 %, so that a stress that vanishes in the relaxed cell hides no wrong sign or
    factor. Some 30 evaluations, more where the difference is beyond the limit.

    Attributes
    ----------
    limit : float
        In eV/Å³. Default 1e-4, 16 MPa: the pressure that changes the volume of water by 0.7 %,
        and of a metal by 0.01 %. Beyond it NPT fails; where the cell is fixed it warns, because
        no step of MD looks at the stress.
    strain : float
        Length of a path. Default 0.01, of the order of the fluctuations of a small cell.
    """

    limit: float = 1e-4
    strain: float = 0.01

    name: ClassVar[str] = "stress_work"
    definition: ClassVar[str] = (
        "largest error of the stress, by the work that it does along strains of {strain:.0%} "
        "against the differences of the energy; above {limit:g} eV/Å³ fails in NPT, warns "
        "elsewhere"
    )
    unit: ClassVar[str] = "eV/Å³"

    def applies(self, probe: Probe) -> str | None:
        """Periodic structures with a full cell, where the calculator has a stress."""
        if not probe.atoms.pbc.any() or probe.atoms.cell.rank < 3:
            return "not periodic"
        if "stress" not in getattr(probe.calculator, "implemented_properties", ()):
            return _NO_STRESS
        return None

    def judge(self, probe: Probe) -> StaticResult:
        """Compare."""
        start = probe.rattled()
        start.set_cell(start.cell.array @ _bias_strain(), scale_atoms=True)
        if probe.stress_of(start) is None:
            return self.without_value("does not apply", _NO_STRESS)
        energy = probe.energy_of(start)
        errors, bars = np.empty(6), np.empty(6)
        for component in range(6):
            errors[component], bars[component] = self._error(probe, start, component, energy)
        worst = int(np.argmax(np.where(np.isnan(errors), np.inf, np.abs(errors))))
        value, bar = float(abs(errors[worst])), float(bars[worst])
        if value <= self.limit:
            return self.result(value, fail_at=self.limit)
        if value <= BARS * bar:
            note = f"too noisy: an error of {value:.2g} eV/Å³, known to {bar:.2g} only"
            return self.without_value("not judged", note)
        moves = probe.conditions.ensemble == "npt"
        message = (
            f"the stress is not the gradient of the energy: {_VOIGT[worst]} is off by "
            f"{errors[worst]:+.2g} eV/Å³ ({160.2 * errors[worst]:+.2g} GPa), as if at another "
            "pressure: " + ("the cell of NPT" if moves else "cells that are relaxed or run in NPT")
        ) + (" goes wrong" if moves else " go wrong, this MD does not use it")
        severity = "fail" if moves and probe.conservative else "warn"
        finding = self.finding(severity, message, value, self.limit)
        return self.result(value, [finding], fail_at=self.limit)

    def _error(
        self, probe: Probe, start: Atoms, component: int, energy: float
    ) -> tuple[float, float]:
        """Error of a component and its error bar."""
        voigt = np.zeros(6)
        # Shear strains in Voigt notation are twice the tensor's.
        voigt[component] = self.strain
        # ASE's function adds the identity.
        path = voigt_6_to_full_3x3_strain(voigt) - np.eye(3)

        def strained(t: float) -> Atoms:
            atoms = probe.with_calculator(start)
            atoms.set_cell(start.cell.array @ (np.eye(3) + t * path), scale_atoms=True)
            return atoms

        def along(t: float) -> float:
            atoms = strained(t)
            stress = probe.stress_of(atoms)
            assert stress is not None
            full = stress if stress.shape == (3, 3) else voigt_6_to_full_3x3_stress(stress)
            rate = np.linalg.solve(np.eye(3) + t * path, path)
            return float(atoms.get_volume() * np.sum(full * rate))

        scale = start.get_volume() * self.strain
        rise = probe.energy_of(strained(1.0)) - energy
        work = integrate(along, rise, 0.5 * self.limit * scale)
        if abs(work.value - rise) > self.limit * scale:
            tolerance = self.limit * scale / BARS
            work = integrate(along, rise, tolerance, cautious=True, halvings=2)
        # The noise of the stress is that of forces over an atom's share of a plane, some 10 Å².
        of_stress = INTEGRAL_NOISE * probe.noise.force / 10.0
        of_energy = np.sqrt(2.0) * probe.noise.energy / scale
        bar = np.linalg.norm([work.error / scale, of_stress, of_energy])
        return (work.value - rise) / scale, float(bar)


def _bias_strain() -> np.ndarray:
    """Identity plus a symmetric strain of 2 %, the same every time."""
    strain = np.random.default_rng(3).normal(0.0, 0.02, (3, 3))
    return np.eye(3) + 0.5 * (strain + strain.T)
