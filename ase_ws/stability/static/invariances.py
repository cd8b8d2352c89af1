"""What must not matter: orientation, mirror image, place, order, number of copies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

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


@dataclass
class Invariances(StaticCheck):
    """Energy and forces of the structure rotated, mirrored, shifted, and with atoms reordered.

    A periodic cell turns with its atoms. Taken at a copy whose atoms are displaced by 0.05 Å,
    where no symmetry makes forces vanish. A permutation only warns: atoms keep their order in MD,
    and force fields with a fixed topology know them by number. The value is the larger of the
    change of the energy per atom and of that of any force component (turned back), each over its
    limit.

    Attributes
    ----------
    energy_limit : float
        In eV/atom. Default 1e-4: 1 % of k_B T at 100 K, so that no thermal average notices.
    force_limit : float
        In eV/Å. Default 1e-3: what the design allows a force against the energy (section 7).
        Where the calculator is noisy (float32), all limits are at least ten times the noise.
    warn_at : float
        In units of the limits. Default 0.1: exact in float64 to 1e-8, and in float32 to 1e-5
        eV/Å; more says that the symmetry is learnt, not built in.
    seed : int
    """

    energy_limit: float = 1e-4
    force_limit: float = 1e-3
    warn_at: float = 0.1
    seed: int = 0

    name: ClassVar[str] = "invariances"
    definition: ClassVar[str] = (
        "change of energy per atom over 1e-4 eV, or of a force over 1e-3 eV/Å, by rotation, "
        "reflection, translation (fails above 1) or permutation (warns)"
    )
    unit: ClassVar[str] = "limit"

    def judge(self, probe: Probe) -> StaticResult:
        """Compare each with the start."""
        start = probe.rattled()
        energy, forces = probe.energy_of(start), probe.forces_of(start)
        energy_limit = max(self.energy_limit, 10.0 * probe.noise.energy / len(start))
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
                f"{errors.max():.3g} eV/Å"
            )
            limit = 1.0 if severity == "fail" else warn_at
            findings.append(self.finding(severity, message, value, limit))
        wider = warn_at > self.warn_at
        note = (
            f"the calculator is noisy (single precision?): limits {energy_limit:.2g} eV/atom and "
            f"{force_limit:.2g} eV/Å, warns at {warn_at:.2g} of them"
            if wider
            else ""
        )
        return self.result(worst, findings, warn_at=warn_at, fail_at=1.0, note=note)

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
    first periodic direction.

    Attributes
    ----------
    fail_at : float
        In eV per copy. Default 1e-3 (design, section 7). At least ten times the noise.
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

    fail_at: float = 1e-3
    distance: float = 100.0
    most_atoms: int = 2000

    name: ClassVar[str] = "extensivity"
    definition: ClassVar[str] = (
        "E(two copies)/2 - E(one): molecules 100 Å apart, or a doubled cell; fails above 1 meV"
    )
    unit: ClassVar[str] = "eV"

    def applies(self, probe: Probe) -> str | None:
        """Neutral closed shells."""
        # Charge and spin stand with the atoms, or with the calculator.
        info = {**(getattr(probe.calculator, "parameters", None) or {}), **probe.atoms.info}
        spin = info.get("multiplicity", info.get("spin")) not in (0, 1, None)
        moments = probe.atoms.get_initial_magnetic_moments().any()
        charges = probe.atoms.get_initial_charges().any()
        if info.get("charge") not in (0, None) or spin or moments or charges:
            return "charged or open-shell"
        return None

    def _knows_no_numbers(self, probe: Probe) -> bool:
        """Whether the order of the atoms is of no consequence; see `Invariances`."""
        backwards = probe.with_calculator(probe.atoms[::-1])
        limit = max(self.fail_at, 10.0 * probe.noise.energy)
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
        limit = max(self.fail_at, 10.0 * noise)
        findings = []
        if not difference <= limit:
            what = "a doubled cell" if periodic else f"two copies {self.distance:g} Å apart"
            message = f"the energy of {what} is not twice that of one: off by {difference:.3g} eV"
            findings.append(self.finding("fail", message, difference, limit))
        note = "doubled cell" if periodic else f"two copies {self.distance:g} Å apart"
        return self.result(difference, findings, fail_at=limit, note=note)

    def _double(self, atoms: Atoms) -> Atoms:
        if atoms.pbc.any():
            repeats = np.ones(3, dtype=int)
            repeats[int(np.flatnonzero(atoms.pbc)[0])] = 2
            return atoms.repeat(tuple(repeats))
        copy = atoms.copy()
        copy.positions[:, 0] += np.ptp(atoms.positions[:, 0]) + self.distance
        return atoms + copy
