"""Energy of a solid against its volume."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ase_ws.md.observer import Severity
from ase_ws.stability.static.probe import Probe
from ase_ws.stability.static.result import Curve, StaticCheck, StaticResult
from ase_ws.stability.static.scan import Limits, discontinuities, minima


@dataclass
class VolumeCurve(StaticCheck):
    """Energy per atom against V/V₀, cell and atoms scaled together: one minimum, no jump.

    Attributes
    ----------
    smallest, largest : float
        Of V/V₀. Defaults 0.75 and 1.3, 20 GPa to some −10 GPa for most solids. Fails with more
        than one minimum in it (design, section 7), warns with none.
    points : int
    turn : float
        In eV/atom. Minima less deep are overlooked. Default 5e-3.
    jump_warn, jump_fail : float
        In eV/atom. Defaults 1e-3 and 5e-3: 1 meV/atom is the accuracy usually asked of a
        potential's energies, and NPT crosses such a step once per oscillation of the volume.
    """

    smallest: float = 0.75
    largest: float = 1.3
    points: int = 45
    turn: float = 5e-3
    jump_warn: float = 1e-3
    jump_fail: float = 5e-3

    name: ClassVar[str] = "volume_curve"
    definition: ClassVar[str] = (
        "minima of the energy for V/V₀ from 0.75 to 1.3, fails with more than one, warns with "
        "none; fails at a jump above 5 meV/atom"
    )
    unit: ClassVar[str] = "minima"

    def applies(self, probe: Probe) -> str | None:
        """Periodic in three directions."""
        if not probe.atoms.pbc.all() or probe.atoms.cell.rank < 3:
            return "not periodic in three directions"
        return None

    def judge(self, probe: Probe) -> StaticResult:
        """Scan the volume."""

        def energy(ratio: float) -> float:
            scaled = probe.with_calculator(probe.atoms)
            scaled.set_cell(probe.atoms.cell.array * np.cbrt(ratio), scale_atoms=True)
            return probe.energy_of(scaled) / len(scaled)

        noise = probe.noise.energy / len(probe.atoms)
        limits = Limits(
            turn=max(self.turn, 20.0 * noise),
            jump_warn=max(self.jump_warn, 20.0 * noise),
            jump_fail=max(self.jump_fail, 20.0 * noise),
            kink=np.inf,
            reach=np.inf,
        )
        ratios = np.linspace(self.smallest, self.largest, self.points)
        energies = np.array([energy(float(ratio)) for ratio in ratios])
        lows = minima(energies, limits.turn)
        findings, marks = [], []
        inside = [k for k in lows if 0 < k < len(ratios) - 1]
        if len(lows) > 1:
            places = ", ".join(f"{ratios[k]:.2f}" for k in lows)
            message = f"the energy has {len(lows)} minima against the volume, at V/V₀ = {places}"
            findings.append(self.finding("fail", message, len(lows), 1))
            nearest = min(lows, key=lambda k: abs(ratios[k] - 1.0))
            marks += [float(ratios[k]) for k in lows if k != nearest]
        elif not inside:
            message = (
                f"the energy has no minimum for V/V₀ from {self.smallest:g} to {self.largest:g}: "
                "the cell is far from its equilibrium, or the potential has none"
            )
            findings.append(self.finding("warn", message, 0, 1))
        for spot in discontinuities(energy, ratios, energies, limits):
            severity: Severity = "warn" if spot.jump <= limits.jump_fail else "fail"
            limit = limits.jump_warn if severity == "warn" else limits.jump_fail
            message = f"the energy jumps by {1e3 * spot.jump:.3g} meV/atom at V/V₀ = {spot.x:.3f}"
            findings.append(self.finding(severity, message, spot.jump, limit))
            marks.append(spot.x)
        curve = Curve(
            "energy against volume",
            "V/V₀",
            "energy (eV/atom)",
            ratios.tolist(),
            (energies - energies.min()).tolist(),
            marks,
        )
        return self.result(float(len(lows)), findings, [curve], fail_at=1.0)
