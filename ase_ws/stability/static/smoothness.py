"""Smoothness of the energy along bonds and contacts: no jump, no hole, one minimum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ase_ws.md.observer import Finding, Severity
from ase_ws.stability.pairs import radii_sum
from ase_ws.stability.static.probe import Probe
from ase_ws.stability.static.result import Curve, StaticCheck, StaticResult
from ase_ws.stability.static.scan import Limits, Turn, discontinuities, first_turn
from ase_ws.stability.static.topology import Motion, bond_motions, contact_motions


@dataclass
class LineCheck(StaticCheck):
    """What the scans along lines have in common: their limits, and how jumps are reported.

    Attributes
    ----------
    wall : float
        In eV. A hole behind a wall lower than this fails, behind a higher one it warns: atoms at
        T climb 5 eV with a probability of exp(−5 eV/k_B T), 6e-26 at 1,000 K and 4e-9 at
        3,000 K, so that no MD below some thousand K gets there. Learnt potentials often have
        such holes, where there are no training data.
    wall_warn : float
        In eV. A hole behind a higher wall is only marked on the curve. Default 50, ten times
        `wall`.
    turn : float
        In eV. Rises and falls of less are overlooked. Default 0.02, about k_B T at 300 K.
    jump_warn, jump_fail : float
        In eV. Defaults 1e-3 and 5e-3. Each crossing changes the conserved energy by the jump; at
        ten crossings per ps, 1 meV random steps reach the 1 meV/atom/ps at which the drift of MD
        fails (design, section 7) in a molecule of three atoms.
    kink : float
        In eV/Å. A larger step of the force warns. Default 0.1: a Verlet step that crosses it
        with 0.02 Å/fs errs by 1 meV.
    """

    wall: float = 5.0
    wall_warn: float = 50.0
    turn: float = 0.02
    jump_warn: float = 1e-3
    jump_fail: float = 5e-3
    kink: float = 0.1

    unit: ClassVar[str] = "eV"

    def limits(self, probe: Probe) -> Limits:
        """Limits for the scans, no smaller than the noise of the calculator allows."""
        noise = probe.noise.energy
        return Limits(
            turn=max(self.turn, 20.0 * noise),
            jump_warn=max(self.jump_warn, 20.0 * noise),
            jump_fail=max(self.jump_fail, 20.0 * noise),
            # The finest grid has a spacing of some 3e-4 Å.
            kink=max(self.kink, 20.0 * np.sqrt(70.0) * noise / 6e-4),
            reach=2.0 * self.wall,
        )

    def scan_all(self, probe: Probe, motions: Sequence[Motion], what: str) -> StaticResult:
        """Scan each of them, and collect."""
        if not motions:
            return self.without_value("does not apply", f"no {what} that could be moved")
        limits, findings, curves, largest = self.limits(probe), [], [], 0.0
        for motion in motions:
            some, curve, jump = self.scan(probe, motion, limits)
            findings += some
            curves.append(curve)
            largest = max(largest, jump)
        note = f"{len(motions)} {what}s" if len(motions) > 1 else f"1 {what}"
        return self.result(
            largest, findings, curves, warn_at=limits.jump_warn, fail_at=limits.jump_fail, note=note
        )

    def scan(
        self, probe: Probe, motion: Motion, limits: Limits
    ) -> tuple[list[Finding], Curve, float]:
        """Give findings, the curve and the largest jump (eV) of one motion."""
        raise NotImplementedError

    def smoothness(
        self,
        probe: Probe,
        motion: Motion,
        x: np.ndarray,
        energies: np.ndarray,
        limits: Limits,
        what: str,
    ) -> tuple[list[Finding], list[float], float]:
        """Give findings about jumps and kinks, where they are, and the largest jump in eV."""

        def energy(distance: float) -> float:
            return probe.energy(motion.positions(probe.atoms, distance))

        findings, marks, largest = [], [], 0.0
        for spot in discontinuities(energy, x, energies, limits):
            largest = max(largest, spot.jump)
            marks.append(spot.x)
            pair = probe.original(motion.first), probe.original(motion.second)
            if not spot.jump <= limits.jump_warn:
                severity: Severity = "warn" if spot.jump <= limits.jump_fail else "fail"
                limit = limits.jump_warn if severity == "warn" else limits.jump_fail
                message = f"{what}: the energy jumps by {1e3 * spot.jump:.3g} meV at {spot.x:.3f} Å"
                findings.append(self.finding(severity, message, spot.jump, limit, pair))
            else:
                message = f"{what}: the force jumps by {spot.kink:.2g} eV/Å at {spot.x:.3f} Å"
                findings.append(self.finding("warn", message, spot.kink, limits.kink, pair))
        return findings, marks, largest

    def hole(
        self, x: np.ndarray, energies: np.ndarray, turn: Turn, what: str, pair: Sequence[int]
    ) -> list[Finding]:
        """Report that the energy falls where it must rise."""
        if turn.wall >= self.wall_warn:
            return []
        severity: Severity = "warn" if turn.wall >= self.wall else "fail"
        depth = energies[turn.top] - energies[turn.bottom]
        message = (
            f"{what}: hole at short range, the energy falls by {depth:.3g} eV below "
            f"{x[turn.top]:.2f} Å, behind a wall of {turn.wall:.3g} eV"
        )
        return [self.finding(severity, message, turn.wall, self.wall, pair)]


@dataclass
class BondScan(LineCheck):
    """Energy while one bond of each pair of elements is stretched and compressed.

    The bond runs from `shortest` to `longest` of its length, with rigid fragments where cutting
    it makes two, else one atom moves against all others (rings, crystals). Wanted are:

    - no jump of the energy, and none of the force (see `LineCheck`), up to 10 eV;
    - one minimum. A second one at a stretch warns only, because it may be physics: a proton that
      reaches its acceptor, a ring that closes. It fails where it lies `deeper` eV below the first
      behind a wall that can be climbed;
    - from the minimum inwards the energy rises to the end; else there is a hole.

    Attributes
    ----------
    most : int
        Scans at most so many bonds.
    shortest, longest, spacing : float
        In units of the length at the start. Defaults 0.5, 1.4 and 0.02. Where bonds are at 0.5,
        the repulsion is tens of eV; 1.4 is beyond the 0.5 Å by which MD may stretch a bond.
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
        "energy of a bond from 0.5 to 1.4 of its length: largest jump (warns above 1 meV, fails "
        "above 5 meV); fails at a hole behind less than 5 eV; warns at a second minimum"
    )

    def judge(self, probe: Probe) -> StaticResult:
        """Scan each bond."""
        return self.scan_all(probe, bond_motions(probe.atoms, self.most), "bond")

    def scan(
        self, probe: Probe, motion: Motion, limits: Limits
    ) -> tuple[list[Finding], Curve, float]:
        """Stretch and compress one bond."""
        ratios = np.arange(self.shortest, self.longest + 0.5 * self.spacing, self.spacing)
        x = ratios * motion.length
        energies = np.array([probe.energy(motion.positions(probe.atoms, d)) for d in x])
        name = probe.label(motion.first, motion.second).replace(", ", "-")
        what = f"stretch of {name}"
        pair = probe.original(motion.first), probe.original(motion.second)
        findings, marks, jump = self.smoothness(probe, motion, x, energies, limits, what)
        # The minimum: the structure may be a frame of MD, whose bonds are off by 15 %.
        inner = np.flatnonzero((ratios >= 0.84) & (ratios <= 1.21))
        bottom = int(inner[np.argmin(energies[inner])])
        # A bond that is much too short in the frame has its minimum farther out.
        while bottom + 1 < len(x) and energies[bottom + 1] < energies[bottom]:
            bottom += 1
        turn = first_turn(energies, bottom, -1, limits.turn)
        if turn is not None:
            marks.append(float(x[turn.top]))
            findings += self.hole(x, energies, turn, what, pair)
        turn = first_turn(energies, bottom, +1, limits.turn)
        if turn is not None:
            marks.append(float(x[turn.bottom]))
            findings.append(self._second_minimum(x, energies, bottom, turn, what, pair))
        curve = Curve(
            f"{name} stretch",
            "distance (Å)",
            "energy (eV)",
            x.tolist(),
            (energies - probe.start_energy).tolist(),
            marks,
        )
        return findings, curve, jump

    def _second_minimum(
        self,
        x: np.ndarray,
        energies: np.ndarray,
        bottom: int,
        turn: Turn,
        what: str,
        pair: Sequence[int],
    ) -> Finding:
        depth = float(energies[bottom] - energies[turn.bottom])
        severity: Severity = "fail" if depth > self.deeper and turn.wall < self.wall else "warn"
        message = (
            f"{what}: second minimum at {x[turn.bottom]:.2f} Å or beyond, {abs(depth):.3g} eV "
            f"{'below' if depth > 0 else 'above'} the first, behind {turn.wall:.3g} eV"
        )
        return self.finding(severity, message, depth, self.deeper, pair)


