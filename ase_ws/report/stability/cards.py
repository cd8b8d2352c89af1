"""The verdict cards of the stability report, and its lists of findings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ase_ws.report.drawing.text import count, joined, kelvin, number, value
from ase_ws.report.stability.entries import Entry
from ase_ws.report.stability.sentences import (
    blame_sentence,
    counted,
    finding_text,
    interval_text,
    picoseconds,
    rate_text,
)
from ase_ws.report.stability.tables import speed_text
from ase_ws.results.finding import Finding
from ase_ws.results.outcome import AtTemperature

_MAX_EVENTS = 8


@dataclass(frozen=True)
class Tile:
    """One number that matters."""

    name: str
    text: str
    more: str = ""


@dataclass(frozen=True)
class TemperatureLine:
    """One temperature in a card."""

    kind: str
    temperature: str
    text: str


@dataclass(frozen=True)
class Card:
    """The verdict on one run."""

    entry: Entry
    what: str
    reason: str
    meaning: str
    left_out: str
    tiles: tuple[Tile, ...]
    lines: tuple[TemperatureLine, ...]
    blame: str


@dataclass(frozen=True)
class Event:
    """All findings of one check and severity: the first of them, and how many there are."""

    kind: str
    word: str
    check: str
    count: int
    text: str


def card(entry: Entry) -> Card:
    """Build the verdict card of one run."""
    run = entry.run
    rows = sorted(entry.outcome.temperatures, key=lambda row: row.temperature)
    blame = run.blame if run is not None else None
    return Card(
        entry,
        _what(entry),
        _sentence(entry.outcome.reason or "No reason was recorded."),
        run.meaning if run is not None else "",
        _left_out(entry),
        tuple(_tiles(entry)),
        tuple(_line(row) for row in rows),
        blame_sentence(blame, before_md=entry.decided_before_md) if blame is not None else "",
    )


def events(entry: Entry) -> list[Event]:
    """Group the findings of one run by check, failures first."""
    run = entry.run
    if run is None:
        return []
    told = _grouped(run.failures, "bad", "failure") + _grouped(run.warnings, "open", "warning")
    return told[:_MAX_EVENTS]


def _grouped(findings: Sequence[Finding], kind: str, word: str) -> list[Event]:
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.check or "unnamed", []).append(finding)
    return [
        Event(kind, word, check, len(group), _first_text(group)) for check, group in groups.items()
    ]


def _first_text(group: Sequence[Finding]) -> str:
    return ("first: " if len(group) > 1 else "") + finding_text(group[0])


def _what(entry: Entry) -> str:
    """Say what was run: "CH4O, 6 atoms, NVT, 0.5 fs"."""
    settings = entry.run.settings if entry.run is not None else {}
    atoms, timestep = settings.get("n_atoms"), settings.get("timestep")
    ensemble = settings.get("ensemble")
    parts = [
        value(settings["formula"]) if settings.get("formula") else "",
        f"{value(atoms)} atoms" if atoms else "",
        value(ensemble).upper() if ensemble else "",
        f"time step {value(timestep)} fs" if timestep else "",
    ]
    return ", ".join(part for part in parts if part)


def _left_out(entry: Entry) -> str:
    """Say what was not done to save time."""
    if not entry.left_out or entry.run is None:
        return ""
    budget = entry.run.settings.get("budget")
    within = f" to fit {value(budget)} min" if budget else ""
    return f"Left out{within}: {'; '.join(entry.left_out)}."


def _tiles(entry: Entry) -> list[Tile]:
    outcome, first = entry.outcome, entry.first_failure
    planned = [run.planned_ps for run in outcome.replicas if not math.isnan(run.planned_ps)]
    tiles = []
    if outcome.replicas:
        tiles.append(Tile("Failure rate", rate_text(outcome), interval_text(outcome)))
        of_all = f" of {len(outcome.replicas)}" if outcome.replicas else ""
        where = [kelvin(row.temperature) for row in outcome.temperatures if row.failed]
        where = where or [kelvin(row.temperature) for row in outcome.temperatures]
        more = f"at {joined(where)}" if 0 < len(where) <= 4 else ""
        tiles.append(Tile("Failed runs", f"{outcome.failed_replicas}{of_all}", more))
        more = f"of {number(sum(planned))} ps planned"
        tiles.append(Tile("Simulated", f"{number(outcome.total_ps)} ps", more))
    if first is not None:
        when = "" if math.isnan(first.time) else f"at {picoseconds(first.time)}"
        when = "before MD" if entry.decided_before_md else when
        tiles.append(Tile("First failure", first.check or "unnamed check", when))
    blame = entry.run.blame if entry.run is not None else None
    if blame is not None:
        tiles.append(
            Tile("To blame", blame.cause or "not known", count(len(blame.reruns), "rerun"))
        )
    if any(not math.isnan(run.ns_per_day) for run in outcome.replicas):
        tiles.append(Tile("Speed", f"{speed_text(outcome.replicas)} ns/day"))
    return tiles


def _line(row: AtTemperature) -> TemperatureLine:
    kind = "bad" if row.failed else "good"
    interval = interval_text(row)
    rate = f"{rate_text(row)}{f' ({interval})' if interval else ''}"
    text = f"{counted(row.failed, row.replicas, row.total_ps)}; failure rate {rate}"
    return TemperatureLine(kind, kelvin(row.temperature), text)


def _sentence(text: str) -> str:
    """Begin with a capital and end with a full stop."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
