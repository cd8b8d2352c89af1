"""`ase-ws campaign`."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ase_ws.cli.options import Device, Quiet
from ase_ws.cli.output import COLOURS, command, end_with, err_console, number, out_console, plain
from ase_ws.cli.progress import campaign_progress
from ase_ws.files.folders import require_writable
from ase_ws.files.writing import write_text


def campaign(
    file: Annotated[Path, typer.Argument(help="What to run, as YAML.", metavar="FILE.yaml")],
    out: Annotated[
        Path, typer.Option(help="Folder for the journal, the reports and summary.json.")
    ],
    workers: Annotated[
        int | None, typer.Option(help="Processes on this machine; default: one for each core.")
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(help="Dask scheduler whose workers do the work, as tcp://HOST:8786."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the campaign in --out, if there is one.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the campaign in --out.")
    ] = False,
    device: Device = None,
    quiet: Quiet = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the summary to this file too.")
    ] = None,
) -> None:
    """Check many structures with many models, here or on a Dask cluster; resumable at any time.

    Exit code 0: all stable. 3: one or more unstable. 1: not enough evidence for some.
    """
    from ase_ws.stability.campaign import run_campaign

    if json_file is not None:
        require_writable(json_file)
    try:
        with campaign_progress(quiet=quiet) as watch:
            summary = run_campaign(
                file,
                out,
                workers=workers,
                scheduler=scheduler,
                resume=resume,
                overwrite=overwrite,
                device=device or "cpu",
                command=command(),
                watch=watch,
            )
    except KeyboardInterrupt:
        _tell_how_to_go_on(out)
        raise
    from ase_ws.report import write_stability_report
    from ase_ws.report.stability.collect import collect_runs

    # First of all what no full disk can hinder.
    if not quiet:
        out_console.print(_table(summary))
        _print_rest(summary)
    if json_file is not None:
        write_text(json_file, json.dumps(summary, allow_nan=False, indent=1) + "\n")
    write_stability_report(collect_runs([out]), out / "report.html")
    if not quiet:
        out_console.print(
            f"written: {out}/report.html, summary.json, replicas.jsonl, "
            "MODEL/STRUCTURE/stability.json",
            soft_wrap=True,
        )
    end_with(summary["verdict"])


def _tell_how_to_go_on(out: Path) -> None:
    if not (out / "campaign.json").is_file():
        return
    again = [item for item in sys.argv[1:] if item not in ("--resume", "--overwrite")]
    line = shlex.join(["ase-ws", *again, "--resume"])
    err_console.print(
        f"every finished replica is kept; go on with:\n  {plain(line)}", soft_wrap=True
    )


def _table(summary: dict[str, Any]) -> Table:
    table = Table(title="Stability", title_justify="left", show_lines=len(summary["rows"]) > 1)
    for name in ("model", "structure", "verdict"):
        table.add_column(name)
    table.add_column("T (K)", justify="right")
    table.add_column("failed", justify="right")
    table.add_column("failures per ps\n(95 % interval)", justify="right")
    table.add_column("first failing check")
    table.add_column("blame")
    for row in summary["rows"]:
        colour = COLOURS[row["verdict"]]
        temperatures = row["temperatures"]
        failure, blame = row["first_failure"], row["blame"]
        table.add_row(
            plain(row["model"]),
            plain(row["structure"]),
            f"[bold {colour}]{row['verdict']}[/]",
            "\n".join(f"{item['temperature']:g}" for item in temperatures),
            "\n".join(f"{item['failed']} of {item['replicas']}" for item in temperatures),
            "\n".join(_rate(item) for item in temperatures),
            "–" if failure is None else plain(failure["check"]),
            "–" if blame is None else plain(blame["cause"]),
        )
    return table


def _rate(item: dict[str, Any]) -> str:
    """Rate with its 95 % interval; without failures the one-sided limit."""
    interval = item["failure_rate_95_per_ps"]
    if interval is None:
        return "–"
    if item["failed"] == 0:
        return f"< {number(item['failure_rate_95_upper_per_ps'])}"
    low, high = interval
    return f"{item['failure_rate_per_ps']:.3g} ({low:.2g}–{high:.2g})"


def _print_rest(summary: dict[str, Any]) -> None:
    for row in summary["rows"]:
        if row["verdict"] != "stable":
            out_console.print(
                f"{plain(row['model'])}, {plain(row['structure'])}: {plain(row['reason'])}",
                soft_wrap=True,
            )
    out_console.print(
        f"{summary['replicas']} replicas, {number(summary['total_ps'])} ps", soft_wrap=True
    )