@dataclass
class ContactScan(LineCheck):
    """Energy while the closest non-bonded pair of each pair of elements is pushed together.

    Molecules move as a whole against each other; within a molecule (at least three bonds apart)
    the ends that hang on one bond move, such as hydrogen. From `rises` × (R_i + R_j) inwards the
    energy must rise; farther out a bond may form, but no energy may fall as no bond lets it.
    Isolated dimers are not used: few learnt potentials have seen them, and no MD of the structure
    meets them.

    Attributes
    ----------
    most : int
        Scans at most so many pairs.
    rises, closest : float
        In units of R_i + R_j. Defaults 0.7 and 0.4. The shortest bond, that of N2, lies at 0.77.
    pit : float
        In eV. A fall by more than this fails wherever it is, behind a wall lower than `wall`.
        Default 12: more than the strongest bond there is (CO, 11.1 eV).
    reach : float
        Pairs are taken up to this × (R_i + R_j). Default 4.5.
    points : int
    """

    most: int = 6
    rises: float = 0.7
    closest: float = 0.4
    pit: float = 12.0
    reach: float = 4.5
    points: int = 61

    name: ClassVar[str] = "contact_scan"
    definition: ClassVar[str] = (
        "energy of a close pair pushed to 0.4 of its radii sum: largest jump (warns above 1 meV, "
        "fails above 5 meV); fails at a hole behind less than 5 eV"
    )

    def judge(self, probe: Probe) -> StaticResult:
        """Scan each pair."""
        return self.scan_all(probe, contact_motions(probe.atoms, self.most, self.reach), "pair")

    def scan(
        self, probe: Probe, motion: Motion, limits: Limits
    ) -> tuple[list[Finding], Curve, float]:
        """Push one pair together."""
        ends = np.array([motion.first]), np.array([motion.second])
        radii = float(radii_sum(probe.atoms.numbers, *ends)[0])
        x = np.linspace(self.closest * radii, motion.length, self.points)
        energies = np.array([probe.energy(motion.positions(probe.atoms, d)) for d in x])
        name = probe.label(motion.first, motion.second)
        what = f"{name} pushed together"
        pair = probe.original(motion.first), probe.original(motion.second)
        findings, marks, jump = self.smoothness(probe, motion, x, energies, limits, what)
        inner = np.flatnonzero(x <= self.rises * radii)
        turn = first_turn(energies, int(inner[-1]), -1, limits.turn) if len(inner) else None
        if turn is not None:
            # The wall is counted from the start, and may stand farther out.
            wall = float(energies[turn.top :].max() - energies[-1])
            turn = Turn(turn.top, wall, turn.bottom)
            marks.append(float(x[turn.top]))
            findings += self.hole(x, energies, turn, what, pair)
        findings += self._pit(x, energies, what, pair, marks)
        curve = Curve(
            f"{name} pushed together",
            "distance (Å)",
            "energy (eV)",
            x.tolist(),
            (energies - probe.start_energy).tolist(),
            marks,
        )
        return findings, curve, jump

    def _pit(
        self,
        x: np.ndarray,
        energies: np.ndarray,
        what: str,
        pair: Sequence[int],
        marks: list[float],
    ) -> list[Finding]:
        lowest = int(np.argmin(energies))
        depth = float(energies[-1] - energies[lowest])
        wall = float(energies[lowest:].max() - energies[-1])
        if depth <= self.pit or wall >= self.wall:
            return []
        marks.append(float(x[lowest]))
        message = (
            f"{what}: the energy falls by {depth:.3g} eV at {x[lowest]:.2f} Å, more than any bond "
            f"is worth, behind a wall of {wall:.2g} eV"
        )
        return [self.finding("fail", message, depth, self.pit, pair)]
