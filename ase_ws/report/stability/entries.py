"""The rows of the stability report: every model that ran MD, each with a name and a look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ase_ws.report.drawing.looks import GREY, Look, series
from ase_ws.report.drawing.verdicts import Verdict, verdict_of
from ase_ws.results.finding import Finding
from ase_ws.results.outcome import AtTemperature, Outcome
from ase_ws.results.replica import ReplicaResult
from ase_ws.results.report import StabilityReport


@dataclass(frozen=True)
class Entry:
    """One model with what MD came to, and how it is drawn.

    Attributes
    ----------
    name : str
        Unique on the page.
    look : Look
        Colour, dash and marker.
    outcome : Outcome
        Verdict, rates, replicas.
    run : StabilityReport or None
        All about it; None for a second model that only ran for comparison.
    beside : str
        Name of the run whose seeds a second model took; empty for a run of its own.
    """

    name: str
    look: Look
    outcome: Outcome
    run: StabilityReport | None
    beside: str = ""

    @property
    def verdict(self) -> Verdict:
        """Anything but a known verdict is "not enough evidence"."""
        return verdict_of(self.outcome.verdict)

    @property
    def decided_before_md(self) -> bool:
        """Whether what failed first belongs to no run: a look before MD found it."""
        return bool(self.run and self.run.meaning)

    @property
    def left_out(self) -> list[str]:
        """What had to go to fit a budget, in words."""
        told = self.run.settings.get("left_out") if self.run is not None else None
        return [str(item) for item in told] if isinstance(told, list) else []

    @property
    def first_failure(self) -> Finding | None:
        """What failed first, before MD or in its course."""
        return self.outcome.first_failure

    def at(self, temperature: float) -> AtTemperature | None:
        """Give what happened at one temperature; None where it was not simulated."""
        rows = [row for row in self.outcome.temperatures if row.temperature == temperature]
        return rows[0] if rows else None

    def replicas_at(self, temperature: float) -> list[ReplicaResult]:
        """Give the runs at one temperature."""
        return [run for run in self.outcome.replicas if run.temperature == temperature]


def entries_of(runs: Sequence[StabilityReport]) -> list[Entry]:
    """Give each run and each second model its row: runs first, in their order.

    A second model that several runs were compared with, to the same result, gets one row.
    """
    seconds: list[tuple[Outcome, str]] = []
    names = unique_names([run.name or _calculator(run) for run in runs])
    for name, run in zip(names, runs, strict=True):
        second = run.comparison
        if second is not None and _summary(second) not in [_summary(item) for item, _ in seconds]:
            seconds.append((second, name))
    everyone = unique_names([*names, *(second.name or "second model" for second, _ in seconds)])
    styles = series(len(everyone))
    if len(seconds) == 1 and len(everyone) <= len(set(styles)) and GREY not in styles:
        styles[-1] = GREY
    entries = [
        Entry(name, look, run, run) for name, look, run in zip(everyone, styles, runs, strict=False)
    ]
    rest = list(zip(everyone, styles, strict=True))[len(runs) :]
    entries += [
        Entry(name, look, second, None, beside)
        for (name, look), (second, beside) in zip(rest, seconds, strict=True)
    ]
    return entries


def temperatures_of(entries: Sequence[Entry]) -> list[float]:
    """Give all temperatures that were simulated, coldest first."""
    rows = [row.temperature for entry in entries for row in entry.outcome.temperatures]
    return sorted(set(rows))


def unique_names(names: Sequence[str]) -> list[str]:
    """Tell names apart that come more than once: `model`, `model (2)`."""
    taken: set[str] = set()
    unique = []
    for name in names:
        new, number = name, 1
        while new in taken:
            number += 1
            new = f"{name} ({number})"
        taken.add(new)
        unique.append(new)
    return unique


def _calculator(run: StabilityReport) -> str:
    calculator = run.settings.get("calculator")
    return calculator if isinstance(calculator, str) and calculator else "model"


def _summary(outcome: Outcome) -> tuple[object, ...]:
    rows = [(row.temperature, row.failed, row.total_ps) for row in outcome.temperatures]
    return (outcome.name, outcome.verdict, outcome.failed_replicas, tuple(rows))
