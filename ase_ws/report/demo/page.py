"""Render results to one HTML file that needs nothing beside itself."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ase_ws.files.writing import write_text
from ase_ws.report.demo import figures, tables, verdicts
from ase_ws.report.drawing.looks import looks
from ase_ws.report.drawing.templates import render
from ase_ws.results.demo import DemoResults, read_results

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
    return render("demo.html.j2", _context(parsed))


def _context(results: DemoResults) -> dict[str, Any]:
    models = results.models
    styles = looks(models)
    both = list(zip(models, styles, strict=True))
    trained = [(model, look) for model, look in both if model.training is not None]
    checked = tables.checked_models(models, styles)
    drawer = figures.Drawer()
    return {
        "results": results,
        "title": results.title or _TITLE,
        # The question is about the fine-tuned models; the others are there to compare with.
        "cards": [
            (model, look, verdicts.card(model))
            for model, look in sorted(both, key=lambda pair: pair[0].training is None)
            if model.training is not None or model.stability
        ],
        "both": both,
        "trained": trained,
        "with_curves": [(m, look) for m, look in both if m.training and m.training.history],
        "error_columns": tables.ERROR_COLUMNS,
        "error_rows": tables.error_rows(models, styles),
        "learning": figures.learning_panels(models, styles, drawer),
        "parity": figures.parity_rows(models, styles, drawer),
        "stability": figures.stability_rows(models, styles, drawer),
        "checked": checked,
        "check_rows": tables.check_rows([model for model, _ in checked]),
        "setting_rows": tables.setting_rows([model for model, _ in trained]),
        "data": tables.pairs(results.data),
        "system": tables.pairs(results.system),
        "versions": tables.pairs(results.versions),
    }
