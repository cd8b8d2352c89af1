"""Render the results of stability runs to one HTML file that needs nothing beside itself."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ase_ws._version import __version__
from ase_ws.files.writing import write_text
from ase_ws.report.drawing.panels import Drawer
from ase_ws.report.drawing.templates import render
from ase_ws.report.drawing.text import seconds
from ase_ws.report.stability import cards, figures, tables
from ase_ws.report.stability.entries import Entry, entries_of, temperatures_of
from ase_ws.report.stability.failures import first_failures
from ase_ws.report.stability.sentences import counted, finding_text
from ase_ws.results.replica import ReplicaResult
from ase_ws.results.report import StabilityReport, read_stability

_SECTIONS = {
    "verdict": "Verdict",
    "compare": "Compared",
    "failure": "First failure",
    "survival": "Survival",
    "md": "Dynamics",
    "bonds": "Bond lengths",
    "static": "Static checks",
    "checks": "Checks",
    "reproduce": "Reproduce",
}


def write_stability_report(
    runs: Sequence[Mapping[str, Any]], target: str | os.PathLike[str], *, title: str = ""
) -> Path:
    """Write the report of one or several stability runs.

    Parameters
    ----------
    runs : sequence of mapping
        Each the content of a `stability.json` (or `StabilityReport.to_dict()`), of schema version
        1 or 2; see `ase_ws.results.report.StabilityReport`.
    target : path
        The HTML file to write, whole or not at all. Its folder must exist.
    title : str
        Heading of the page; by default made of the names.

    Returns
    -------
    Path
        The file that was written.

    Raises
    ------
    UserError
        If one of the runs does not fit the schema.
    """
    page = render_stability_report(runs, title=title)
    write_text(target, page)
    return Path(target)


def render_stability_report(runs: Sequence[Mapping[str, Any]], *, title: str = "") -> str:
    """Render the report of one or several stability runs as HTML; see `write_stability_report`."""
    parsed = [read_stability(run, f"run {i + 1}") for i, run in enumerate(runs)]
    return render("stability/page.html.j2", _context(parsed, title))


def _context(runs: Sequence[StabilityReport], title: str) -> dict[str, Any]:
    entries = entries_of(runs)
    own = entries[: len(runs)]
    temperatures = temperatures_of(entries)
    drawer = Drawer()
    bonds, bonds_more = figures.bond_panels(own, drawer)
    context = {
        **parts(own, drawer),
        "title": title or _title(own),
        "meta": _meta(runs),
        "entries": entries,
        "run_entries": own,
        "temperatures": temperatures,
        "model_rows": tables.model_rows(entries, temperatures),
        "survival": figures.survival_panels(entries, temperatures, drawer),
        "bonds": bonds,
        "bonds_more": bonds_more,
        "bond_entries": [e for e in own if e.run is not None and e.run.bond_lengths],
        "any_training": any(item.training for run in runs for item in run.bond_lengths),
        "replicas": _replicas(entries),
        "commands": list(dict.fromkeys(filter(None, map(_command, runs)))),
        "setting_rows": tables.run_rows(runs) if len(runs) > 1 else [],
        "fact_columns": tables.fact_columns(runs[0]) if len(runs) == 1 else [],
        "version": __version__,
        "schema_version": max((run.schema_version for run in runs), default=0),
    }
    return {**context, "sections": _sections(context)}


def parts(own: Sequence[Entry], drawer: Drawer) -> dict[str, Any]:
    """Give what the sections show that other pages embed: verdict, failure, dynamics, checks."""
    static = [entry for entry in own if entry.run is not None and entry.run.static]
    checked = [entry for entry in own if entry.run is not None and entry.run.checks]
    return {
        "cards": [cards.card(entry) for entry in own],
        "failures": first_failures(own, drawer),
        "traces": figures.trace_rows(own, temperatures_of(own), drawer),
        "static_entries": static,
        "static_rows": tables.check_rows(_runs(static), lambda run: run.static),
        "scans": figures.scan_rows(static, drawer),
        "checked": checked,
        "check_rows": tables.check_rows(_runs(checked), lambda run: run.checks),
        "events": [(entry, found) for entry in own if (found := cards.events(entry))],
        "replicas": _replicas(own),
        "told": {"counted": counted, "finding": finding_text},
    }


def _replicas(entries: Sequence[Entry]) -> list[tuple[Entry, list[ReplicaResult]]]:
    return [(entry, tables.first_failed(entry)) for entry in entries if entry.outcome.replicas]


def _sections(context: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List the sections that this page has."""
    present = {
        "compare": len(context["entries"]) > 1,
        "failure": context["failures"],
        "survival": context["survival"],
        "md": context["traces"],
        "bonds": context["bonds"],
        "static": context["static_rows"],
    }
    return [(anchor, name) for anchor, name in _SECTIONS.items() if present.get(anchor, True)]


def _runs(entries: Sequence[Entry]) -> list[StabilityReport]:
    return [entry.run for entry in entries if entry.run is not None]


def _title(own: Sequence[Entry]) -> str:
    if len(own) == 1:
        return f"Stability in MD: {own[0].name}"
    return f"Stability in MD: {len(own)} runs compared" if own else "Stability in MD"


def _meta(runs: Sequence[StabilityReport]) -> list[str]:
    """Say when it was run and how long it took, where there is one run."""
    if len(runs) != 1:
        return [f"{len(runs)} runs"]
    told = runs[0].provenance
    wall_time = told.get("wall_time_s")
    facts = [
        told.get("created"),
        f"took {seconds(float(wall_time))}" if isinstance(wall_time, (int, float)) else None,
    ]
    return [fact for fact in facts if isinstance(fact, str) and fact] or ["stability report"]


def _command(run: StabilityReport) -> str:
    command = run.provenance.get("command")
    return command if isinstance(command, str) else ""
