"""Forces against the energy by the work that they do, and round trips for their curl."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, NamedTuple

import numpy as np
from ase import Atoms, units

from ase_ws.stability.static.probe import Conditions, Probe
from ase_ws.stability.static.quadrature import INTEGRAL_NOISE, Integral, integrate
from ase_ws.stability.static.result import StaticCheck, StaticResult

#: How many error bars a difference must exceed to be one.
BARS = 3.0
#: Halvings of a path where the difference is beyond the limit, and not beyond its error bar.
_HALVINGS = 2
#: Round trips that are made where forces have failed.
_TRIPS = 3


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


class Gap(NamedTuple):
    """How far forces and energy are apart, and what noise and integrals make of it; in eV/Å.

    The length of the errors of all forces together.
    """

    force: float
    bar: float

    @property
    def is_seen(self) -> bool:
        """Whether it stands out of its error bar; NaN does."""
        return not self.force <= BARS * self.bar


@dataclass
class Work(StaticCheck):
    """Work of the forces along short straight paths against the differences of the energy.

    δW = E(b) − E(a) + ∫ F·dr from a to b is zero where F = −∇E. The paths lead from a structure
    that is displaced by 0.05 Å, so that forces that vanish at a minimum hide nothing, along
    `most` random directions that are orthogonal to each other in the space of all coordinates:
    up to eight atoms those are all there are, and √Σ(δW/length)² is the length of the error of
    all forces together. Of more atoms they are a sample, and √(3n/`most`) times that an estimate;
    of an error on a single atom it gives 0.6 to 1.4. No derivative of an energy is taken: rounding
    of the energy counts over the length of the path, and a step in a derivative of the forces
    hardly counts (see `integrate`). Up to 100 evaluations where all is right, 200 where energies
    are rough, more where the difference is beyond the limit.

    Along a triangle no energy is needed: where such round trips cost or gain work, there is no
    energy that these forces derive from.

    For a calculator that says that it is not conservative, the root mean square error of a
    component is reported, and warns.

    Attributes
    ----------
    fail_at : float
        In eV/Å. Default 1e-2, 1 % of a thermal force, as for `Precision`. An error of the
        forces of that size, if always along the velocity, heats an atom of carbon at 300 K by
        80 meV/ps. Beyond `few` atoms it grows as √n: it is the length of all errors together,
        and codes leave some on every atom whose energy is not quite that of the forces: an
        extrapolated one, a loosely converged one, real-space grids.
    warn_at : float
        Likewise; a tenth.
    few, most : int
    length, noisy_length : float
        Of a path in Å per atom (root mean square). Where the noise of the energy is above
        `noisy` eV, the longer one.
    noisy : float
    seed : int
        Of the directions.
    """

    fail_at: float = 1e-2
    warn_at: float = 1e-3
    few: int = 8
    most: int = 24
    length: float = 0.05
    noisy_length: float = 0.15
    noisy: float = 1e-4
    seed: int = 7

    name: ClassVar[str] = "work"
    definition: ClassVar[str] = (
        "error of the forces, by the work that they do along paths of {length:g} Å per atom "
        "against the differences of the energy; warns above {warn_at:g}, fails above "
        "{fail_at:g} eV/Å (direct forces: warns)"
    )
    unit: ClassVar[str] = "eV/Å"

    def judge(self, probe: Probe) -> StaticResult:
        """Compare."""
        star = _Star(probe, self._paths(probe), self.seed)
        scale = max(1.0, np.sqrt(len(probe.atoms) / self.few))
        warn_at, fail_at = self.warn_at * scale, self.fail_at * scale
        if not probe.conservative:
            return self._direct(probe, star.gap(0.0))
        gap = star.gap(2.0 * warn_at)
        if gap.force > fail_at and not gap.is_seen:
            gap = star.gap(fail_at / (2.0 * BARS), _HALVINGS)
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
        message, atoms = self._told(star, gap, severity == "fail")
        finding = self.finding(severity, message, gap.force, limit, atoms)
        return self.result(gap.force, [finding], warn_at=warn_at, fail_at=fail_at)

    def _paths(self, probe: Probe) -> np.ndarray:
        """Orthogonal displacements of all atoms, (n_paths, n_atoms, 3), in Å."""
        n_atoms = len(probe.atoms)
        rng = np.random.default_rng((self.seed, 1))
        random = rng.normal(size=(3 * n_atoms, min(self.most, 3 * n_atoms)))
        directions = np.linalg.qr(random)[0].T
        length = self.length if probe.noise.energy <= self.noisy else self.noisy_length
        return length * np.sqrt(n_atoms) * directions.reshape(-1, n_atoms, 3)

    def _told(self, star: _Star, gap: Gap, failed: bool) -> tuple[str, list[int]]:
        probe, atoms = star.probe, []
        message = (
            f"the forces are not the gradient of the energy: they are off by {gap.force:.2g} eV/Å "
            "in all"
        )
        if failed and 1 < len(probe.atoms) <= self.most:
            worst = star.worst_atom()
            message, atoms = f"{message}, most on {probe.label(worst)}", [probe.original(worst)]
        if failed:
            message += star.round_trips()
        return f"{message}; {heating(probe, gap.force)}", atoms

    def _direct(self, probe: Probe, gap: Gap) -> StaticResult:
        rms = gap.force / np.sqrt(3.0 * len(probe.atoms))
        message = (
            f"the forces are not the gradient of the energy, as the calculator says: they differ "
            f"by {1e3 * rms:.0f} meV/Å (RMS); {heating(probe, gap.force)}"
        )
        return self.result(rms, [self.finding("warn", message, rms)], note=message)


class _Star:
    """Paths from one structure, with the energies of their ends."""

    def __init__(self, probe: Probe, paths: np.ndarray, seed: int):
        self.probe, self.paths = probe, paths
        self.base = probe.rattled(seed=seed).positions
        self.energy = probe.energy(self.base)
        self.rises = [probe.energy(self.base + path) - self.energy for path in paths]
        self.legs: list[Leg] = []

    def gap(self, enough: float, halvings: int = 0) -> Gap:
        """Walk along all paths; three points are enough for errors below `enough` eV/Å in all."""
        n_atoms, noise = len(self.probe.atoms), self.probe.noise
        # Of the error along one path in that of all coordinates.
        whole = np.sqrt(3.0 * n_atoms)
        self.legs, bars = [], []
        for path, rise in zip(self.paths, self.rises, strict=True):
            tolerance = enough * float(np.linalg.norm(path)) / whole
            cautious = enough == 0.0 or halvings > 0
            leg = self._walked(self.base, path, rise, tolerance, cautious, halvings)
            self.legs.append(leg)
            of_forces = INTEGRAL_NOISE * noise.force * leg.length
            of_leg = np.linalg.norm([leg.work.error, of_forces, np.sqrt(2.0) * noise.energy])
            bars.append(of_leg / leg.length)
        return Gap(whole * _rms([leg.excess / leg.length for leg in self.legs]), whole * _rms(bars))

    def _walked(
        self,
        start: np.ndarray,
        path: np.ndarray,
        rise: float,
        tolerance: float = np.inf,
        cautious: bool = True,
        halvings: int = 0,
    ) -> Leg:
        def along(t: float) -> float:
            return float(np.vdot(self.probe.forces(start + t * path), path))

        work = integrate(along, -rise, tolerance, cautious=cautious, halvings=halvings)
        return Leg(float(np.linalg.norm(path)), work, rise + work.value)

    def worst_atom(self) -> int:
        """Find the atom whose force is off most: one moves at a time, along the first path."""
        here, energy, errors = self.base.copy(), self.energy, []
        for atom, step in enumerate(self.paths[0]):
            there = here.copy()
            there[atom] += step
            after = self.probe.energy(there)
            leg = self._walked(here, there - here, after - energy)
            errors.append(abs(leg.excess) / leg.length)
            here, energy = there, after
        return int(np.argmax(errors))

    def round_trips(self) -> str:
        """Say whether triangles of paths cost or gain work; "" where it cannot be told."""
        number = min(_TRIPS, len(self.paths) - 1)
        spokes = [self._walked(self.base, self.paths[k], self.rises[k]) for k in range(number + 1)]
        trips, bars = [], []
        for k, (first, second) in enumerate(pairwise(spokes)):
            third = self._walked(self.base + self.paths[k], self.paths[k + 1] - self.paths[k], 0.0)
            trips.append(first.work.value + third.work.value - second.work.value)
            bars += [leg.work.error for leg in (first, second, third)]
        noise = INTEGRAL_NOISE * self.probe.noise.force * self.legs[0].length
        # What the sums lose in float64 is left in any case.
        bar = BARS * max(np.sqrt(3.0) * np.hypot(_rms(bars), noise), 1e-9)
        if not _rms(trips) <= bar:
            return ", and have a curl: no energy has these forces"
        # A curl that changes over an ångström would cost a fiftieth of the error of a path.
        if max(_rms(trips), bar) < 1e-3 * _rms([leg.excess for leg in self.legs]):
            return ", though round trips cost no work: they belong to another energy"
        return ""


def _rms(values: Sequence[float]) -> float:
    return float(np.sqrt(np.mean(np.square(np.asarray(values)))))


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
