"""What is looked at before any MD: the structure given, its relaxation, the static checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ase import Atoms

from ase_ws.md.run import Progress
from ase_ws.pairs import closest_contact
from ase_ws.results.check import CheckResult, StaticCheckResult, Status
from ase_ws.results.finding import Finding
from ase_ws.results.settings import StabilitySettings
from ase_ws.stability.judged.answers import STATE, Judged, MachineError, lost, unguarded
from ase_ws.stability.runs.relax import Relaxation, relax
from ase_ws.stability.static import Repeatable, StaticCheck, run_static
from ase_ws.stability.static.probe import Conditions, Probe

#: Two atoms closer than this part of their radii sum in the structure *given* are a mistake in
#: it: the limit of `ContactCheck`.
OVERLAP = 0.5


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

    Returns
    -------
    Preparation
    """
    overlap = _overlap(given)
    findings = [Finding("structure", "warn", overlap)] if overlap else []
    try:
        relaxation = None
        if settings.relax_steps:
            relaxation = relax(
                given, fmax=settings.fmax, steps=settings.relax_steps, progress=progress
            )
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


def _relaxation_check(relaxation: Relaxation | None) -> CheckResult:
    definition = (
        "the relaxation stays finite and keeps contacts, bonds and atoms of the given structure"
    )
    if relaxation is None:
        return CheckResult("relaxation", definition, status="does not apply", note="not asked for")
    status: Status = "warned" if relaxation.findings else "passed"
    if relaxation.failure is not None:
        status = "failed"
    finding = relaxation.failure or next(iter(relaxation.findings), None)
    note = finding.message if finding is not None else f"{relaxation.steps} steps"
    return CheckResult(
        name="relaxation",
        definition=definition,
        unit="eV/Å",
        worst=relaxation.largest_force,
        status=status,
        note=note,
    )
