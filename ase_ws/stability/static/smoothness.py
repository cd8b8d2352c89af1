"""Smoothness of the energy along bonds and contacts: no jump, no hole, one minimum."""

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
    first_turn,
    follow,
)
from ase_ws.stability.static.topology import Motion, bond_motions, contact_motions


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
        return _radii(self.probe, self.motion)


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
        reach, closest = self.accessible(probe), self.closest * _radii(probe, motion)

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


@dataclass
class BondScan(LineCheck):
    """Energy while one bond of each pair of elements is stretched and compressed.

    The bond runs from `shortest` to `longest` of its length, with rigid fragments where cutting
    it makes two, else one atom moves against all others (rings, crystals). Inwards it ends at
    `wall_warn`, outwards where MD does not come. Wanted are:

    - no jump of the energy, and none of the force (see `LineCheck`), as far as MD can come;
    - one minimum. A second one at a stretch warns only, because it may be physics: a proton that
      reaches its acceptor, a ring that closes. It fails where it lies `deeper` eV below the first;
    - from the minimum inwards the energy rises to the end; else there is a hole.

    Attributes
    ----------
    most : int
        Scans at most so many bonds.
    shortest, longest, spacing : float
        In units of the length at the start. Defaults 0.5, 1.4 and 0.02. Where bonds are at 0.5,
        the repulsion is tens of eV; 1.4 is beyond the 0.5 Å by which MD may stretch a bond.
        Sixth differences of a Morse C-H bond are far below 1 meV at this spacing; where an atom
        of a crystal passes the cutoffs of several others, the steps must not run together.
    deeper : float
        In eV. Default 1: a frozen fragment pulled off a relaxed structure does not gain the
        energy of a bond.
    """

    most: int = 6
    shortest: float = 0.5
    longest: float = 1.4
    spacing: float = 0.02
    deeper: float = 1.0

    name: ClassVar[str] = "bond_scan"
    definition: ClassVar[str] = (
        "energy of a bond from {shortest:g} (or {closest:g} of its radii sum) to {longest:g} of "
        "its length: largest jump (warns above {jump_warn:g} eV, fails above {jump_fail:g} eV); "
        "fails at a hole that MD can reach, behind less than {wall:g} eV or {thermal:g} k_B T; "
        "warns at a second minimum"
    )

    def judge(self, probe: Probe) -> StaticResult:
        """Scan each bond."""
        return self.scan_all(probe, bond_motions(probe.atoms, self.most), "bond")

    def says(self, probe: Probe, motion: Motion) -> str:
        """Name the bond."""
        return f"stretch of {probe.label(motion.first, motion.second).replace(', ', '-')}"

    def line(self, probe: Probe, motion: Motion) -> Line:
        """Stretch and compress one bond."""
        shortest = min(self.shortest * motion.length, self.nearest * _radii(probe, motion))
        reach = self.accessible(probe)
        return follow(
            lambda distance: probe.energy(motion.positions(probe.atoms, distance)),
            probe.start_energy,
            motion.length,
            self.spacing * motion.length,
            (shortest, self.longest * motion.length),
            reach=reach,
            coarse=self.coarse * _radii(probe, motion),
            stop=self.stop(probe, motion),
            rest=lambda: probe.come_home(self.name),
        )

    def shape(self, scan: Scan) -> list[Marked]:
        """Find the minimum, and what is wrong to both sides of it."""
        x, rises, turn_at = scan.line.x, scan.line.rises, scan.limits.turn
        ratios = x / scan.motion.length
        # The minimum: the structure may be a frame of MD, whose bonds are off by 15 %.
        inner = np.flatnonzero((ratios >= 0.84) & (ratios <= 1.21))
        bottom = int(inner[np.argmin(rises[inner])])
        # A bond that is much too short in the frame has its minimum farther out.
        while bottom + 1 < len(x) and rises[bottom + 1] < rises[bottom]:
            bottom += 1
        found = []
        turn = first_turn(rises, bottom, -1, turn_at)
        if turn is not None:
            found.append(self.hole(scan, turn.top, turn.bottom))
        turn = first_turn(rises, bottom, +1, turn_at)
        if turn is not None:
            found.append(self._second_minimum(scan, bottom, turn.top, turn.bottom))
        lowest = int(np.argmin(rises))
        if not found and -rises[lowest] > self.pit:
            # What was taken for the minimum is none.
            found.append(self.pitfall(scan, lowest))
        return found

    def _second_minimum(self, scan: Scan, first: int, top: int, second: int) -> Marked:
        line, reach, md = scan.line, self.accessible(scan.probe), in_md(scan.probe)
        depth, wall = float(line.rises[first] - line.rises[second]), float(line.walls()[top])
        severity: Severity = "fail" if depth > self.deeper and wall < reach else "warn"
        consequence = (
            f"{md} can go there and stay"
            if severity == "fail"
            else f"{md} may go there, which is right where a bond forms or a proton is passed on"
        )
        message = (
            f"{scan.what}: second minimum at {line.x[second]:.2f} Å or beyond, {abs(depth):.3g} eV "
            f"{'below' if depth > 0 else 'above'} the first, behind {wall:.3g} eV: {consequence}"
        )
        return self.finding(severity, message, depth, self.deeper, scan.pair), line.x[second]


