"""Random displacements of growing amplitude: the energy must rise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from ase_ws.results.check import Curve
from ase_ws.results.finding import Finding, Severity
from ase_ws.stability.static.line_check import CROSSED, LineCheck, in_md
from ase_ws.stability.static.probe import Probe, random_direction
from ase_ws.stability.static.result import StaticResult
from ase_ws.stability.static.scan import Line, Refusal, discontinuities, follow

#: In k_B T per atom. A harmonic solid or molecule has 3/2 of it on average, and more than 10 with
#: a probability of less than exp(−5.6) per atom (Chernoff's bound for a gamma distribution).
LIKELY = 10.0


@dataclass
class RattleLadder(LineCheck):
    """Energy along random displacements of all atoms, E(σ) − E(0), with σ growing from zero.

    From a minimum with Hessian H it rises, on average over directions, as ½ σ² Tr H, and stays
    above zero. Energies below the start mean a hole or a spurious minimum close by. A ladder ends
    where MD does not come: `LIKELY` k_B T per atom over the start, and no less than `wall`.

    Attributes
    ----------
    largest, spacing : float
        Of σ, the root mean square of a displacement component, in Å. Defaults 0.3 and 0.015;
        0.3 Å is three times the amplitude of a thermal vibration at 1,000 K.
    seeds : int
        Directions.
    warn_at, fail_at : float
        Lowest energy, in eV/atom below the start. Defaults 1e-3 and 1e-2: 10 meV/atom is what a
        structure relaxed to 0.05 eV/Å could still gain by moving 0.2 Å downhill; random
        displacements gain a small part of it. Only for relaxed structures (no force above
        `relaxed`); else the ladder is shown, and only jumps are judged.
    exponent : float
        Warns where E(2σ)/E(σ) of the even part at small σ is not 2^(2 ± this). Default 0.3.
    relaxed : float
        In eV/Å.
    """

    largest: float = 0.3
    spacing: float = 0.015
    seeds: int = 4
    warn_at: float = 1e-3
    fail_at: float = 1e-2
    exponent: float = 0.3
    relaxed: float = 0.1

    name: ClassVar[str] = "rattle_ladder"
    definition: ClassVar[str] = (
        "depth of the energy below the relaxed start in random displacements up to {largest:g} "
        "Å, as far as MD comes, at least {wall:g} eV; warns above {warn_at:g}, fails above "
        "{fail_at:g} eV/atom; warns at a jump above {jump_warn:g} eV, fails above {jump_fail:g} eV"
    )
    unit: ClassVar[str] = "eV/atom"

    def applies(self, probe: Probe) -> str | None:
        """At least two atoms."""
        return "a single atom" if len(probe.atoms) < 2 else None

    def judge(self, probe: Probe) -> StaticResult:
        """Climb each ladder."""
        rng, n_atoms = np.random.default_rng(11), len(probe.atoms)
        findings, curves, deepest = [], [], 0.0
        relaxed = probe.is_relaxed(self.relaxed)
        for seed in range(self.seeds):
            # √3 turns a length per atom into that of a component.
            direction = np.sqrt(3.0) * random_direction(rng, n_atoms)
            line = self._ladder(probe, direction)
            sigmas, rise = line.x, line.rises / n_atoms
            jumps, marks = self._jumps(probe, direction, line, seed)
            findings += jumps + [self._refused(probe, seed, end) for end in line.refusals]
            if relaxed:
                lowest = int(np.argmin(rise))
                deepest = max(deepest, -float(rise[lowest]))
                some = self._depth(probe, sigmas, rise, lowest)
                findings += some
                marks += [float(sigmas[lowest])] if some else []
                findings += self._growth(probe, direction, seed)
            curves.append(
                Curve(
                    f"rattle {seed}",
                    "displacement (Å)",
                    "energy (eV/atom)",
                    sigmas.tolist(),
                    rise.tolist(),
                    marks,
                )
            )
        if relaxed:
            return self.result(
                deepest, findings, curves, warn_at=self.warn_at, fail_at=self.fail_at
            )
        note = (
            f"not relaxed (largest force {probe.largest_force:.2g} eV/Å): energies below the "
            "start mean nothing, only jumps are judged"
        )
        return self.result(None, findings, curves, note=note)

    def accessible(self, probe: Probe) -> float:
        """How high over the start MD can come, in eV: all atoms move."""
        likely = LIKELY * probe.conditions.thermal_energy * len(probe.atoms)
        return max(super().accessible(probe), likely)

    @staticmethod
    def _energy(probe: Probe, direction: np.ndarray, sigma: float) -> float:
        return probe.energy(probe.atoms.positions + sigma * direction)

    def _ladder(self, probe: Probe, direction: np.ndarray) -> Line:
        return follow(
            lambda sigma: self._energy(probe, direction, sigma),
            probe.start_energy,
            0.0,
            self.spacing,
            (0.0, self.largest),
            stop=lambda sigma: self.accessible(probe),
            rest=lambda: probe.come_home(self.name),
        )

    def _refused(self, probe: Probe, seed: int, refusal: Refusal) -> Finding:
        # The ladder ends where MD does: it can come to whatever was tried.
        message = (
            f"rattle {seed}: {refusal.reason} at a displacement of {refusal.x:.2f} Å, "
            f"{refusal.rise:.2g} eV over the start before: {in_md(probe)} can come there and stops"
        )
        return self.finding("fail", message, refusal.wall, self.accessible(probe))

    def _jumps(
        self, probe: Probe, direction: np.ndarray, line: Line, seed: int
    ) -> tuple[list[Finding], list[float]]:
        # Steps of the force along all coordinates at once say little.
        limits = replace(self.limits(probe), kink=np.inf)

        def energy(sigma: float) -> float:
            return self._energy(probe, direction, sigma)

        findings, marks = [], []
        within = line.walls() <= self.accessible(probe)
        for spot in discontinuities(energy, line.x, line.rises, limits, within=within):
            severity: Severity = "warn" if spot.jump <= limits.jump_fail else "fail"
            limit = limits.jump_warn if severity == "warn" else limits.jump_fail
            message = (
                f"rattle {seed}: the energy jumps by {1e3 * spot.jump:.3g} meV at a displacement "
                f"of {spot.x:.3f} Å: {in_md(probe)} {CROSSED}"
            )
            findings.append(self.finding(severity, message, spot.jump, limit))
            marks.append(spot.x)
        return findings, marks

    def _depth(
        self, probe: Probe, sigmas: np.ndarray, rise: np.ndarray, lowest: int
    ) -> list[Finding]:
        depth, spare = -float(rise[lowest]), 10.0 * probe.noise.energy / len(probe.atoms)
        if depth <= self.warn_at + spare:
            return []
        severity: Severity = "warn" if depth <= self.fail_at + spare else "fail"
        message = (
            f"random displacements of {sigmas[lowest]:.2f} Å lower the energy by {depth:.3g} "
            f"eV/atom: the relaxed start is no minimum, or there is a hole beside it into which "
            f"{in_md(probe)} can fall"
        )
        limit = self.warn_at if severity == "warn" else self.fail_at
        return [self.finding(severity, message, depth, limit)]

    def _growth(self, probe: Probe, direction: np.ndarray, seed: int) -> list[Finding]:
        """Exponent of the even part between 0.01 and 0.02 Å, where it stands above the noise."""
        even = []
        for sigma in (0.01, 0.02):
            both = [self._energy(probe, direction, sign * sigma) for sign in (1.0, -1.0)]
            even.append(float(np.mean(both)) - probe.start_energy)
        if abs(even[0]) <= 50.0 * probe.noise.energy:
            return []
        exponent = float(np.log2(even[1] / even[0])) if even[1] / even[0] > 0 else np.nan
        if even[0] > 0 and abs(exponent - 2.0) <= self.exponent:
            return []
        message = (
            f"rattle {seed}: the energy does not grow as the square of small displacements "
            f"({1e3 * even[0]:.3g} meV at 0.01 Å, {1e3 * even[1]:.3g} meV at 0.02 Å): vibrations "
            f"of {in_md(probe)} are not those of a minimum"
        )
        return [self.finding("warn", message, exponent, 2.0)]
