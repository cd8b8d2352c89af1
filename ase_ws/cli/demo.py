"""`ase-ws demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ase_ws.cli.options import Quiet
from ase_ws.cli.output import command, number, out_console, say_path
from ase_ws.cli.progress import step_progress


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Seed of the whole demonstration.")] = 0,
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier one in --out.")] = False,
    quiet: Quiet = False,
) -> None:
    """Do the main job on the packaged data: fine-tune, compare, check stability, report.

    Takes under five minutes on two cores and needs no network.
    """
    from functools import partial

    from ase_ws.demo.run import DemoSettings, run_demo

    results = run_demo(
        out,
        DemoSettings(seed=seed),
        stage=partial(step_progress, quiet=quiet),
        command=command(),
        overwrite=overwrite,
    )
    if not quiet:
        _print_demo(results, out)


def _print_demo(results: dict[str, Any], out: Path) -> None:
    table = Table(title=f"Errors on the test set: {results['data']['test']}", title_justify="left")
    kelvins = " and ".join(f"{t:g} K" for t in results["settings"]["temperatures"])
    for name in ("model", "energy RMSE, meV/atom", "forces RMSE, meV/Å", f"MD at {kelvins}"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for model in results["models"]:
        errors = model["errors"]
        verdicts = ", ".join(report["verdict"] for report in model["stability"])
        table.add_row(
            model["name"],
            number(errors["energy_rmse_mev_per_atom"]),
            number(errors["forces_rmse_mev_per_angstrom"]),
            verdicts,
        )
    out_console.print(table)
    for sentence in results["findings"]:
        out_console.print(f"• {sentence}", markup=False)
    say_path("report", out / "report.html")
