"""Forces against the energy by the work that they do, and round trips for their curl."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar, NamedTuple

import numpy as np
from ase import Atoms, units

from ase_ws.stability.static.probe import Conditions, Probe
from ase_ws.stability.static.quadrature import INTEGRAL_NOISE, Integral, integrate
from ase_ws.stability.static.result import StaticCheck, StaticResult

#: How many error bars a difference must exceed to be one.
BARS = 3.0
#: Halvings of a path where the difference is beyond the limit, and not beyond its error bar: some
#: 600 evaluations at most.
_HALVINGS = 2
_CORNERS = 4


class Leg(NamedTuple):
    """A straight path and what the energy and the forces say of it.

    Attributes
    ----------
    length : float
        In the space of all coordinates, in Å.
    work : Integral
        ∫F·dr, in eV.
    excess : float
        E(end) − E(start) + ∫F·dr, zero where F = −∇E, in eV.
    """

    length: float
    work: Integral
    excess: float


@dataclass
class Walk:
    """The six edges of a tetrahedron of structures, and its four faces.

    Attributes
    ----------
    probe : Probe
    corners : list of (n_atoms, 3) array
    energies : list of float
    """

    probe: Probe
    corners: list[np.ndarray]
    energies: list[float]

    @classmethod
    def around(cls, probe: Probe, spread: float, seed: int) -> Walk:
        """Displace a rattled structure four times by `spread` Å per component."""
        # Not the numbers of `rattled`: the paths must not lead back to the start.
        rng = np.random.default_rng((seed, 1))
        base = probe.rattled(seed=seed).positions
        corners = [base + rng.normal(0.0, spread, base.shape) for _ in range(_CORNERS)]
        return cls(probe, corners, [probe.energy(corner) for corner in corners])

    def legs(self, tolerance: float, halvings: int) -> dict[tuple[int, int], Leg]:
        """Walk along each edge; `tolerance` in eV."""
        return {
            (i, j): _walked(
                self.probe,
                self.corners[i],
                self.corners[j],
                self.energies[j] - self.energies[i],
                tolerance,
                halvings,
            )
            for i, j in combinations(range(_CORNERS), 2)
        }


def _walked(
    probe: Probe,
    start: np.ndarray,
    end: np.ndarray,
    rise: float,
    tolerance: float,
    halvings: int,
) -> Leg:
    path = end - start

    def along(t: float) -> float:
        return float(np.vdot(probe.forces(start + t * path), path))

    work = integrate(along, tolerance, halvings)
    return Leg(float(np.linalg.norm(path)), work, rise + work.value)


class Gap(NamedTuple):
    """How far forces and energy are apart.

    Attributes
    ----------
    force : float
        Length of the error of all forces together, in eV/Å.
    bar : float
        What noise and the integrals make of it, in eV/Å.
    excess : float
        Root mean square of `Leg.excess`, in eV.
    round_trip : float
        Root mean square of the work around a face, in eV.
    round_trip_bar : float
        What the integrals make of that, in eV.
    """

    force: float
    bar: float
    excess: float
    round_trip: float
    round_trip_bar: float

    @property
    def is_seen(self) -> bool:
        """Whether it stands out of its error bar; NaN does."""
        return not self.force <= BARS * self.bar

    @property
    def has_curl(self) -> bool:
        """Whether round trips gain or cost work."""
        return not self.round_trip <= BARS * self.round_trip_bar

    @property
    def is_closed(self) -> bool:
        """Whether round trips cost so little that a curl cannot be the cause.

        One that changes over an ångström would cost a fiftieth of `excess`.
        """
        return max(self.round_trip, BARS * self.round_trip_bar) < 1e-3 * self.excess


@dataclass
class Work(StaticCheck):
    """Work of the forces along short straight paths against the differences of the energy.

    δW = E(b) − E(a) + ∫ F·dr from a to b is zero where F = −∇E. The paths are the edges of two
    tetrahedra of structures near one that is displaced by 0.05 Å, so that forces that vanish at a
    minimum hide nothing. √(3n) × the root mean square of δW over the length of its path estimates
    the length of the error of all forces together, which is no less than that of any of them. No
    derivative of an energy is taken: rounding of the energy counts over the length of the path,
    and a step in a derivative of the forces hardly counts (see `integrate`). Some 100 evaluations,
    more where the difference is beyond the limit.

    Around a face of a tetrahedron no energy is needed: where such round trips cost or gain work,
    there is no energy that these forces derive from.

    For a calculator that says that it is not conservative, the root mean square error of a
    component is reported, and warns.

    Attributes
    ----------
    fail_at : float
        In eV/Å. Default 1e-2, 1 % of a thermal force, as for `Precision`. An error of the
        forces of that size, if always along the velocity, heats an atom of carbon at 300 K by
        80 meV/ps. Beyond `few` atoms it grows as √n: it is the length of all errors together.
        Less is what codes leave whose energy is not quite that of the forces: an extrapolated
        one, a loosely converged one, real-space grids.
    warn_at : float
        Likewise; a tenth.
    few : int
    spread, noisy_spread : float
        Standard deviation of the corners' coordinates in Å: paths of 0.05 Å per atom, and
        0.15 Å where the noise of the energy is above `noisy` eV.
    noisy : float
    seeds : tuple of int
        One for each tetrahedron.
    """

    fail_at: float = 1e-2
    warn_at: float = 1e-3
    few: int = 8
    spread: float = 0.02
    noisy_spread: float = 0.06
    noisy: float = 1e-4
    seeds: tuple[int, ...] = (7, 8)

    name: ClassVar[str] = "work"
    definition: ClassVar[str] = (
        "error of the forces, by the work that they do along paths of 0.05 Å per atom against the "
        "differences of the energy; warns above 1e-3, fails above 1e-2 eV/Å (direct forces: warns)"
    )
    unit: ClassVar[str] = "eV/Å"

    def judge(self, probe: Probe) -> StaticResult:
        """Compare."""
        spread = self.spread if probe.noise.energy <= self.noisy else self.noisy_spread
        walks = [Walk.around(probe, spread, seed) for seed in self.seeds]
        scale = max(1.0, np.sqrt(len(probe.atoms) / self.few))
        warn_at, fail_at = self.warn_at * scale, self.fail_at * scale
        gap = self._gap(probe, walks, fail_at, 0)
        if probe.conservative and gap.force > fail_at and not gap.is_seen:
            gap = self._gap(probe, walks, fail_at, _HALVINGS)
        if not probe.conservative:
            return self._direct(probe, gap)
        if gap.force <= warn_at or (gap.force <= fail_at and not gap.is_seen):
            return self.result(gap.force, warn_at=warn_at, fail_at=fail_at)
        if not gap.is_seen:
            note = (
                f"energy and forces are too noisy, or too rough on a scale of 0.01 Å: an error of "
                f"{gap.force:.2g} eV/Å, known to {gap.bar:.2g} only"
            )
            return self.without_value("not judged", note)
        severity = "warn" if gap.force <= fail_at else "fail"
        limit = warn_at if severity == "warn" else fail_at
        atom = self._culprit(probe, walks[0]) if severity == "fail" else None
        message = f"{self._told(gap, atom, probe)}; {heating(probe, gap.force)}"
        finding = self.finding(
            severity, message, gap.force, limit, () if atom is None else [probe.original(atom[0])]
        )
        return self.result(gap.force, [finding], warn_at=warn_at, fail_at=fail_at)

    def _gap(self, probe: Probe, walks: list[Walk], limit: float, halvings: int) -> Gap:
        n_atoms, noise = len(probe.atoms), probe.noise
        whole = np.sqrt(3.0 * n_atoms)
        excesses, bars, trips, trip_bars, raw = [], [], [], [], []
        for walk in walks:
            length = np.linalg.norm(walk.corners[1] - walk.corners[0])
            legs = walk.legs(limit * length / (whole * 2.0 * BARS), halvings)
            for leg in legs.values():
                of_work = np.hypot(leg.work.error, INTEGRAL_NOISE * noise.force * leg.length)
                of_leg = np.hypot(of_work, np.sqrt(2.0) * noise.energy)
                raw.append(leg.excess)
                excesses.append(leg.excess / leg.length)
                bars.append(of_leg / leg.length)
            for i, j, k in combinations(range(_CORNERS), 3):
                sides = legs[i, j], legs[j, k], legs[i, k]
                trips.append(sides[0].work.value + sides[1].work.value - sides[2].work.value)
                of_sides = [
                    np.hypot(side.work.error, INTEGRAL_NOISE * noise.force * side.length)
                    for side in sides
                ]
                trip_bars.append(np.linalg.norm(of_sides))
        return Gap(
            whole * _rms(excesses),
            whole * _rms(bars),
            _rms(raw),
            _rms(trips),
            # What the sums lose in float64.
            max(_rms(trip_bars), 1e-9),
        )

    def _culprit(self, probe: Probe, walk: Walk) -> tuple[int, float] | None:
        """Find the atom whose force is off most, and by how much: one atom moves at a time."""
        n_atoms = len(probe.atoms)
        if not 1 < n_atoms <= 3 * self.few:
            return None
        here, energy, errors = walk.corners[0].copy(), walk.energies[0], []
        for atom in range(n_atoms):
            there = here.copy()
            there[atom] = walk.corners[1][atom]
            after = probe.energy(there)
            leg = _walked(probe, here, there, after - energy, np.inf, 0)
            errors.append(abs(leg.excess) / leg.length)
            here, energy = there, after
        worst = int(np.argmax(errors))
        return worst, float(errors[worst])

    @staticmethod
    def _told(gap: Gap, atom: tuple[int, float] | None, probe: Probe) -> str:
        message = (
            f"the forces are not the gradient of the energy: they are off by {gap.force:.2g} eV/Å "
            "in all"
        )
        if atom is not None:
            message += f", most on {probe.label(atom[0])}"
        if gap.has_curl:
            return f"{message}, and have a curl: no energy has these forces"
        if gap.is_closed:
            return f"{message}, though round trips cost no work: they belong to another energy"
        return message

    def _direct(self, probe: Probe, gap: Gap) -> StaticResult:
        rms = gap.force / np.sqrt(3.0 * len(probe.atoms))
        message = (
            f"the forces are not the gradient of the energy, as the calculator says: they differ "
            f"by {1e3 * rms:.0f} meV/Å (RMS); {heating(probe, gap.force)}"
        )
        return self.result(rms, [self.finding("warn", message, rms)], note=message)


def _rms(values: list) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def heating(probe: Probe, force: float) -> str:
    """Say what an error of the forces, in eV/Å in all, means for the energy in NVE."""
    rate = 1e3 * power(probe.atoms, probe.conditions, force) / len(probe.atoms)
    return (
        f"NVE at {probe.conditions.temperature:g} K may gain or lose up to {rate:.2g} meV/atom/ps"
    )


def power(atoms: Atoms, conditions: Conditions, force: float) -> float:
    """Power, in eV/ps, of a force error of this length in all along thermal velocities.

    √(k_B T ⟨1/m⟩) is the standard deviation of a component of the velocity.
    """
    speed = np.sqrt(conditions.thermal_energy * np.mean(1.0 / atoms.get_masses()))
    return float(force * speed * 1000.0 * units.fs)
