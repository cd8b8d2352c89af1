"""How many evaluations static checks take: counted as they go, and known beforehand."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

from ase import Atoms

from ase_ws.stability.judged.gas import Gas
from ase_ws.stability.static.precision import Precision
from ase_ws.stability.static.probe import Conditions, Probe
from ase_ws.stability.static.result import StaticCheck


def costs(atoms: Atoms, checks: Sequence[StaticCheck], conditions: Conditions | None) -> list[int]:
    """Count the evaluations that each check takes, about, without asking the calculator.

    The checks are run on a gas without forces in its place, in which nothing stands out: what is
    looked at twice because it does (a jump, a wrong derivative) comes on top. The first check
    that needs the noise of the calculator pays for it.

    Parameters
    ----------
    atoms : Atoms
        With the calculator, which is asked for its properties only.
    checks : sequence of StaticCheck
    conditions : Conditions, optional

    Returns
    -------
    list of int
        One for each check.
    """
    # Plain atoms: some cannot be copied twice, nor their constraints.
    bare = atoms.copy()
    bare.set_constraint()
    start = Atoms(bare)
    start.calc = Gas(atoms.calc)
    counts: list[int] = []
    probe = Probe(start, conditions)
    for check in checks:
        mine = copy.copy(check)
        if isinstance(mine, Precision):
            mine.original = start.calc if mine.original is not None else None
        before = probe.evaluations.count
        mine.run_probe(probe)
        counts.append(probe.evaluations.count - before)
    return counts


class Tally:
    """Progress over checks, in evaluations; what is still to come is an estimate.

    Parameters
    ----------
    expected : sequence of int
        Evaluations that each check takes, about.
    progress : callable
        Called as `progress(evaluations_done, evaluations_expected, name)`.
    """

    def __init__(self, expected: Sequence[int], progress: Callable[[int, int, str], None]):
        self._expected, self._progress = expected, progress
        self._begun, self._check, self._name = 0, 0, ""

    def begin(self, number: int, name: str, done: int) -> None:
        """Say that a check begins."""
        self._begun, self._check, self._name = done, number, name
        self(done)

    def __call__(self, done: int) -> None:
        """Say how many evaluations there have been."""
        mine, *rest = self._expected[self._check :]
        total = self._begun + max(mine, done - self._begun) + sum(rest)
        self._progress(done, total, self._name)

    def end(self, done: int) -> None:
        """Say that all is done."""
        self._progress(done, done, "done")
