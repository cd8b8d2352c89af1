"""The list of static checks, and how to run them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ase import Atoms

from ase_ws.errors import UserError
from ase_ws.stability.judged.answers import STATE, unguarded
from ase_ws.stability.judged.float64 import raised_precision
from ase_ws.stability.static.cost import Tally, costs
from ase_ws.stability.static.invariances import Extensivity, Invariances
from ase_ws.stability.static.kinks import Kinks
from ase_ws.stability.static.precision import Precision
from ase_ws.stability.static.probe import Conditions, Probe
from ase_ws.stability.static.rattle import RattleLadder
from ase_ws.stability.static.repeat import Repeatable
from ase_ws.stability.static.result import StaticCheck, StaticResult
from ase_ws.stability.static.smoothness import BondScan, ContactScan
from ase_ws.stability.static.stress import StressWork
from ase_ws.stability.static.volume import VolumeCurve
from ase_ws.stability.static.work import Work


def default_static_checks() -> list[StaticCheck]:
    """Make a fresh set of all static checks, causes before symptoms."""
    return [
        Repeatable(),
        Work(),
        StressWork(),
        Kinks(),
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
        Called as `progress(evaluations_done, evaluations_expected, name)` before each check, at
        each evaluation and at the end; what is expected is an estimate, see `costs`.

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
    # One probe, so that the noise of the calculator is measured once.
    probe, results = Probe(start, conditions), []
    count, tally = probe.evaluations, None
    if progress is not None:
        tally = count.told = Tally(costs(start, chosen, conditions), progress)
    for k, check in enumerate(chosen):
        if tally is not None:
            tally.begin(k, check.name, count.count)
        results.append(check.run_probe(probe))
        if any(item.check == STATE for item in results[-1].findings):
            # What a calculator says that does not find back is not worth asking for.
            lost = "the calculator had lost the start"
            results += [later.without_value("not judged", lost) for later in chosen[k + 1 :]]
            break
    if tally is not None:
        tally.end(count.count)
    return results
