"""What all static checks have in common: what they give, and how they are run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
from ase import Atoms

from ase_ws.results.check import CheckResult, Curve, StaticCheckResult, Status
from ase_ws.results.finding import Finding, Severity
from ase_ws.stability.checks.base import filled
from ase_ws.stability.judged.answers import MachineError, lost
from ase_ws.stability.static.probe import Probe, ProbeError


@dataclass(frozen=True)
class StaticResult:
    """How one static check ended.

    Attributes
    ----------
    check : CheckResult
    findings : list of Finding
        "fail" or "warn"; empty where all is well.
    curves : list of Curve
    """

    check: CheckResult
    findings: list[Finding] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)

    @property
    def record(self) -> StaticCheckResult:
        """What a report keeps; the findings are listed elsewhere."""
        return StaticCheckResult(**vars(self.check), curves=self.curves)


class StaticCheck:
    """A check of a calculator at, and around, one structure.

    A subclass says when it `applies` and how to `judge`. Its limits are dataclass fields.
    Exceptions of the calculator and numbers that are not finite fail a check; where the machine
    fails nothing is judged.
    """

    name: ClassVar[str]
    #: What is measured and where the limits are: a template, which takes the fields by name.
    definition: ClassVar[str]
    unit: ClassVar[str] = ""

    def run(self, atoms: Atoms) -> StaticResult:
        """Run on `atoms`, which have a calculator and are not modified."""
        return self.run_probe(Probe(atoms))

    def run_probe(self, probe: Probe) -> StaticResult:
        """Run on a probe, which several checks may share."""
        reason = self.applies(probe)
        if reason is not None:
            return self.without_value("does not apply", reason)
        try:
            # Overflow and NaN are for the probe to report, not for NumPy to warn about.
            with np.errstate(all="ignore"):
                return self.judge(probe)
        except ProbeError as error:
            finding = Finding(self.name, "fail", f"{self.name}: {error}", atoms=error.atoms)
            return self.result(None, [finding], note=str(error))
        except MachineError as error:
            unjudged = self.without_value("not judged", str(error))
            return replace(unjudged, findings=[lost(error)])

    def defined(self) -> str:
        """`definition`, with the numbers of this very check."""
        return filled(self.definition, vars(self))

    def applies(self, probe: Probe) -> str | None:
        """Say why the check does not apply here; None where it does."""
        return None

    def judge(self, probe: Probe) -> StaticResult:
        """Measure and compare; a `ProbeError` becomes a failure."""
        raise NotImplementedError

    def finding(
        self,
        severity: Severity,
        message: str,
        value: float | None = None,
        threshold: float | None = None,
        atoms: Sequence[int] = (),
    ) -> Finding:
        """Make a finding of this check."""
        return Finding(self.name, severity, message, value, threshold, tuple(atoms))

    def result(
        self,
        worst: float | None,
        findings: Sequence[Finding] = (),
        curves: Sequence[Curve] = (),
        *,
        warn_at: float | None = None,
        fail_at: float | None = None,
        note: str = "",
    ) -> StaticResult:
        """Collect; the status follows from the findings."""
        severities = {item.severity for item in findings}
        status: Status = "passed"
        if severities:
            status = "failed" if "fail" in severities else "warned"
        check = CheckResult(
            name=self.name,
            definition=self.defined(),
            unit=self.unit,
            warn_at=warn_at,
            fail_at=fail_at,
            worst=worst,
            status=status,
            note=note,
        )
        return StaticResult(check, list(findings), list(curves))

    def without_value(self, status: Status, note: str) -> StaticResult:
        """Say that there is nothing to judge."""
        return StaticResult(
            CheckResult(self.name, self.defined(), self.unit, status=status, note=note)
        )
