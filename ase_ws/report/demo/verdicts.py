"""Verdicts in words, icons and colour classes, and the worst of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ase_ws.report.drawing.text import event_sentence, failure_sentence, joined, kelvin
from ase_ws.results.demo import Model, Stability


@dataclass(frozen=True)
class Verdict:
    """How a verdict is shown: never by its colour alone."""

    kind: str
    """CSS class and icon: good, bad, open or none."""
    word: str


STABLE = Verdict("good", "Stable")
UNSTABLE = Verdict("bad", "Unstable")
INCONCLUSIVE = Verdict("open", "Not enough evidence")
NOT_CHECKED = Verdict("none", "Not checked")

_BY_NAME = {"stable": STABLE, "unstable": UNSTABLE, "inconclusive": INCONCLUSIVE}
_WORST_FIRST = (UNSTABLE, INCONCLUSIVE, NOT_CHECKED, STABLE)

_STATUS_KINDS = {
    "pass": "good",
    "passed": "good",
    "ok": "good",
    "warn": "open",
    "warned": "open",
    "warning": "open",
    "fail": "bad",
    "failed": "bad",
}


def of_run(run: Stability) -> Verdict:
    """Give the verdict of one run.

    Anything but a known verdict is "not enough evidence": what we cannot read is not a proof.
    """
    return _BY_NAME.get(run.verdict.strip().lower(), INCONCLUSIVE)


def of_model(model: Model) -> Verdict:
    """Give the worst verdict over all temperatures."""
    seen = {of_run(run) for run in model.stability} or {NOT_CHECKED}
    return next(verdict for verdict in _WORST_FIRST if verdict in seen)


def status_kind(status: str) -> str:
    """Give the CSS class and icon for the status of one check."""
    return _STATUS_KINDS.get(status.strip().lower(), "none")


@dataclass(frozen=True)
class RunLine:
    """One temperature in a verdict card."""

    temperature: str
    verdict: Verdict
    sentence: str
    more: str
    """The first failure, or why the verdict is not "stable" without one."""


@dataclass(frozen=True)
class Card:
    """The verdict on one model."""

    verdict: Verdict
    summary: str
    runs: tuple[RunLine, ...]


def card(model: Model) -> Card:
    """Build the verdict card of one model."""
    runs = sorted(model.stability, key=lambda run: run.temperature_K or 0.0)
    return Card(of_model(model), _summary(runs), tuple(_run_line(run) for run in runs))


def _run_line(run: Stability) -> RunLine:
    first = min(
        run.failures,
        key=lambda event: float("inf") if event.time_ps is None else event.time_ps,
        default=None,
    )
    verdict = of_run(run)
    more = "" if verdict is STABLE else run.reason
    if first is not None:
        more = f"First failure, {first.check}: {event_sentence(first)}"
    return RunLine(kelvin(run.temperature_K), verdict, failure_sentence(run), more)


def _summary(runs: Sequence[Stability]) -> str:
    if not runs:
        return "No molecular dynamics was run with this model."
    failed = [kelvin(run.temperature_K) for run in runs if of_run(run) is UNSTABLE]
    if failed:
        return f"Do not trust it for MD at {joined(failed)} as it is."
    unclear = [kelvin(run.temperature_K) for run in runs if of_run(run) is INCONCLUSIVE]
    if unclear:
        return f"What was run does not settle it at {joined(unclear)}; run longer."
    return f"No check failed at {joined([kelvin(run.temperature_K) for run in runs])}."
