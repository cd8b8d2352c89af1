"""Smoothness of the energy along bonds and contacts: no jump, no hole, one minimum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ase_ws.results.finding import Severity
from ase_ws.stability.static.line_check import LineCheck, Marked, Scan, in_md, radii_of
from ase_ws.stability.static.probe import Probe
from ase_ws.stability.static.result import StaticResult
from ase_ws.stability.static.scan import (
    Line,
    first_turn,
    follow,
)
from ase_ws.stability.static.topology import Motion, bond_motions, contact_motions


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
        "fails at a hole that MD can reach, behind less than {wall:g} eV or {thermal:g} k_B T, "
        "warns at one behind less than {wall_warn:g} eV and at a second minimum"
    )

    def judge(self, probe: Probe) -> StaticResult:
        """Scan each bond."""
        return self.scan_all(probe, bond_motions(probe.atoms, self.most), "bond")

    def says(self, probe: Probe, motion: Motion) -> str:
        """Name the bond."""
        return f"stretch of {probe.label(motion.first, motion.second).replace(', ', '-')}"

    def line(self, probe: Probe, motion: Motion) -> Line:
        """Stretch and compress one bond."""
        shortest = min(self.shortest * motion.length, self.nearest * radii_of(probe, motion))
        reach = self.accessible(probe)
        return follow(
            lambda distance: probe.energy(motion.positions(probe.atoms, distance)),
            probe.start_energy,
            motion.length,
            self.spacing * motion.length,
            (shortest, self.longest * motion.length),
            reach=reach,
            coarse=self.coarse * radii_of(probe, motion),
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
        "reach, behind less than {wall:g} eV or {thermal:g} k_B T, warns at one behind less than "
        "{wall_warn:g} eV"
    )

    def judge(self, probe: Probe) -> StaticResult:
        """Scan each pair."""
        return self.scan_all(probe, contact_motions(probe.atoms, self.most, self.reach), "pair")

    def says(self, probe: Probe, motion: Motion) -> str:
        """Name the pair."""
        return f"{probe.label(motion.first, motion.second)} pushed together"

    def line(self, probe: Probe, motion: Motion) -> Line:
        """Push one pair together; a little way outwards shows jumps beside the start."""
        closest, reach = self.closest * radii_of(probe, motion), self.accessible(probe)
        spacing = (motion.length - closest) / (self.points - 1)
        return follow(
            lambda distance: probe.energy(motion.positions(probe.atoms, distance)),
            probe.start_energy,
            motion.length,
            spacing,
            (self.nearest * radii_of(probe, motion), motion.length + 3.0 * spacing),
            reach=reach,
            coarse=self.coarse * radii_of(probe, motion),
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