@dataclass
class ContactScan(LineCheck):
    """Energy while the closest non-bonded pair of each pair of elements is pushed together.

    Molecules move as a whole against each other; within a molecule (at least three bonds apart)
    the ends that hang on one bond move, such as hydrogen; in crystals and rings, and between
    neighbours of the same atom, one atom alone where no bond joins the two elements. From `rises`
    × (R_i + R_j) inwards the energy must rise; farther out a bond may form, but no energy may fall
    as no bond lets it. It ends at `wall_warn`. Isolated dimers are not used: few learnt
    potentials have seen them, and no MD of the structure meets them.

    Attributes
    ----------
    most : int
        Scans at most so many pairs.
    rises : float
        In units of R_i + R_j. Default 0.7. The shortest bond, that of N2, lies at 0.77.
    reach : float
        Pairs are taken up to this × (R_i + R_j). Default 4.5.
    points : int
        From the start to `closest`. With 41, the sixth differences of Lennard-Jones argon at
        5 eV are those that a jump of 3 meV leaves.
    """

    most: int = 6
    rises: float = 0.7
    reach: float = 4.5
    points: int = 41

    name: ClassVar[str] = "contact_scan"
    definition: ClassVar[str] = (
        "energy of a close pair pushed to {closest:g} of its radii sum: largest jump (warns "
        "above {jump_warn:g} eV, fails above {jump_fail:g} eV); fails at a hole that MD can "
        "reach, behind less than {wall:g} eV or {thermal:g} k_B T"
    )

    def judge(self, probe: Probe) -> StaticResult:
        """Scan each pair."""
        return self.scan_all(probe, contact_motions(probe.atoms, self.most, self.reach), "pair")

    def says(self, probe: Probe, motion: Motion) -> str:
        """Name the pair."""
        return f"{probe.label(motion.first, motion.second)} pushed together"

    def line(self, probe: Probe, motion: Motion) -> Line:
        """Push one pair together; a little way outwards shows jumps beside the start."""
        closest, reach = self.closest * _radii(probe, motion), self.accessible(probe)
        spacing = (motion.length - closest) / (self.points - 1)
        return follow(
            lambda distance: probe.energy(motion.positions(probe.atoms, distance)),
            probe.start_energy,
            motion.length,
            spacing,
            (self.nearest * _radii(probe, motion), motion.length + 3.0 * spacing),
            reach=reach,
            coarse=self.coarse * _radii(probe, motion),
            stop=self.stop(probe, motion),
            rest=lambda: probe.come_home(self.name),
        )

    def shape(self, scan: Scan) -> list[Marked]:
        """Find holes: falls at short range, and those too deep for a bond."""
        x, rises = scan.line.x, scan.line.rises
        lowest = int(np.argmin(rises[: scan.line.start + 1]))
        if -rises[lowest] > self.pit:
            return [self.pitfall(scan, lowest)]
        inner = np.flatnonzero(x <= self.rises * scan.radii)
        turn = first_turn(rises, int(inner[-1]), -1, scan.limits.turn) if len(inner) else None
        return [] if turn is None else [self.hole(scan, turn.top, turn.bottom)]


#: What MD does at a jump of the energy that it crosses.
CROSSED = "gains or loses as much at each crossing, and drifts"


def in_md(probe: Probe) -> str:
    """Name the MD that the findings speak about."""
    return f"MD at {probe.conditions.temperature:g} K"


def _radii(probe: Probe, motion: Motion) -> float:
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
