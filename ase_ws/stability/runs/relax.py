"""Relax the starting structure; a potential that cannot even do that has failed already."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from ase import Atoms
from ase.optimize import FIRE

from ase_ws.md.evaluation import potential_energy
from ase_ws.md.finite_guard import FiniteGuard
from ase_ws.md.observer import RunContext, Snapshot
from ase_ws.results.finding import Finding
from ase_ws.stability.checks.base import Check
from ase_ws.stability.checks.geometry import (
    BondCheck,
    ContactCheck,
    DetachedHydrogenCheck,
    IsolatedAtomCheck,
)
from ase_ws.stability.judged.answers import Judged, PotentialError

#: What progress is called with.
RELAXING = "relaxing"


@dataclass
class Relaxation:
    """How a relaxation went.

    Attributes
    ----------
    atoms : Atoms
        The last structure, with the calculator attached.
    converged : bool
        The largest force is below `fmax`.
    steps : int
        Steps taken.
    largest_force : float or None
        That the constraints leave, in eV/Å; None where the last structure could not be evaluated.
    findings : list of Finding
        "fail": it diverged or broke the structure; "warn": it did not converge.
    """

    atoms: Atoms
    converged: bool = False
    steps: int = 0
    largest_force: float | None = None
    findings: list[Finding] = field(default_factory=list)

    @property
    def failure(self) -> Finding | None:
        """The finding that forbids MD from here, if any."""
        return next((item for item in self.findings if item.severity == "fail"), None)


def relax(
    atoms: Atoms,
    *,
    fmax: float = 0.05,
    steps: int = 200,
    progress: Callable[[int, int, str], None] | None = None,
) -> Relaxation:
    """Relax a copy of `atoms` with FIRE and compare what comes out with what went in.

    Parameters
    ----------
    atoms : Atoms
        With a calculator that can evaluate them; not modified.
    fmax : float
        Converged when no force is larger, in eV/Å. 0.05 leaves an energy far below k_B T.
    steps : int
        At most this many steps; the structure reached then is used, with a warning.
    progress : callable, optional
        Called as `progress(steps_done, steps_at_most, "relaxing")`.

    Returns
    -------
    Relaxation
        It has failed when a number is not finite, when the calculator raises, or when a contact,
        a bond, a hydrogen or an atom is, compared with the start, beyond the limit that its
        check has for MD at 0 K.
    """
    start = atoms.copy()
    working = atoms.copy()
    working.calc = Judged.of(atoms)
    outcome = Relaxation(working)
    # Overflow and NaN are for the comparison to report, not for NumPy to warn about.
    with np.errstate(all="ignore"):
        try:
            _optimise(outcome, fmax, steps, progress)
            snapshot = _snapshot(working)
            outcome.largest_force = float(np.linalg.norm(working.get_forces(), axis=1).max())
        except PotentialError as error:
            outcome.findings.append(Finding("relaxation", "fail", f"relaxation: {error}"))
            return outcome
        finally:
            working.calc = atoms.calc
        outcome.findings.extend(_damage(start, snapshot))
    if not outcome.converged and outcome.failure is None:
        message = (
            f"relaxation did not converge in {outcome.steps} steps: "
            f"largest force {outcome.largest_force:.3f} eV/Å, wanted {fmax:g}"
        )
        outcome.findings.append(Finding("relaxation", "warn", message, outcome.largest_force, fmax))
    return outcome


def _optimise(
    outcome: Relaxation,
    fmax: float,
    steps: int,
    progress: Callable[[int, int, str], None] | None,
) -> None:
    optimiser = FIRE(outcome.atoms, logfile=None)  # pyright: ignore[reportArgumentType]
    for converged in optimiser.irun(fmax=fmax, steps=steps):
        outcome.steps = optimiser.nsteps
        if progress is not None:
            progress(outcome.steps, steps, RELAXING)
        outcome.converged = bool(converged)
        # FIRE would go on for ever with NaN: leave, the comparison afterwards names it.
        forces, energy = outcome.atoms.get_forces(), potential_energy(outcome.atoms)
        if not (np.isfinite(forces).all() and np.isfinite(energy)):
            outcome.converged = False
            return


def _snapshot(atoms: Atoms) -> Snapshot:
    energy = potential_energy(atoms)
    forces = atoms.get_forces(apply_constraint=False)
    return Snapshot(0, 0.0, atoms, energy, forces, energy, _AT_REST)


# The limits that depend on the temperature are those of 0 K.
_AT_REST = RunContext("nve", temperature=0.0, timestep=1.0, steps=0, n_dof=1)


def _damage(start: Atoms, snapshot: Snapshot) -> list[Finding]:
    findings = FiniteGuard().check(snapshot)
    if findings:
        return [_from_relaxation(findings[0])]
    # `repeat=0`: there is no time here in which a value could come back.
    checks: list[Check] = [
        ContactCheck(),
        BondCheck(repeat=0.0),
        DetachedHydrogenCheck(repeat=0.0),
        IsolatedAtomCheck(repeat=0.0),
    ]
    damage = []
    for check in checks:
        check.start(start, _AT_REST)
        damage += [_from_relaxation(item) for item in check.check(snapshot)]
    return damage


def _from_relaxation(finding: Finding) -> Finding:
    return Finding(
        check="relaxation",
        severity=finding.severity,
        message=f"relaxation: {finding.message}",
        value=finding.value,
        threshold=finding.threshold,
        atoms=finding.atoms,
    )
