"""What must not matter: orientation, mirror image, place, order, number of copies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from ase import Atoms

from ase_ws.stability.static.probe import Probe
from ase_ws.stability.static.result import StaticCheck, StaticResult


@dataclass(frozen=True)
class _Moved:
    """Changed atoms; their energy is that of the start, their forces F[order] @ rotation."""

    atoms: Atoms
    rotation: np.ndarray
    order: np.ndarray


#: What it means for MD when the energy feels them.
_MEANS = {
    "rotation": "molecules turn into a preferred direction",
    "reflection": "left- and right-handed molecules differ",
    "translation": "the place in space matters, and momentum is not conserved",
    "permutation": "atoms are told apart by their number, which they keep in MD",
}


@dataclass
class Invariances(StaticCheck):
    """Energy and forces of the structure rotated, mirrored, shifted, and with atoms reordered.

    A periodic cell turns with its atoms. Taken at a copy whose atoms are displaced by 0.05 Å,
    where no symmetry makes forces vanish. A permutation only warns: atoms keep their order in MD,
    and force fields with a fixed topology know them by number. The value is the larger of the
    change of the energy per atom and of that of any force component (turned back), each over its
    limit.

    A symmetry that is learnt, or left out (SevenNet-0 is not made symmetric under reflection: 1e-3
    eV/Å in silicon), makes no MD unstable: energy is conserved as well without it. It is told,
    and fails only where it is as large as the error of a good potential.

    Attributes
    ----------
    energy_limit : float
        In eV/atom. Default 1e-3, the accuracy usually asked of energies: for a molecule of nine
        atoms a third of k_B T at 300 K, a direction preferred 1.4 times. For larger molecules no
        more than k_B T in all.
    force_limit : float
        In eV/Å. Default 0.05: the RMS error of a good potential, 5 % of a thermal force.
        Where the calculator is noisy (float32), all limits are at least ten times the noise.
    warn_at : float
        In units of the limits. Default 0.01: exact in float64 to 1e-8, and in float32 to 1e-4
        eV/Å and 1e-6 eV/atom; more says that the symmetry is learnt, not built in.
    seed : int
    """

    energy_limit: float = 1e-3
    force_limit: float = 0.05
    warn_at: float = 0.01
    seed: int = 0

    name: ClassVar[str] = "invariances"
    definition: ClassVar[str] = (
        "change of energy per atom over {energy_limit:g} eV, or of a force over {force_limit:g} "
        "eV/Å, by rotation, reflection, translation (warns above {warn_at:g}, fails above 1) or "
        "permutation (warns)"
    )
    unit: ClassVar[str] = "limit"

    def judge(self, probe: Probe) -> StaticResult:
        """Compare each with the start."""
        start = probe.rattled()
        energy, forces = probe.energy_of(start), probe.forces_of(start)
        energy_limit = max(self._most(probe), 10.0 * probe.noise.energy / len(start))
        force_limit = max(self.force_limit, 10.0 * probe.noise.force)
        noise = max(probe.noise.energy / len(start) / energy_limit, probe.noise.force / force_limit)
        warn_at = max(self.warn_at, 10.0 * noise)
        worst, findings = 0.0, []
        for kind, moved in self._changes(start).items():
            atoms = probe.with_calculator(moved.atoms)
            change = abs(probe.energy_of(atoms) - energy) / len(start)
            errors = np.abs(probe.forces_of(atoms) - forces[moved.order] @ moved.rotation)
            value = max(change / energy_limit, float(errors.max()) / force_limit)
            worst = max(worst, value)
            if value <= warn_at:
                continue
            # Atoms keep their order in MD: what tells them apart by number (a force field with a
            # fixed topology) is no danger to this run.
            severity = "warn" if value <= 1.0 or kind == "permutation" else "fail"
            message = (
                f"{kind} changes the energy by {1e3 * change:.3g} meV/atom and a force by "
                f"{errors.max():.3g} eV/Å: {_MEANS[kind]}"
            )
            if severity == "warn" and kind != "permutation":
                message += ", too little to matter in MD"
            limit = 1.0 if severity == "fail" else warn_at
            findings.append(self.finding(severity, message, value, limit))
        note = ""
        if warn_at > self.warn_at:
            note = f"the calculator is noisy (single precision?): warns at {warn_at:.2g}"
        return self.result(worst, findings, warn_at=warn_at, fail_at=1.0, note=note)

    def _most(self, probe: Probe) -> float:
        """Limit of the energy in eV/atom."""
        if probe.atoms.pbc.any():
            return self.energy_limit
        # A molecule has its place, direction and hand as a whole.
        whole = probe.conditions.thermal_energy / len(probe.atoms)
        return min(self.energy_limit, whole)

    def _changes(self, start: Atoms) -> dict[str, _Moved]:
        rng, order = np.random.default_rng(self.seed), np.arange(len(start))
        rotation = _random_rotation(rng)
        mirror = rotation @ np.diag([1.0, 1.0, -1.0]) @ rotation.T
        changes = {
            "rotation": _Moved(_turned(start, rotation), rotation, order),
            "reflection": _Moved(_right_handed(_turned(start, mirror)), mirror, order),
        }
        shifted = start.copy()
        shifted.positions += rng.uniform(3.0, 7.0, 3)
        changes["translation"] = _Moved(shifted, np.eye(3), order)
        if len(start) > 1:
            mixed = rng.permutation(len(start))
            changes["permutation"] = _Moved(start[mixed], np.eye(3), mixed)
        return changes


def _random_rotation(rng: np.random.Generator) -> np.ndarray:
    matrix, upper = np.linalg.qr(rng.normal(size=(3, 3)))
    matrix = matrix * np.sign(np.diag(upper))
    return matrix * np.linalg.det(matrix)  # of odd dimension: the sign makes it proper


def _turned(atoms: Atoms, rotation: np.ndarray) -> Atoms:
    """Rows are vectors, so r → r R for positions, cell and forces."""
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ rotation)
    turned.positions = atoms.positions @ rotation
    return turned


def _right_handed(atoms: Atoms) -> Atoms:
    """Swap two cell vectors of a mirrored cell: the same crystal, and some codes insist."""
    if atoms.cell.rank == 3 and atoms.cell.handedness < 0:
        pbc = atoms.pbc
        atoms.set_cell(atoms.cell.array[[1, 0, 2]])
        atoms.pbc = pbc[[1, 0, 2]]
    return atoms


@dataclass
class Extensivity(StaticCheck):
    """Energy of two copies against twice that of one.

    A molecule and its copy `distance` away; of a periodic structure, a cell doubled along its
    first periodic direction. Beyond the limit energies of systems of different size cannot be
    compared, which warns: MD has one size. A doubled cell that differs by more than `cell_fail_at`
    per atom fails, because then the images of atoms are not where they should be (a cell smaller
    than the cutoff), or the cell is too small for what is computed in it.

    Attributes
    ----------
    warn_at : float
        In eV per copy. Default 1e-3, the accuracy usually asked of energies. At least ten times
        the noise.
    cell_fail_at : float
        In eV per atom. Default 5e-3, the jump that `VolumeCurve` does not bear.
    distance : float
        In Å, between the boxes around the two copies. Default 100: beyond any cutoff, and
        dipoles of 2 e Å still attract each other by 0.1 meV only.
    most_atoms : int
        Not judged when the two copies have more atoms.

    Notes
    -----
    Does not apply to charged or open-shell structures (charge, spin or magnetic moments given):
    charges feel each other at any distance, and two open shells are not one of twice the spin.
    Nor to calculators that tell atoms apart by their number.
    """

    warn_at: float = 1e-3
    cell_fail_at: float = 5e-3
    distance: float = 100.0
    most_atoms: int = 2000

    name: ClassVar[str] = "extensivity"
    definition: ClassVar[str] = (
        "E(two copies)/2 - E(one): molecules {distance:g} Å apart, or a doubled cell; warns "
        "above {warn_at:g} eV, a cell fails above {cell_fail_at:g} eV/atom"
    )
    unit: ClassVar[str] = "eV"

    def applies(self, probe: Probe) -> str | None:
        """Neutral closed shells."""
        # Charge and spin stand with the atoms, or with the calculator.
        given = getattr(probe.calculator, "parameters", None)
        info = {**(given if isinstance(given, Mapping) else {}), **probe.atoms.info}
        spin = _is_any(info.get("multiplicity", info.get("spin")), but=(0, 1))
        moments = probe.atoms.get_initial_magnetic_moments().any()
        charges = probe.atoms.get_initial_charges().any()
        if _is_any(info.get("charge"), but=(0,)) or spin or moments or charges:
            return "charged or open-shell"
        return None

    def _knows_no_numbers(self, probe: Probe) -> bool:
        """Whether the order of the atoms is of no consequence; see `Invariances`."""
        backwards = probe.with_calculator(probe.atoms[::-1])
        limit = max(self.warn_at, 10.0 * probe.noise.energy)
        return bool(abs(probe.energy_of(backwards) - probe.start_energy) <= limit)

    def judge(self, probe: Probe) -> StaticResult:
        """Compare."""
        if 2 * len(probe.atoms) > self.most_atoms:
            return self.without_value("not judged", f"more than {self.most_atoms // 2} atoms")
        if not self._knows_no_numbers(probe):
            why = "the calculator tells atoms apart by their number: it is for this system alone"
            return self.without_value("does not apply", why)
        noise = probe.noise.energy
        periodic = bool(probe.atoms.pbc.any())
        twice = probe.energy_of(probe.with_calculator(self._double(probe.atoms)))
        difference = abs(twice / 2.0 - probe.start_energy)
        limit = max(self.warn_at, 10.0 * noise)
        fail_at = max(self.cell_fail_at * len(probe.atoms), limit) if periodic else None
        findings = []
        if not difference <= limit:
            what = "a doubled cell" if periodic else f"two copies {self.distance:g} Å apart"
            message = (
                f"the energy of {what} is not twice that of one: off by {difference:.3g} eV, "
                "systems of different size cannot be compared"
            )
            bad = fail_at is not None and not difference <= fail_at
            severity = "fail" if bad else "warn"
            findings.append(self.finding(severity, message, difference, fail_at if bad else limit))
        note = "doubled cell" if periodic else f"two copies {self.distance:g} Å apart"
        return self.result(difference, findings, warn_at=limit, fail_at=fail_at, note=note)

    def _double(self, atoms: Atoms) -> Atoms:
        if atoms.pbc.any():
            repeats = np.ones(3, dtype=int)
            repeats[int(np.flatnonzero(atoms.pbc)[0])] = 2
            return atoms.repeat(tuple(repeats))
        copy = atoms.copy()
        copy.positions[:, 0] += np.ptp(atoms.positions[:, 0]) + self.distance
        return atoms + copy


def _is_any(value: Any, but: tuple[int, ...]) -> bool:
    """Whether a value, or one of several, is given and none of these."""
    return value is not None and not bool(np.isin(np.asarray(value), but).all())
