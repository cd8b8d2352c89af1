"""From what was found to a verdict, and to the report of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from typing import Any

import numpy as np
from ase import Atoms

from ase_ws._version import __version__
from ase_ws.results.blame import Blame
from ase_ws.results.check import STATUS_ORDER, CheckResult, StaticCheckResult
from ase_ws.results.finding import Finding
from ase_ws.results.outcome import Outcome, Verdict
from ase_ws.results.replica import ReplicaResult
from ase_ws.results.report import StabilityReport
from ase_ws.stability.checks.bonds import histograms
from ase_ws.stability.checks.calibration import Calibration
from ase_ws.stability.judged.answers import MACHINE, STATE, Judged
from ase_ws.stability.runs.prepare import Preparation
from ase_ws.stability.runs.replicas import Run
from ase_ws.stability.static import Repeatable
from ase_ws.stability.verdict.failing_frame import failing_frame


def decide(
    failures: Sequence[Finding],
    warnings: Sequence[Finding],
    checks: Sequence[CheckResult],
    replicas: Sequence[ReplicaResult],
    min_ps: float,
    static: Sequence[StaticCheckResult] = (),
) -> tuple[Verdict, str]:
    """Give the verdict and its reason, which says whether a look before MD or MD itself decided.

    - "unstable": something failed, in the relaxation, in a static check (`static`: as in a
      report) or in a replica.
    - "inconclusive": nothing failed, but that says little: at some temperature the replicas
      together ran less than `min_ps`; or a run was frozen, so that nothing was sampled; or no
      run was long enough for the drift to be judged; or the machine failed before the end.
    - "stable": nothing failed and none of this holds. It is a statement about this structure and
      these temperatures, no stronger than the upper limit of the failure rate beside it.
    """
    if failures:
        return "unstable", _why(failures, replicas, static)
    gap = _evidence_gap(warnings, checks, replicas, min_ps)
    if gap is not None:
        return "inconclusive", gap
    total = sum(replica.simulated_ps for replica in replicas)
    return "stable", f"no failure in {len(replicas)} replica(s), {total:.3g} ps in all"


def assemble(
    given: Atoms,
    settings: Mapping[str, Any],
    preparation: Preparation,
    runs: Sequence[Run],
    *,
    calculator: str = "",
    name: str = "",
    blame: Blame | None = None,
    comparison: Outcome | None = None,
    calibration: Calibration | None = None,
    notes: Mapping[str, Any] | None = None,
) -> StabilityReport:
    """Put together what was found.

    Parameters
    ----------
    given : Atoms
        The structure given, with its calculator.
    settings : mapping
        What was done, with `min_ps`.
    preparation : Preparation
    runs : sequence of Run
    calculator : str
        Its class; default: of that of `given`.
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
    verdict, reason = decide(
        failures, warnings, checks, replicas, settings["min_ps"], preparation.static
    )
    kind = calculator or _kind_of(given.calc)
    return StabilityReport(
        verdict=verdict,
        reason=reason,
        failures=failures,
        warnings=warnings,
        checks=checks,
        replicas=replicas,
        settings={
            **settings,
            "formula": given.get_chemical_formula(),
            "n_atoms": len(given),
            "calculator": kind,
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


def _kind_of(calculator: Any) -> str:
    if isinstance(calculator, Judged):
        calculator = calculator.calculator
    return "" if calculator is None else type(calculator).__name__


#: What it means that a look before MD decided, whichever it was; and that MD did not.
_BEFORE = "What fails before MD is a property of the potential at and around this structure."
_CLEAN_MD = (
    "Runs of MD without a failure do not take it back: a thermostat may hide it, and longer runs "
    "may meet it."
)


def meaning(
    failures: Sequence[Finding],
    replicas: Sequence[ReplicaResult],
    static: Sequence[StaticCheckResult],
) -> str:
    """Say what it means that something failed before MD; "" where nothing did."""
    if not _before_md(failures, static):
        return ""
    clean = replicas and all(replica.failure is None for replica in replicas)
    return f"{_BEFORE} {_CLEAN_MD}" if clean else _BEFORE


def _before_md(failures: Sequence[Finding], static: Sequence[StaticCheckResult]) -> list[Finding]:
    """Give what failed before MD.

    The witness, which is asked again after it, has its say without being in a replica either.
    """
    early = {check.name for check in static if check.status == "failed"}
    return [
        item
        for item in failures
        if item.replica is None and (item.check != Repeatable.name or item.check in early)
    ]


def _why(
    failures: Sequence[Finding],
    replicas: Sequence[ReplicaResult],
    static: Sequence[StaticCheckResult],
) -> str:
    before = _before_md(failures, static)
    if before:
        others = list(dict.fromkeys(item.check for item in before[1:]))
        others = [name for name in others if name != before[0].check]
        more = f" ({', '.join(others)} too)" if others else ""
        return f"before MD, {_named(before[0])}{more}; {_of_md(replicas)}"
    in_md = [item for item in failures if item.replica is not None]
    if in_md:
        failed = sum(replica.failure is not None for replica in replicas)
        return f"{failed} of {len(replicas)} replicas failed; {in_md[0].message}"
    return f"asked again after MD, {_named(failures[0])}; {_of_md(replicas)}"


def _named(finding: Finding) -> str:
    """Message with the name of its check before it, once."""
    return f"{finding.check}: {finding.message.removeprefix(f'{finding.check}: ')}"


def _of_md(replicas: Sequence[ReplicaResult]) -> str:
    """Say what MD did where something else decided."""
    failed = sum(replica.failure is not None for replica in replicas)
    if not replicas:
        return "no MD was run"
    if failed:
        return f"{failed} of {len(replicas)} replicas failed in MD, too"
    total = sum(replica.simulated_ps for replica in replicas)
    runs = "the run" if len(replicas) == 1 else f"the {len(replicas)} runs"
    return f"{runs} of MD met no failure ({total:.3g} ps)"


def _evidence_gap(
    warnings: Sequence[Finding],
    checks: Sequence[CheckResult],
    replicas: Sequence[ReplicaResult],
    min_ps: float,
) -> str | None:
    """Say what is missing for calling a run without failures stable; None where nothing is."""
    gone = next((item for item in warnings if item.check in (MACHINE, STATE)), None)
    if gone is not None:
        return f"no failure, but {gone.message}"
    totals: dict[float, float] = {}
    for replica in replicas:
        totals[replica.temperature] = totals.get(replica.temperature, 0.0) + replica.simulated_ps
    if not totals:
        return "nothing was simulated"
    least = min(totals, key=lambda temperature: totals[temperature])
    # The small allowance is for rounding in steps × timestep.
    if not (totals[least] >= min_ps * (1.0 - 1e-9)):
        return (
            f"no failure, but only {totals[least]:.3g} ps at {least:g} K: "
            f"{min_ps:g} ps are needed for a statement"
        )
    frozen = next((item for item in warnings if item.check == "frozen"), None)
    if frozen is not None:
        return f"no failure, but {frozen.message}"
    unjudged = [check.name for check in checks if check.status == "not judged"]
    if unjudged:
        return f"no failure, but no run was long enough to judge: {', '.join(unjudged)}"
    return None


def merge_checks(results: Sequence[Sequence[CheckResult]]) -> list[CheckResult]:
    """Take for each check its worst result over all runs."""
    merged: dict[str, CheckResult] = {}
    for run in results:
        for check in run:
            known = merged.get(check.name)
            merged[check.name] = check if known is None else _worse(known, check)
    return list(merged.values())


def _worse(first: CheckResult, second: CheckResult) -> CheckResult:
    ranks = STATUS_ORDER.index(first.status), STATUS_ORDER.index(second.status)
    if ranks[0] != ranks[1]:
        return first if ranks[0] > ranks[1] else second
    return first if _severity(first) >= _severity(second) else second


def _severity(check: CheckResult) -> float:
    """How close to the limit, so that runs at different temperatures can be compared."""
    if check.worst is None:
        return -np.inf
    if np.isnan(check.worst):
        return np.inf
    if check.fail_at is None or check.fail_at == 0:
        return abs(check.worst)
    falling = check.warn_at is not None and check.warn_at > check.fail_at
    return check.fail_at / check.worst if falling and check.worst else check.worst / check.fail_at
