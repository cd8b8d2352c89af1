"""What is looked at before any MD: the structure given, its relaxation, the static checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from ase import Atoms
from ase.optimize import FIRE

from ase_ws.md.evaluation import potential_energy
from ase_ws.md.finite_guard import FiniteGuard
from ase_ws.md.observer import RunContext, Snapshot
from ase_ws.md.run import Progress
from ase_ws.pairs import closest_contact
from ase_ws.results.check import CheckResult, StaticCheckResult, Status
from ase_ws.results.finding import Finding
from ase_ws.results.settings import StabilitySettings
from ase_ws.stability.checks.base import Check
from ase_ws.stability.checks.geometry import (
    BondCheck,
    ContactCheck,
    DetachedHydrogenCheck,
    IsolatedAtomCheck,
)
from ase_ws.stability.judged.answers import (
    STATE,
    Judged,
    MachineError,
    PotentialError,
    lost,
    unguarded,
)
from ase_ws.stability.static import Repeatable, StaticCheck, run_static
from ase_ws.stability.static.probe import Conditions, Probe

#: Two atoms closer than this part of their radii sum in the structure *given* are a mistake in
#: it: the limit of `ContactCheck`.
OVERLAP = 0.5
#: What progress is called with.
RELAXING = "relaxing"


@dataclass(frozen=True)
class Preparation:
    """The start of MD, and what was found on the way there.

    Attributes
    ----------
    begin : Atoms or None
        Where MD starts, with the calculator; None where there is nothing to start from.
    checks : list of CheckResult
        The relaxation.
    findings : list of Finding
    static : list of StaticCheckResult
        Static checks, with their curves.
    relaxation : dict or None
        How it went, for the settings in the report.
    overlap : str
        The atoms that lie on top of each other in the structure given, in one line, or "".
    witness : Witness or None
        Of what the calculator said of the start before anything else was done there.
    """

    begin: Atoms | None
    checks: list[CheckResult] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    static: list[StaticCheckResult] = field(default_factory=list)
    relaxation: dict[str, Any] | None = None
    overlap: str = ""
    witness: Witness | None = None

    def with_findings(self, findings: Sequence[Finding]) -> Preparation:
        """Add what was found elsewhere."""
        return replace(self, findings=[*self.findings, *findings])

    def recalled(self) -> Preparation:
        """Ask the witness again, as after MD, and add what it has found."""
        if self.witness is None or any(finding.check == STATE for finding in self.findings):
            return self
        return self.witness.recall(self)

    @property
    def failures(self) -> list[Finding]:
        """What failed before MD."""
        return [finding for finding in self.findings if finding.severity == "fail"]

    @property
    def warnings(self) -> list[Finding]:
        """What was found and did not fail."""
        return [finding for finding in self.findings if finding.severity == "warn"]


def prepare(
    given: Atoms,
    settings: StabilitySettings,
    *,
    static_checks: Sequence[StaticCheck] | None = None,
    progress: Progress | None = None,
) -> Preparation:
    """Relax the structure and do the checks that need no MD.

    Parameters
    ----------
    given : Atoms
        With a calculator; not modified.
    settings : StabilitySettings
    static_checks : sequence of StaticCheck, optional
        Those that fit a budget. Default: all.
    progress : callable, optional
        Called as `progress(done, planned, label)`.
    """
    overlap = _overlap(given)
    findings = [Finding("structure", "warn", overlap)] if overlap else []
    relaxation = None
    try:
        if settings.relax_steps:
            most = settings.relax_steps
            relaxation = relax(given, fmax=settings.fmax, steps=most, progress=progress)
    except MachineError as error:
        return Preparation(None, findings=[*findings, lost(error)], overlap=overlap)
    findings += [] if relaxation is None else relaxation.findings
    checks = [_relaxation_check(relaxation)]
    looked: list[StaticCheckResult] = []
    begin: Atoms | None = given if relaxation is None else relaxation.atoms
    witness: Witness | None = None
    if relaxation is not None and relaxation.failure is not None:
        begin = None
    else:
        assert begin is not None
        try:
            _come_home(begin, relaxation)
        except MachineError as error:
            return Preparation(None, checks, [*findings, lost(error)], overlap=overlap)
        witness = Witness(begin)
    if begin is not None and settings.static:
        conditions = Conditions.of(settings)
        for result in run_static(begin, static_checks, conditions=conditions, progress=progress):
            findings += [item for item in result.findings if item not in findings]
            looked.append(result.record)
    if any(finding.check == STATE for finding in findings):
        begin = None
    return Preparation(
        begin=begin,
        checks=checks,
        findings=findings,
        static=looked,
        relaxation=None
        if relaxation is None
        else {"converged": relaxation.converged, "steps": relaxation.steps},
        overlap=overlap,
        witness=witness,
    )


def _come_home(begin: Atoms, relaxation: Relaxation | None) -> None:
    """See that the relaxation has left the calculator in order; MD has another start then."""
    home = Judged.of(begin).home
    if home is not None and relaxation is not None:
        home.back("the relaxation")
        home.settle(begin)


class Witness:
    """Remembers what the calculator says of the start, and asks again after MD.

    Parameters
    ----------
    begin : Atoms
        With the calculator, as MD has it.
    """

    def __init__(self, begin: Atoms):
        start = begin.copy()
        start.calc = unguarded(begin.calc)
        self._probe, self._check = Probe(start), Repeatable()
        self._results = [self._check.run_probe(self._probe)]

    def recall(self, preparation: Preparation) -> Preparation:
        """Ask again; add what was found to the preparation."""
        self._results.append(self._check.run_probe(self._probe))
        home = self._probe.calculator.home
        if home is not None and self._results[-1].check.status == "failed":
            home.worn = True
        findings = list(preparation.findings)
        for result in self._results:
            findings += [item for item in result.findings if item not in findings]
        checks = [*preparation.checks, *(result.check for result in self._results)]
        return replace(preparation, findings=findings, checks=checks)


def _overlap(given: Atoms) -> str:
    contact = closest_contact(given, OVERLAP)
    return "" if contact is None else f"{contact.told(given)} in the structure given"


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
    progress: Progress | None = None,
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
    progress: Progress | None,
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
    return replace(finding, check="relaxation", message=f"relaxation: {finding.message}")


def _relaxation_check(relaxation: Relaxation | None) -> CheckResult:
    definition = (
        "the relaxation stays finite and keeps contacts, bonds and atoms of the given structure"
    )
    if relaxation is None:
        return CheckResult("relaxation", definition, status="does not apply", note="not asked for")
    finding = relaxation.failure or next(iter(relaxation.findings), None)
    passed: Status = "warned" if relaxation.findings else "passed"
    return CheckResult(
        name="relaxation",
        definition=definition,
        unit="eV/Å",
        worst=relaxation.largest_force,
        status=passed if relaxation.failure is None else "failed",
        note=f"{relaxation.steps} steps" if finding is None else finding.message,
    )
