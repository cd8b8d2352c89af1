"""`ase-ws md`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ase_ws.cli.inputs import attach, thread_limit
from ase_ws.cli.options import (
    Device,
    Dtype,
    Ensemble,
    Head,
    ModelArgument,
    Quiet,
    StructureArgument,
    Thermostat,
    Threads,
)
from ase_ws.cli.output import err_console, out_console, plain, say_path
from ase_ws.cli.progress import step_progress
from ase_ws.files.folders import require_free, require_writable


def md(
    model: ModelArgument,
    structure: StructureArgument,
    out: Annotated[Path, typer.Option(help="Folder for trajectory.extxyz, md.csv and md.json.")],
    ensemble: Annotated[Ensemble, typer.Option(help="Ensemble to sample.")] = "nvt",
    temperature: Annotated[float, typer.Option(help="Temperature in K.")] = 300.0,
    thermostat: Annotated[Thermostat, typer.Option(help="Thermostat, NVT only.")] = "bussi",
    steps: Annotated[int, typer.Option(help="Number of MD steps.")] = 2000,
    timestep: Annotated[float, typer.Option(help="Time step in fs.")] = 0.5,
    pressure: Annotated[float, typer.Option(help="Pressure in bar, NPT only.")] = 1.01325,
    interval: Annotated[int, typer.Option(help="Steps between two frames and log rows.")] = 10,
    seed: Annotated[int, typer.Option(help="Seed of velocities and thermostat.")] = 0,
    head: Head = None,
    dtype: Dtype = None,
    device: Device = None,
    threads: Threads = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier run in --out.")] = False,
    resume: Annotated[
        bool, typer.Option(help="Go on with the run in --out, to the same numbers.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Run MD with the checks switched on; exit 3 if one of them stopped it."""
    from ase_ws.md import NotWrittenError, run_md
    from ase_ws.stability.checks.defaults import default_checks

    if resume:
        require_writable(out, folder=True)
    else:
        require_free(out, overwrite=overwrite, resume="--resume")
    atoms, calculator, largest_force = attach(model, structure, dtype, device, head, quiet=quiet)
    if not calculator.conservative and not quiet:
        err_console.print(
            "[yellow]note:[/] the forces of this model are a direct readout, not the gradient of "
            "its energy: energy is not conserved, use a thermostat (--ensemble nvt)",
            soft_wrap=True,
        )
    with thread_limit(threads, len(atoms)), step_progress("md", quiet=quiet) as report:
        try:
            result = run_md(
                atoms,
                calculator,
                ensemble=ensemble,
                temperature=temperature,
                thermostat=thermostat,
                steps=steps,
                timestep=timestep,
                pressure=pressure,
                seed=seed,
                interval=interval,
                observers=default_checks(largest_training_force=largest_force),
                out=out,
                resume=resume,
                progress=report,
            )
        except NotWrittenError as error:
            if not quiet:
                _print_md(error.result, out)
            raise
    if not quiet:
        _print_md(result, out)
    if result.stopped_by is not None:
        raise typer.Exit(3)


def _print_md(result: Any, out: Path) -> None:
    for finding in result.warnings[:5]:
        out_console.print(f"[yellow]warning:[/] {plain(finding.message)}")
    if len(result.warnings) > 5:
        out_console.print(f"[yellow]warnings beyond these: {len(result.warnings) - 5}[/]")
    if result.stopped_by is not None:
        finding = result.stopped_by
        out_console.print(
            f"[bold red]stopped[/] at {finding.time:.1f} fs by the check '{finding.check}': "
            f"{plain(finding.message)}"
        )
    done = f"{result.steps_done} steps, {result.time_ps:.3g} ps, {result.ns_per_day:.3g} ns/day"
    say_path(f"{done}; written: trajectory.extxyz, md.csv, md.json in", out)
