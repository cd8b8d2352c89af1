"""`ase-ws report`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ase_ws.cli.options import Quiet
from ase_ws.cli.output import out_console, plain, say_path
from ase_ws.errors import UserError
from ase_ws.files.folders import make_clear, require_free
from ase_ws.files.writing import write_text

_NAMES = ("report.html", "results.json")


def report(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            help="What `ase-ws stability --out` wrote: a folder with stability.json, the file "
            "itself, or a folder that holds several.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for report.html and results.json.")
    ] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of stability.json, and end.")
    ] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier report in --out.")] = False,
    quiet: Quiet = False,
) -> None:
    """Show one or several stability runs on one page, side by side."""
    from ase_ws.report.stability.collect import collect_runs
    from ase_ws.report.stability.page import render_stability_report
    from ase_ws.results.report import StabilityReport

    if schema:
        typer.echo(json.dumps(StabilityReport.schema(), indent=2, ensure_ascii=False))
        return
    if not runs or out is None:
        raise UserError(
            "report: needs at least one run and a folder, as in `ase-ws report RUN --out DIR`"
        )
    require_free(out, overwrite=overwrite)
    records = collect_runs(runs)
    page = render_stability_report(records)
    if not quiet:
        _print_report(records)
    make_clear(out, _NAMES)
    write_text(out / "results.json", json.dumps(records, indent=1, allow_nan=False) + "\n")
    write_text(out / "report.html", page)
    if not quiet:
        say_path("report", out / "report.html")


def _print_report(records: list[dict[str, Any]]) -> None:
    table = Table(title="Stability in MD", title_justify="left")
    for heading in ("model", "verdict", "why"):
        table.add_column(heading)
    for record in records:
        texts = (record["name"], record.get("verdict"), record.get("reason"))
        table.add_row(*(plain(str(text or "–")) for text in texts))
    out_console.print(table)
