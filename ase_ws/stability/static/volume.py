"""Energy of a solid against its volume."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ase_ws.results.check import Curve
from ase_ws.results.finding import Finding, Severity
from ase_ws.stability.static.line_check import CROSSED, in_md
from ase_ws.stability.static.probe import Probe
from ase_ws.stability.static.rattle import LIKELY
from ase_ws.stability.static.result import StaticCheck, StaticResult
from ase_ws.stability.static.scan import Limits, Refusal, discontinuities, follow, minima


@dataclass
class VolumeCurve(StaticCheck):
    """Energy per atom against V/V₀, cell and atoms scaled together: one minimum, no jump.

    Fails in NPT only: no other MD changes the volume, and then it warns.

    Attributes
    ----------
    smallest, largest, spacing : float
        Of V/V₀. Defaults 0.75 and 1.3, 20 GPa to some −10 GPa for most solids, and 0.025: the
        curves are so smooth that a step of `jump_warn` stands out. Fails with more than one
        minimum in it (a solid has one volume at rest), warns with none. Fails where the
        calculator gives no answer less than `LIKELY` k_B T per atom over the start, warns behind
        that.
    turn : float
        In eV/atom. Minima less deep are overlooked. Default 5e-3.
    jump_warn, jump_fail : float
        In eV/atom. Defaults 1e-3 and 5e-3: 1 meV/atom is the accuracy usually asked of a
        potential's energies, and NPT crosses such a step once per oscillation of the volume.
    """

    smallest: float = 0.75
    largest: float = 1.3
    spacing: float = 0.025
    turn: float = 5e-3
    jump_warn: float = 1e-3
    jump_fail: float = 5e-3

    name: ClassVar[str] = "volume_curve"
    definition: ClassVar[str] = (
        "minima of the energy for V/V₀ from {smallest:g} to {largest:g}, fails with more than "
        "one, warns with none; warns at a jump above {jump_warn:g} eV/atom, fails above "
        "{jump_fail:g} eV/atom; in MD other than NPT it warns only"
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
        )
        line = follow(
            energy,
            probe.start_energy / len(probe.atoms),
            1.0,
            self.spacing,
            (self.smallest, self.largest),
            rest=lambda: probe.come_home(self.name),
        )
        ratios, energies = line.x, line.rises
        moves = probe.conditions.ensemble == "npt"
        worst: Severity = "fail" if moves else "warn"
        lows = minima(energies, limits.turn)
        findings, marks = [], []
        inside = [k for k in lows if 0 < k < len(ratios) - 1]
        if len(lows) > 1:
            places = ", ".join(f"{ratios[k]:.2f}" for k in lows)
            message = (
                f"the energy has {len(lows)} minima against the volume, at V/V₀ = {places}: "
                + (f"the cell of {in_md(probe)} can go there" if moves else _fixed(probe))
            )
            findings.append(self.finding(worst, message, len(lows), 1))
            nearest = min(lows, key=lambda k: abs(ratios[k] - 1.0))
            marks += [float(ratios[k]) for k in lows if k != nearest]
        elif not inside:
            message = (
                f"the energy has no minimum for V/V₀ from {self.smallest:g} to {self.largest:g}: "
                "the cell is far from its equilibrium, or the potential has none"
            )
            findings.append(self.finding("warn", message, 0, 1))
        for spot in discontinuities(energy, ratios, energies, limits):
            large = not spot.jump <= limits.jump_fail
            severity: Severity = worst if large else "warn"
            limit = limits.jump_fail if large else limits.jump_warn
            message = (
                f"the energy jumps by {1e3 * spot.jump:.3g} meV/atom at V/V₀ = {spot.x:.3f}: "
                + (f"{in_md(probe)} {CROSSED}" if moves else _fixed(probe))
            )
            findings.append(self.finding(severity, message, spot.jump, limit))
            marks.append(spot.x)
        findings += [self._refused(probe, refusal) for refusal in line.refusals]
        marks += [refusal.last for refusal in line.refusals]
        curve = Curve(
            "energy against volume",
            "V/V₀",
            "energy (eV/atom)",
            ratios.tolist(),
            (energies - energies.min()).tolist(),
            marks,
        )
        return self.result(float(len(lows)), findings, [curve], fail_at=1.0)

    def _refused(self, probe: Probe, refusal: Refusal) -> Finding:
        likely = LIKELY * probe.conditions.thermal_energy
        where = f"V/V₀ = {refusal.x:.3f}, {refusal.wall:.2g} eV/atom over the start before"
        if not refusal.wall < likely:
            message = (
                f"the calculator gives no answer at {where} ({refusal.reason}): out of reach of "
                f"{in_md(probe)}, not followed further"
            )
            return self.finding("warn", message, refusal.wall, likely)
        if probe.conditions.ensemble != "npt":
            return self.finding(
                "warn", f"{refusal.reason} at {where}: {_fixed(probe)}", refusal.wall, likely
            )
        message = f"{refusal.reason} at {where}: {in_md(probe)} can come there and stops"
        return self.finding("fail", message, refusal.wall, likely)


def _fixed(probe: Probe) -> str:
    ensemble = probe.conditions.ensemble.upper()
    return f"in {ensemble} the volume of the cell stays, {in_md(probe)} in NPT would meet it"
