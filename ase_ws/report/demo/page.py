"""Render results to one HTML file that needs nothing beside itself."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ase_ws.files.writing import write_text
from ase_ws.report.demo import figures, tables
from ase_ws.report.drawing.looks import Look, looks
from ase_ws.report.drawing.panels import Drawer
from ase_ws.report.drawing.settings import pairs
from ase_ws.report.drawing.templates import render
from ase_ws.report.drawing.text import joined, kelvin
from ase_ws.report.stability.entries import Entry
from ase_ws.report.stability.page import parts
from ase_ws.results.demo import DemoResults, Model, read_results

_SECTIONS = {
    "verdict": "Verdict",
    "findings": "Findings",
    "errors": "Errors",
    "learning": "Learning",
    "parity": "Parity",
    "failure": "First failure",
    "md": "Dynamics",
    "static": "Static checks",
    "checks": "Checks",
    "reproduce": "Reproduce",
}
_TITLE = "Fine-tuned potential: can it be trusted for MD?"


def write_demo_report(results: Mapping[str, Any], target: str | os.PathLike[str]) -> Path:
    """Write the report of a demo run.

    Parameters
    ----------
    results : mapping
        The content of `results.json`; see `ase_ws.results.demo.DemoResults`.
    target : path
        The HTML file to write, whole or not at all. Its folder must exist.

    Returns
    -------
    Path
        The file that was written.

    Raises
    ------
    UserError
        If the results do not fit the schema.
    """
    page = render_demo_report(results)
    write_text(target, page)
    return Path(target)


def render_demo_report(results: Mapping[str, Any]) -> str:
    """Render the report of a demo run as HTML, with figures and style inside."""
    parsed = read_results(results)
    return render("demo/page.html.j2", _context(parsed))


def _context(results: DemoResults) -> dict[str, Any]:
    models = results.models
    styles = looks([model.key for model in models])
    both = list(zip(models, styles, strict=True))
    trained = [Trained(model, look) for model, look in both if model.training is not None]
    drawer = Drawer()
    context = {
        **parts(_entries(both), drawer),
        "results": results,
        "title": results.title or _TITLE,
        "trained": trained,
        "with_curves": [
            item for item in trained if item.model.training and item.model.training.history
        ],
        "error_columns": tables.ERROR_COLUMNS,
        "error_rows": tables.error_rows(models, styles),
        "learning": figures.learning_panels(models, styles, drawer),
        "parity": figures.parity_rows(models, styles, drawer),
        "setting_rows": tables.training_rows([item.model for item in trained]),
        "data": pairs(results.data),
        "system": pairs(results.system),
        "versions": pairs(results.versions),
    }
    present = {"failure": context["failures"], "md": context["traces"]}
    present["static"] = context["static_rows"]
    sections = [(anchor, name) for anchor, name in _SECTIONS.items() if present.get(anchor, True)]
    return {**context, "sections": sections}


class Trained(NamedTuple):
    """A column of the table of training settings."""

    model: Model
    look: Look

    @property
    def name(self) -> str:
        """How the model is called."""
        return self.model.name


def _entries(both: Sequence[tuple[Model, Look]]) -> list[Entry]:
    """Give each run of MD its row; several runs of one model are told apart by temperature."""
    entries = []
    for model, look in both:
        for report in model.stability:
            kelvins = joined([kelvin(row.temperature) for row in report.temperatures])
            name = model.name if len(model.stability) == 1 else f"{model.name}, {kelvins}"
            entries.append(Entry(name, look, report, report))
    return entries
