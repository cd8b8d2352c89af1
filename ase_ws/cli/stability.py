"""`ase-ws stability`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from ase_ws.cli.inputs import attach, thread_limit
from ase_ws.cli.options import Device, Dtype, Ensemble, Head, Quiet, Threads, Topology
from ase_ws.cli.output import COLOURS, command, end_with, out_console, plain, say, say_path
from ase_ws.cli.progress import campaign_progress, stability_stage, step_progress
from ase_ws.errors import UserError
from ase_ws.files.folders import require_free, require_writable
from ase_ws.files.writing import write_text
from ase_ws.results.settings import BudgetedSettings

if TYPE_CHECKING:
    from ase_ws.stability import StabilityReport


def setting(name: str, **more: Any) -> Any:
    """Option of a setting, in the words of `BudgetedSettings`."""
    return typer.Option(help=BudgetedSettings.model_fields[name].description, **more)


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
    ps: Annotated[float, setting("ps")] = 5.0,
    replicas: Annotated[int, setting("replicas")] = 1,
    timestep: Annotated[float, setting("timestep")] = 0.5,
    ensemble: Annotated[Ensemble, setting("ensemble")] = "nvt",
    topology: Annotated[Topology, setting("topology")] = "fixed",
    static: Annotated[bool, setting("static")] = True,
    blame: Annotated[bool, setting("blame")] = True,
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
    seed: Annotated[int, setting("seed")] = 0,
    budget: Annotated[float | None, setting("budget", metavar="MINUTES")] = None,
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
    kelvins = [*(temperature or []), *(temperatures or [])]
    settings: dict[str, Any] = {
        "ps": ps,
        "replicas": replicas,
        "timestep": timestep,
        "ensemble": ensemble,
        "topology": topology,
        "static": static,
        "blame": blame,
        "seed": seed,
    }
    # Before the model is loaded.
    BudgetedSettings.of(temperatures=kelvins or [300.0], budget=budget, **settings)
    if json_file is not None:
        require_writable(json_file)
    if out is not None:
        require_free(out, overwrite=overwrite)
    models = _Models(model, head, compare, compare_head, dtype, device, quiet)
    with _told_at_least(quiet):
        if trajectory is not None:
            _refuse(budget, "--budget", "it does not go with --trajectory")
            _refuse(structure, "STRUCTURE", "--trajectory has frames of its own")
            references = _references(calibrate, rdf)
            report = _of_trajectory(
                models, trajectory, frame_interval, kelvins, settings, **references, out=out
            )
        elif model is None or structure is None:
            raise UserError("give MODEL and STRUCTURE, or --trajectory FILE")
        else:
            _refuse(frame_interval, "--frame-interval", "it belongs to --trajectory")
            settings["temperatures"] = kelvins or [300.0]
            if scheduler is not None:
                _refuse(budget, "--budget", "it does not go with --scheduler")
                _refuse(rdf, "--rdf", "it does not go with --scheduler")
                settings |= {"calibrate": None if calibrate is None else str(calibrate)}
                report = _on_dask(models, structure, scheduler, settings, out)
            else:
                references = _references(calibrate, rdf)
                settings["budget"] = budget
                report = _here(models, structure, settings, threads, **references, out=out)
    _finish(report, out, json_file, quiet)


class _Models(NamedTuple):
    """The model to judge, the one that it is compared with, and how they are loaded."""

    model: Path | None
    head: str | None
    compare: Path | None
    compare_head: str | None
    dtype: str | None
    device: str | None
    quiet: bool

    def attached(self, structure: Path, *, second: bool = False) -> tuple[Any, Any, float | None]:
        """Give structure, calculator, and the largest force of the training set."""
        model, head = (self.compare, self.compare_head) if second else (self.model, self.head)
        assert model is not None
        return attach(model, structure, self.dtype, self.device, head, quiet=self.quiet)


def _references(calibrate: Path | None, rdf: Path | None) -> dict[str, Any]:
    from ase_ws.frames import read_atoms
    from ase_ws.stability import Calibration, RDFReference

    return {
        "calibration": None if calibrate is None else Calibration.from_file(calibrate),
        "rdf": None if rdf is None else RDFReference.of(read_atoms(rdf)),
    }


def _of_trajectory(
    models: _Models,
    path: Path,
    frame_interval: float | None,
    kelvins: list[float],
    settings: dict[str, Any],
    **more: Any,
) -> StabilityReport:
    from ase_ws.frames import read_atoms
    from ase_ws.stability import check_trajectory

    calculator = None if models.model is None else models.attached(path)[1]
    if len(kelvins) > 1:
        raise UserError("a trajectory has one temperature: give --temperature once")
    return check_trajectory(
        read_atoms(path),
        calculator,
        frame_interval=frame_interval,
        temperature=kelvins[0] if kelvins else None,
        ensemble=settings["ensemble"],
        topology=settings["topology"],
        name=path.stem,
        notes={"command": command()},
        **more,
    )


def _on_dask(
    models: _Models, structure: Path, scheduler: str, settings: dict[str, Any], out: Path | None
) -> StabilityReport:
    from ase_ws.stability.campaign.single import check_stability_on_dask

    assert models.model is not None
    with campaign_progress(quiet=models.quiet) as watch:
        return check_stability_on_dask(
            models.model,
            structure,
            scheduler=scheduler,
            compare=models.compare,
            head=models.head,
            compare_head=models.compare_head,
            out=out,
            device=models.device or "cpu",
            command=command(),
            watch=watch,
            dtype=models.dtype,
            **settings,
        )


def _here(
    models: _Models, structure: Path, settings: dict[str, Any], threads: int | None, **more: Any
) -> StabilityReport:
    from ase_ws.stability import check_stability

    assert models.model is not None
    atoms, calculator, largest_force = models.attached(structure)
    other, name = None, ""
    if models.compare is not None:
        other = models.attached(structure, second=True)[1]
        name = _label(models.compare, models.model, models.compare_head)
    # One thread for small structures, also where many run at once: a batch gains 1.5 times
    # from a second thread on an idle machine and loses far more on a busy one; processes
    # (`ase-ws campaign`) make better use of the cores.
    with (
        thread_limit(threads, len(atoms)),
        step_progress(stability_stage, quiet=models.quiet) as progress,
    ):
        return check_stability(
            atoms,
            calculator,
            temperature=settings.pop("temperatures"),
            largest_training_force=largest_force,
            compare=other,
            compare_name=name,
            name=_label(models.model, models.compare, models.head),
            progress=progress,
            tell=None if models.quiet else say,
            notes={"command": command()},
            **settings,
            **more,
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


def _refuse(given: Any, what: str, why: str) -> None:
    if given is not None:
        raise UserError(f"{what}: not here, {why}")


def _label(model: Path, other: Path | None, head: str | None) -> str:
    """Name a model by its file, or by its folder where two files have the same name."""
    same = model.stem == "model" or (other is not None and other.stem == model.stem)
    name = f"{model.resolve().parent.name}/{model.stem}" if same else model.stem
    return name if head is None else f"{name} ({head})"
