"""From the preparation and the replicas to the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from typing import Any

from ase import Atoms

from ase_ws._version import __version__
from ase_ws.results.blame import Blame
from ase_ws.results.report import StabilityReport
from ase_ws.stability.checks.bonds import histograms
from ase_ws.stability.checks.calibration import Calibration
from ase_ws.stability.judged.answers import Judged
from ase_ws.stability.runs.plan import Plan
from ase_ws.stability.runs.prepare import Preparation
from ase_ws.stability.runs.replicas import Run
from ase_ws.stability.verdict.decide import decide, meaning, merge_checks
from ase_ws.stability.verdict.failing_frame import failing_frame


def assemble(
    given: Atoms,
    plan: Plan,
    preparation: Preparation,
    runs: Sequence[Run],
    *,
    name: str = "",
    blame: Blame | None = None,
    comparison: dict[str, Any] | None = None,
    calibration: Calibration | None = None,
    notes: Mapping[str, Any] | None = None,
) -> StabilityReport:
    """Put together what was found.

    Parameters
    ----------
    given : Atoms
        The structure given, with its calculator.
    plan : Plan
    preparation : Preparation
    runs : sequence of Run
    name : str
        How the model is called; default: the class of the calculator.
    blame, comparison, calibration
        See `StabilityReport`.
    notes : mapping, optional
        More for `provenance`, such as the command.

    Returns
    -------
    StabilityReport
    """
    replicas = [run.result for run in runs]
    failures = preparation.failures
    failures += [run.failure for run in replicas if run.failure is not None]
    warnings = preparation.warnings + [item for run in replicas for item in run.warnings]
    checks = merge_checks([preparation.checks, *(run.checks for run in replicas)])
    verdict, reason = decide(failures, warnings, checks, replicas, plan.min_ps, preparation.static)
    judged = given.calc
    kind = type(judged.calculator if isinstance(judged, Judged) else judged).__name__
    return StabilityReport(
        verdict=verdict,
        reason=reason,
        failures=failures,
        warnings=warnings,
        checks=checks,
        replicas=replicas,
        settings={
            **vars(plan),
            "temperatures": list(plan.temperatures),
            "left_out": list(plan.left_out),
            "steps": plan.steps,
            "formula": given.get_chemical_formula(),
            "n_atoms": len(given),
            "calculator": kind,
            "relaxation": preparation.relaxation,
        },
        static=preparation.static,
        blame=blame,
        comparison=comparison,
        bond_lengths=histograms(
            [run.bonds for run in replicas], None if calibration is None else calibration.bonds
        ),
        failing_frame=failing_frame(runs),
        calibration=None if calibration is None else calibration.to_dict(),
        name=name or kind,
        meaning=meaning(failures, replicas, preparation.static),
        provenance={
            "created": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
            "versions": {"ase_ws": __version__, **{p: version(p) for p in ("ase", "numpy")}},
            **(notes or {}),
        },
    )
