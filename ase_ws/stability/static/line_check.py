"""What the checks along a line have in common: jumps, holes that MD can reach, and walls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from ase_ws.pairs import radii_sum
from ase_ws.results.check import Curve
from ase_ws.results.finding import Finding, Severity
from ase_ws.stability.static.probe import Probe
from ase_ws.stability.static.result import StaticCheck, StaticResult
from ase_ws.stability.static.scan import (
    Discontinuity,
    Limits,
    Line,
    Refusal,
    discontinuities,
)
from ase_ws.stability.static.topology import Motion


class Scan(NamedTuple):
    """One pair of atoms, what was found along its line, and what is to be said about it."""

    probe: Probe
    motion: Motion
    line: Line
    limits: Limits
    what: str

    @property
    def pair(self) -> tuple[int, int]:
        """Indices of the two atoms in the structure as it was given."""
        return self.probe.original(self.motion.first), self.probe.original(self.motion.second)

    def energy(self, distance: float) -> float:
        """Energy in eV at a distance in Å."""
        return self.probe.energy(self.motion.positions(self.probe.atoms, distance))

    @property
    def radii(self) -> float:
        """R_i + R_j in Å."""
        return radii_of(self.probe, self.motion)


#: A finding, and where it is on the line, in Å.
Marked = tuple[Finding, float]


@dataclass
class LineCheck(StaticCheck):
    """What the scans along lines have in common: their limits, and how jumps are reported.

    Attributes
    ----------
    wall, thermal : float
        In eV, and in k_B T of the MD asked for; the larger one is how far MD can come. A hole
        behind a wall lower than this fails, behind a higher one it warns; jumps count, and a
        calculator without an answer fails, up to it. Defaults 5 and 40. Atoms climb 40 k_B T
        with a probability of exp(−40), 4e-18, and try some ten times a ps. That is the larger
        one above 1,450 K. Below, 5 eV stays, because rigid scans overestimate walls: neighbours
        that give way leave 1 eV (26 k_B T at 450 K) where atoms migrate in crystals. Learnt
        potentials often have holes where there are no training data.
    wall_warn : float
        In eV. Nothing behind a higher wall is looked at. Default 50, ten times `wall`.
    turn : float
        In eV. Rises and falls of less are overlooked. Default 0.02, about k_B T at 300 K.
    jump_warn, jump_fail : float
        In eV. Defaults 1e-3 and 5e-3. Each crossing changes the conserved energy by the jump; at
        ten crossings per ps, 1 meV random steps reach the 1 meV/atom/ps at which the drift of MD
        fails (`DriftCheck`) in a molecule of three atoms.
    kink : float
        In eV/Å. A larger step of the force warns. Default 0.1: a Verlet step that crosses it
        with 0.02 Å/fs errs by 1 meV.
    coarse : float
        In units of R_i + R_j. Spacing where MD does not come and only holes are of interest.
        Default 0.06, some hundredths of an Å for hydrogen and 0.13 Å for silicon.
    closest, soft, nearest : float
        In units of R_i + R_j, in eV, and in units of R_i + R_j. Inwards the scans end at
        `closest`, and only where the energy is less than `soft` there go on to `nearest`.
        Defaults 0.4, 15 and 0.3: at 0.4 repulsion is tens of eV, and ions of alkali metals, or
        what a network has never seen, may still be on their way up.
    pit : float
        In eV. A fall by more than this is a hole wherever it is. Default 12: more than the
        strongest bond there is (CO, 11.1 eV).
    """

    wall: float = 5.0
    thermal: float = 40.0
    wall_warn: float = 50.0
    turn: float = 0.02
    jump_warn: float = 1e-3
    jump_fail: float = 5e-3
    kink: float = 0.1
    coarse: float = 0.06
    closest: float = 0.4
    soft: float = 15.0
    nearest: float = 0.3
    pit: float = 12.0

    unit: ClassVar[str] = "eV"

    def limits(self, probe: Probe) -> Limits:
        """Limits for the scans, no smaller than the noise of the calculator allows."""
        noise = probe.noise.energy
        return Limits(
            turn=max(self.turn, 20.0 * noise),
            jump_warn=max(self.jump_warn, 20.0 * noise),
            jump_fail=max(self.jump_fail, 20.0 * noise),
            kink=self.kink,
            noise=noise,
        )

    def accessible(self, probe: Probe) -> float:
        """How high over the start MD can come, in eV."""
        return max(self.wall, self.thermal * probe.conditions.thermal_energy)

    def stop(self, probe: Probe, motion: Motion) -> Callable[[float], float]:
        """How high over the start a pair is followed, in eV, as a function of its distance."""
        reach, closest = self.accessible(probe), self.closest * radii_of(probe, motion)

        def stop(distance: float) -> float:
            if distance > motion.length:
                return reach
            return max(reach, self.wall_warn if distance > closest else self.soft)

        return stop

    def scan_all(self, probe: Probe, motions: Sequence[Motion], what: str) -> StaticResult:
        """Scan each of them, and collect."""
        if not motions:
            return self.without_value("does not apply", f"no {what} that could be moved")
        limits, findings, curves, largest = self.limits(probe), [], [], 0.0
        for motion in motions:
            scan = Scan(probe, motion, self.line(probe, motion), limits, self.says(probe, motion))
            jumps = self.jumps(scan)
            marked = [*map(self.jump, [scan] * len(jumps), jumps), *self.shape(scan)]
            marked += [self.refused(scan, refusal) for refusal in scan.line.refusals]
            findings += [finding for finding, _ in marked]
            curves.append(_curve(scan, [mark for _, mark in marked]))
            largest = max([largest, *(spot.jump for spot in jumps)])
        note = f"{len(motions)} {what}s" if len(motions) > 1 else f"1 {what}"
        return self.result(
            largest, findings, curves, warn_at=limits.jump_warn, fail_at=limits.jump_fail, note=note
        )

    def line(self, probe: Probe, motion: Motion) -> Line:
        """Follow one pair."""
        raise NotImplementedError

    def says(self, probe: Probe, motion: Motion) -> str:
        """Name what is done to the pair."""
        raise NotImplementedError

    def shape(self, scan: Scan) -> list[Marked]:
        """Find what is wrong with the shape of a smooth curve."""
        raise NotImplementedError

    def jumps(self, scan: Scan) -> list[Discontinuity]:
        """Find jumps and kinks where MD can come."""
        line, even = scan.line, scan.line.even
        within = line.walls()[even] <= self.accessible(scan.probe)
        return discontinuities(
            scan.energy, line.x[even], line.rises[even], scan.limits, within=within
        )

    def jump(self, scan: Scan, spot: Discontinuity) -> Marked:
        """Report a jump or a kink."""
        limits, md = scan.limits, in_md(scan.probe)
        if spot.jump == 0.0:
            message = (
                f"{scan.what}: the force jumps by {spot.kink:.2g} eV/Å at {spot.x:.3f} Å: {md} "
                "errs a little at each crossing"
            )
            return self.finding("warn", message, spot.kink, limits.kink, scan.pair), spot.x
        severity: Severity = "warn" if spot.jump <= limits.jump_fail else "fail"
        limit = limits.jump_warn if severity == "warn" else limits.jump_fail
        message = (
            f"{scan.what}: the energy jumps by {1e3 * spot.jump:.3g} meV at {spot.x:.3f} Å: {md} "
            f"{CROSSED}"
        )
        return self.finding(severity, message, spot.jump, limit, scan.pair), spot.x

    def refused(self, scan: Scan, refusal: Refusal) -> Marked:
        """Report a distance at which the calculator gives no answer."""
        reach, md = self.accessible(scan.probe), in_md(scan.probe)
        if refusal.wall < reach:
            message = (
                f"{scan.what}: {refusal.reason} at {refusal.x:.2f} Å, behind a wall of "
                f"{refusal.wall:.2g} eV: {md} can come there and stops"
            )
            finding = self.finding("fail", message, refusal.wall, reach, scan.pair)
        else:
            where = "below" if refusal.x < refusal.last else "beyond"
            message = (
                f"{scan.what}: the calculator gives no answer {where} {refusal.last:.2f} Å "
                f"({refusal.reason}), behind a wall of {refusal.wall:.3g} eV: out of reach of "
                f"{md}, not followed further"
            )
            finding = self.finding("warn", message, refusal.wall, reach, scan.pair)
        return finding, refusal.last

    def hole(self, scan: Scan, top: int, bottom: int) -> Marked:
        """Report that the energy falls where it must rise."""
        line, reach, md = scan.line, self.accessible(scan.probe), in_md(scan.probe)
        wall, depth = float(line.walls()[top]), line.rises[top] - line.rises[bottom]
        severity: Severity = "fail" if wall < reach else "warn"
        consequence = (
            f"{md} can fall in and does not come out"
            if severity == "fail"
            else f"out of reach of {md}, but not of a start with atoms too close"
        )
        message = (
            f"{scan.what}: hole at short range, the energy falls by {depth:.3g} eV below "
            f"{line.x[top]:.2f} Å, behind a wall of {wall:.3g} eV: {consequence}"
        )
        return self.finding(severity, message, wall, reach, scan.pair), float(line.x[top])

    def pitfall(self, scan: Scan, lowest: int) -> Marked:
        """Report a hole by where it is deepest: it may have begun anywhere."""
        line, reach, md = scan.line, self.accessible(scan.probe), in_md(scan.probe)
        depth, wall = -float(line.rises[lowest]), float(line.walls()[lowest])
        consequence = "can fall in and does not come out" if wall < reach else "does not get there"
        message = (
            f"{scan.what}: hole, the energy falls by {depth:.3g} eV at {line.x[lowest]:.2f} Å, "
            f"more than any bond is worth, behind a wall of {wall:.3g} eV: {md} {consequence}"
        )
        severity: Severity = "fail" if wall < reach else "warn"
        return self.finding(severity, message, depth, self.pit, scan.pair), float(line.x[lowest])


#: What MD does at a jump of the energy that it crosses.
CROSSED = "gains or loses as much at each crossing, and drifts"


def in_md(probe: Probe) -> str:
    """Name the MD that the findings speak about."""
    return f"MD at {probe.conditions.temperature:g} K"


def radii_of(probe: Probe, motion: Motion) -> float:
    """Sum of the covalent radii of the two atoms that move, Å."""
    ends = np.array([motion.first]), np.array([motion.second])
    return float(radii_sum(probe.atoms.numbers, *ends)[0])


def _curve(scan: Scan, marks: list[float]) -> Curve:
    title = scan.what.removeprefix("stretch of ")
    return Curve(
        title if title == scan.what else f"{title} stretch",
        "distance (Å)",
        "energy (eV)",
        scan.line.x.tolist(),
        scan.line.rises.tolist(),
        [float(mark) for mark in marks],
    )
