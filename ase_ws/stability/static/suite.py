"""The list of static checks, and how to run them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from ase import Atoms

from ase_ws.errors import UserError
from ase_ws.stability.answers import STATE, Judged, MachineError, lost, unguarded
from ase_ws.stability.float64 import raised_precision
from ase_ws.stability.home import Home
from ase_ws.stability.static.derivatives import ForcesFD, StressFD
from ase_ws.stability.static.invariances import Extensivity, Invariances
from ase_ws.stability.static.jacobian import JacobianSymmetry
from ase_ws.stability.static.precision import Precision
from ase_ws.stability.static.probe import Conditions, Probe, ProbeError
from ase_ws.stability.static.rattle import RattleLadder
from ase_ws.stability.static.repeat import Repeatable
from ase_ws.stability.static.result import StaticCheck, StaticResult
from ase_ws.stability.static.smoothness import BondScan, ContactScan, LineCheck
from ase_ws.stability.static.volume import VolumeCurve

#: Checks that go where no MD goes: what they leave behind in a calculator is their doing.
EXTREME = (LineCheck, VolumeCurve)
#: Note on the checks that come after the calculator has lost the start.
LOST = "the calculator had lost the start"
#: Points on the way to a structure that has no answer, and how often a last step is cut again.
_POINTS, _CUTS = 20, 2


def default_static_checks() -> list[StaticCheck]:
    """Make a fresh set of all static checks, causes before symptoms."""
    return [
        Repeatable(),
        ForcesFD(),
        StressFD(),
        JacobianSymmetry(),
        Invariances(),
        Extensivity(),
        BondScan(),
        ContactScan(),
        RattleLadder(),
        VolumeCurve(),
        Precision(),
    ]


def run_static(
    atoms: Atoms,
    checks: Sequence[StaticCheck] | None = None,
    *,
    conditions: Conditions | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[StaticResult]:
    """Run static checks on a structure, best a relaxed one.

    In float64 where the calculator has a method `in_float64` that gives such a copy, as those of
    this package have. A `GuardedCalculator` is judged without its guard, because the scans go
    where it would raise.

    Parameters
    ----------
    atoms : Atoms
        With a calculator; not modified.
    checks : sequence of StaticCheck, optional
        Default: `default_static_checks()`.
    conditions : Conditions, optional
        The MD that they are to speak about; default 300 K, NVT.
    progress : callable, optional
        Called as `progress(checks_done, checks, name)` before each check and at the end.

    Returns
    -------
    list of StaticResult
        One for each check, in order.

    Raises
    ------
    UserError
        No calculator, or no atoms.
    """
    if atoms.calc is None or len(atoms) == 0:
        raise UserError("static checks need atoms with a calculator: attach one (atoms.calc = ...)")
    calculator = unguarded(atoms.calc)
    raised = raised_precision(calculator)
    start = atoms.copy()
    start.calc = calculator if raised is None else raised
    chosen = default_static_checks() if checks is None else list(checks)
    for check in chosen:
        if isinstance(check, Precision):
            check.original = None if raised is None else calculator
    home = start.calc.home if raised is None and isinstance(start.calc, Judged) else None
    # One probe, so that the noise of the calculator is measured once.
    probe, results = Probe(start, conditions), []
    for k, check in enumerate(chosen):
        if progress is not None:
            progress(k, len(chosen), check.name)
        results.append(_run(check, probe, home))
        if any(item.check == STATE for item in results[-1].findings):
            # What a calculator says that does not find back is not worth asking for.
            results += [c.without_value("not judged", LOST) for c in chosen[k + 1 :]]
            break
    if progress is not None:
        progress(len(chosen), len(chosen), "done")
    return results


def _run(check: StaticCheck, probe: Probe, home: Home | None) -> StaticResult:
    """Run a check; what it does to the state of a calculator is not held against the potential."""
    if home is None or not isinstance(check, EXTREME):
        return check.run_probe(probe)
    result = check.without_value("not judged", LOST)
    try:
        # The second time each structure is reached from the start.
        for home.wary in (False, True):
            result = check.run_probe(probe)
            spoiled = home.back(check.name)
            refused = _refused(result, probe)
            if isinstance(check, LineCheck) and refused is not None:
                # Where all atoms move, what heat gives to each adds up.
                moving = len(probe.atoms) if isinstance(check, RattleLadder) else 1
                height = _wall(probe, refused, moving * check.wall)
                spoiled |= home.back(check.name)
                if height is not None:
                    return _behind(result, height)
            if not spoiled:
                break
        return result
    except MachineError as error:
        return replace(check.without_value("not judged", str(error)), findings=[lost(error)])
    finally:
        home.wary = False


def _refused(result: StaticResult, probe: Probe) -> Atoms | None:
    """Give the structure that ended the check, where the calculator gave no answer for it."""
    calculator = probe.calculator
    return calculator.refused if result.check.note == calculator.told else None


def _behind(result: StaticResult, height: float) -> StaticResult:
    """Warn of what no MD meets: there is no answer, but only up a wall."""
    note = f"{result.check.note}, where the energy has risen by {height:.2g} eV: not judged there"
    findings = [
        replace(item, severity="warn", message=f"{result.check.name}: {note}")
        for item in result.findings
    ]
    return replace(
        result, check=replace(result.check, status="warned", note=note), findings=findings
    )


def _wall(probe: Probe, refused: Atoms, wall: float) -> float | None:
    """Rise of the energy in eV on the straight way to a structure without an answer.

    None where there is none before the rise is a `wall`, or where all have an answer.
    """
    begin, way = probe.atoms.positions, refused.positions - probe.atoms.positions
    inner, outer = 0.0, 1.0
    for _ in range(1 + _CUTS):
        for part in np.linspace(inner, outer, _POINTS + 1)[1:]:
            try:
                height = probe.energy(begin + part * way) - probe.start_energy
            except ProbeError:
                outer = part
                break
            if height >= wall:
                return height
            inner = part
        else:
            return None
    return None
