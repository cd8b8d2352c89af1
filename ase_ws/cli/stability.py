"""`ase-ws stability`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from ase_ws.cli.inputs import attach, thread_limit
from ase_ws.cli.options import Device, Dtype, Ensemble, Head, Quiet, Threads, Topology
from ase_ws.cli.output import COLOURS, command, end_with, out_console, plain, say, say_path
from ase_ws.cli.progress import campaign_progress, stability_stage, step_progress
from ase_ws.errors import UserError
from ase_ws.files.folders import require_free, require_writable
from ase_ws.files.writing import write_text


def stability(
    model: Annotated[
        Path | None,
        typer.Argument(help="Model to judge: .safetensors of this package, or mace-torch .model."),
    ] = None,
    structure: Annotated[
        Path | None,
        typer.Argument(help="Structure to start from (any file that ASE reads; last frame)."),
    ] = None,
    temperature: Annotated[
        list[float] | None, typer.Option(help="Temperature in K; may be repeated. Default 300.")
    ] = None,
    temperatures: Annotated[
        list[float] | None, typer.Argument(help="More temperatures, after --temperature.")
    ] = None,
    ps: Annotated[float, typer.Option(help="Length of each replica in ps.")] = 5.0,
    replicas: Annotated[int, typer.Option(help="Runs at each temperature.")] = 1,
    timestep: Annotated[float, typer.Option(help="Time step in fs.")] = 0.5,
    ensemble: Annotated[Ensemble, typer.Option(help="Ensemble to sample.")] = "nvt",
    topology: Annotated[
        Topology,
        typer.Option(help="fixed: a broken bond is a failure. reactive: bonds may break and form."),
    ] = "fixed",
    static: Annotated[
        bool, typer.Option(help="Look at derivatives, symmetries and scans before MD.")
    ] = True,
    blame: Annotated[
        bool, typer.Option(help="Rerun failures at half the time step and in float64.")
    ] = True,
    head: Head = None,
    compare: Annotated[
        Path | None, typer.Option(help="Second model, run with the same seeds.")
    ] = None,
    compare_head: Annotated[
        str | None, typer.Option(help="Head of the second model, if it has several.")
    ] = None,
    calibrate: Annotated[
        Path | None, typer.Option(help="Training frames: thresholds and bond lengths from them.")
    ] = None,
    rdf: Annotated[
        Path | None,
        typer.Option(help="Reference trajectory at this temperature, to compare g(r) with."),
    ] = None,
    trajectory: Annotated[
        Path | None,
        typer.Option(help="Check this trajectory, without MD; MODEL evaluates it where given."),
    ] = None,
    frame_interval: Annotated[
        float | None,
        typer.Option(help="Time between frames of --trajectory in fs; default: from the file."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the whole campaign.")] = 0,
    budget: Annotated[
        float | None,
        typer.Option(
            metavar="MINUTES",
            help="Time that it may take: scans, then replicas, then length are cut to fit.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for report.html, stability.json and candidates.xyz."),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the report to this file.")
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(help="Dask scheduler whose workers run the replicas, as tcp://HOST:8786."),
    ] = None,
    dtype: Dtype = None,
    device: Device = None,
    threads: Threads = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier run in --out.")] = False,
    quiet: Quiet = False,
) -> None:
    """Tell whether MD of this structure at these temperatures is safe with this model.

    Exit code 0: stable. 3: unstable. 1: not enough evidence (inconclusive).
    """
    from ase_ws.frames import read_atoms
    from ase_ws.stability import Calibration, RDFReference

    kelvins = [*(temperature or []), *(temperatures or [])]
    if budget is not None:
        # Before the model is loaded.
        _require_time(budget)
        for other, given in (("--trajectory", trajectory), ("--scheduler", scheduler)):
            _refuse(
                budget if given is not None else None, "--budget", f"it does not go with {other}"
            )
    if json_file is not None:
        require_writable(json_file)
    if out is not None:
        require_free(out, overwrite=overwrite)
    calibration = None if calibrate is None else Calibration.from_file(calibrate)
    reference = None if rdf is None else RDFReference.of(read_atoms(rdf))
    common = {
        "ensemble": ensemble,
        "topology": topology,
        "calibration": calibration,
        "rdf": reference,
        "out": out,
        "notes": {"command": command()},
    }
    if trajectory is not None:
        _refuse(structure, "STRUCTURE", "--trajectory has frames of its own")
        attached = None
        if model is not None:
            attached = attach(model, trajectory, dtype, device, head, quiet=quiet)[1]
        with _told_at_least(quiet):
            report = _trajectory(trajectory, attached, kelvins, frame_interval, common)
        _finish(report, out, json_file, quiet)
        return
    if model is None or structure is None:
        raise UserError("give MODEL and STRUCTURE, or --trajectory FILE")
    _refuse(frame_interval, "--frame-interval", "it belongs to --trajectory")
    if scheduler is not None:
        from ase_ws.stability.campaign.single import check_stability_on_dask

        _refuse(rdf, "--rdf", "it does not go with --scheduler")
        with _told_at_least(quiet), campaign_progress(quiet=quiet) as watch:
            report = check_stability_on_dask(
                model,
                structure,
                scheduler=scheduler,
                compare=compare,
                head=head,
                compare_head=compare_head,
                calibrate=calibrate,
                out=out,
                device=device or "cpu",
                command=command(),
                watch=watch,
                temperatures=kelvins or [300.0],
                ps=ps,
                replicas=replicas,
                timestep=timestep,
                ensemble=ensemble,
                topology=topology,
                static=static,
                blame=blame,
                seed=seed,
                dtype=dtype,
            )
    else:
        atoms, calculator, largest_force = attach(
            model, structure, dtype, device, head, quiet=quiet
        )
        other = None
        if compare is not None:
            other = attach(compare, structure, dtype, device, compare_head, quiet=quiet)[1]
        # One thread for small structures, also where many run at once: a batch gains 1.5 times
        # from a second thread on an idle machine and loses far more on a busy one; processes
        # (`ase-ws campaign`) make better use of the cores.
        with (
            _told_at_least(quiet),
            thread_limit(threads, len(atoms)),
            step_progress(stability_stage, quiet=quiet) as progress,
        ):
            from ase_ws.stability import check_stability

            report = check_stability(
                atoms,
                calculator,
                temperature=kelvins or [300.0],
                ps=ps,
                replicas=replicas,
                timestep=timestep,
                seed=seed,
                largest_training_force=largest_force,
                static=static,
                blame=blame,
                compare=other,
                compare_name="" if compare is None else _label(compare, model, compare_head),
                name=_label(model, compare, head),
                progress=progress,
                budget=budget,
                tell=None if quiet else say,
                **common,
            )
    _finish(report, out, json_file, quiet)


def _trajectory(
    path: Path,
    calculator: Any,
    kelvins: list[float],
    frame_interval: float | None,
    common: dict[str, Any],
) -> Any:
    from ase_ws.frames import read_atoms
    from ase_ws.stability import check_trajectory

    if len(kelvins) > 1:
        raise UserError("a trajectory has one temperature: give --temperature once")
    return check_trajectory(
        read_atoms(path),
        calculator,
        frame_interval=frame_interval,
        temperature=kelvins[0] if kelvins else None,
        name=path.stem,
        **common,
    )


@contextmanager
def _told_at_least(quiet: bool) -> Iterator[None]:
    """Print a report that could not be written."""
    from ase_ws.results.report import UnwrittenError

    try:
        yield
    except UnwrittenError as error:
        _print(error.report, quiet)
        raise


def _print(report: Any, quiet: bool) -> None:
    if quiet:
        return
    first, *rest = report.summary().splitlines()
    out_console.print(f"[bold {COLOURS[report.verdict]}]{plain(first)}[/]", soft_wrap=True)
    for line in rest:
        out_console.print(line, markup=False, soft_wrap=True)


def _finish(report: Any, out: Path | None, json_file: Path | None, quiet: bool) -> None:
    """Print, which no full disk can hinder; write; exit with the code of the verdict."""
    _print(report, quiet)
    if json_file is not None:
        write_text(json_file, json.dumps(report.to_dict(), allow_nan=False, indent=1) + "\n")
    if out is not None:
        from ase_ws.report import write_stability_report

        write_stability_report([report.to_dict()], out / "report.html")
        if not quiet:
            say_path("report", out / "report.html")
    end_with(report.verdict)


def _require_time(budget: float) -> None:
    from ase_ws.stability.runs.plan import require_positive

    require_positive("--budget", budget)


def _refuse(given: Any, what: str, why: str) -> None:
    if given is not None:
        raise UserError(f"{what}: not here, {why}")


def _label(model: Path, other: Path | None, head: str | None) -> str:
    """Name a model by its file, or by its folder where two files have the same name."""
    same = model.stem == "model" or (other is not None and other.stem == model.stem)
    name = f"{model.resolve().parent.name}/{model.stem}" if same else model.stem
    return name if head is None else f"{name} ({head})"
