"""What is lost by rounding: the calculator as MD uses it against its float64 copy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from ase.calculators.calculator import BaseCalculator

from ase_ws.stability.judged.answers import Judged
from ase_ws.stability.static.probe import Probe
from ase_ws.stability.static.result import StaticCheck, StaticResult


@dataclass
class Precision(StaticCheck):
    """Forces of the calculator as it is against those of its copy in float64.

    All other static checks look at the float64 copy, so this is the one that sees the precision
    that MD will have. Taken at a copy displaced by 0.05 Å, where forces are as in MD.

    Attributes
    ----------
    warn_at : float
        In eV/Å. Default 1e-3, as `Work` allows a force against the energy; float32 loses about
        1e-5.
    fail_at : float
        In eV/Å. Default 1e-2: 1 % of a thermal force. A random error ε of that size heats a
        component of an atom of mass m at the rate ε²Δt/2m: 0.02 meV/ps for carbon at 0.5 fs, 0.24
        for hydrogen, as much as the drift may be.
    original : ASE calculator or None
        The calculator as it is; `run_static` fills it in where there is a float64 copy.
    """

    warn_at: float = 1e-3
    fail_at: float = 1e-2
    original: BaseCalculator | None = None

    name: ClassVar[str] = "precision"
    definition: ClassVar[str] = (
        "largest difference of a force to that of the same potential in float64; warns above "
        "{warn_at:g}, fails above {fail_at:g} eV/Å"
    )
    unit: ClassVar[str] = "eV/Å"

    def applies(self, probe: Probe) -> str | None:
        """Where there is a calculator of lower precision."""
        return "in float64 already, or the calculator does not say" if not self.original else None

    def judge(self, probe: Probe) -> StaticResult:
        """Compare."""
        exact = probe.rattled()
        rounded = exact.copy()
        assert self.original is not None
        rounded.calc = Judged(self.original)
        difference = np.abs(probe.forces_of(rounded) - probe.forces_of(exact))
        worst = float(difference.max())
        findings = []
        if not worst <= self.warn_at:
            severity = "warn" if worst <= self.fail_at else "fail"
            atom = probe.original(int(np.argmax(difference.max(axis=1))))
            message = (
                f"the force on {probe.label(atom)} is off by {worst:.2g} eV/Å in the precision "
                "given: use float32 or float64"
            )
            limit = self.warn_at if severity == "warn" else self.fail_at
            findings.append(self.finding(severity, message, worst, limit, [atom]))
        return self.result(worst, findings, warn_at=self.warn_at, fail_at=self.fail_at)
