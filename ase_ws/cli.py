"""The command line: parses, calls one function, prints.

Exit codes: 0 done, 2 bad input (one line), 3 unstable, 1 anything else.
"""

from __future__ import annotations

import json
import shlex
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from typer.exceptions import TyperException

from ase_ws._version import __version__
from ase_ws.atomic import write_text
from ase_ws.errors import UserError
from ase_ws.folders import require_free
from ase_ws.progress import step_progress

app = typer.Typer(
    name="ase-ws",
    help="Fine-tune MACE-like potentials on sparse labels with weak losses, run them in ASE, "
    "and know whether to trust them.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
out_console = Console()
err_console = Console(stderr=True)


class Weak(str, Enum):
    """Which weak losses."""

    none = "none"
    pitc = "pitc"
    pisc = "pisc"
    both = "both"


class Forces(str, Enum):
    """Where the forces come from."""

    conservative = "conservative"
    direct = "direct"


class Labels(str, Enum):
    """Which labels to use."""

    energy = "energy"
    energy_forces = "energy+forces"


class Thermostat(str, Enum):
    """Thermostats of `ase-ws md`."""

    bussi = "bussi"
    langevin = "langevin"
    nose_hoover = "nose-hoover"


class Ensemble(str, Enum):
    """Which ensemble to sample."""

    nve = "nve"
    nvt = "nvt"
    npt = "npt"


ModelArgument = Annotated[
    Path, typer.Argument(help="Model file: .safetensors of this package, or a mace-torch .model.")
]
StructureArgument = Annotated[
    Path, typer.Argument(help="Structure to start from (any file that ASE reads; last frame).")
]
Dtype = Annotated[str | None, typer.Option(help="float32 or float64; default: as saved.")]
Threads = Annotated[
    int | None, typer.Option(help="CPU threads; default 1 for structures of few atoms.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]


def main() -> None:
    """Run the command line; a user's mistake ends in one line and exit code 2."""
    try:
        code = app(args=sys.argv[1:] or ["--help"], standalone_mode=False)
    except (UserError, TyperException) as error:
        text = getattr(error, "format_message", error.__str__)()
        err_console.print(f"[bold red]error:[/] {_escape(text)}", soft_wrap=True)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        err_console.print("interrupted", style="yellow")
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(" ".join(text.split()))


def _version(value: bool) -> None:
    if value:
        out_console.print(f"ase-ws {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
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

    from ase_ws.demo import DemoSettings, run_demo

    results = run_demo(
        out,
        DemoSettings(seed=seed),
        stage=partial(step_progress, quiet=quiet),
        command=_command(),
        overwrite=overwrite,
    )
    if not quiet:
        _print_demo(results, out)


def _print_demo(results: dict[str, Any], out: Path) -> None:
    table = Table(title=f"Errors on the test set: {results['data']['test']}", title_justify="left")
    for name in ("model", "energy RMSE, meV/atom", "forces RMSE, meV/Å", *_temperatures(results)):
        table.add_column(name, justify="left" if name == "model" else "right")
    for model in results["models"]:
        errors = model["errors"]
        verdicts = [report["verdict"] for report in model["stability"]]
        table.add_row(
            model["name"],
            _number(errors["energy_rmse_mev_per_atom"]),
            _number(errors["forces_rmse_mev_per_angstrom"]),
            *verdicts,
        )
    out_console.print(table)
    for sentence in results["findings"]:
        out_console.print(f"• {sentence}", markup=False)
    out_console.print(f"report: {out / 'report.html'}", soft_wrap=True)


def _temperatures(results: dict[str, Any]) -> list[str]:
    return [f"MD at {t:g} K" for t in results["settings"]["temperatures"]]


@app.command()
def finetune(
    out: Annotated[Path | None, typer.Option(help="Folder to write the run to.")] = None,
    train: Annotated[
        Path | None,
        typer.Option(help="Training frames with labels; FILE@:100 takes the first 100."),
    ] = None,
    valid: Annotated[
        Path | None, typer.Option(help="Validation frames; default: a tenth of the training ones.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Base model to start from; default: a new small MACE.")
    ] = None,
    forces: Annotated[
        Forces | None,
        typer.Option(
            help="conservative: -dE/dr. direct: a readout of its own, faster, but energy is not "
            "conserved in MD. Default: as the base model; conservative from scratch."
        ),
    ] = None,
    weak: Annotated[Weak | None, typer.Option(help="Weak losses to add.")] = None,
    labels: Annotated[
        Labels | None, typer.Option(help="Labels to use; 'energy' ignores forces.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML with any setting; the options here win over it.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any setting, as section.field=value; may be repeated."),
    ] = None,
    max_steps: Annotated[int | None, typer.Option(help="Optimiser steps.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, order and noise.")] = None,
    device: Device = None,
    threads: Threads = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the run in this folder, as it was set up.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier run in --out.")] = False,
    quiet: Quiet = False,
) -> None:
    """Fine-tune a model on labelled frames, or train a small one from scratch."""
    from ase_ws.training import finetune as run_finetune
    from ase_ws.training.config import load_config

    if resume is not None:
        config, out = config or resume / "config.yaml", out or resume
        if out != resume:
            raise UserError("--resume DIR goes on in DIR: leave --out away")
    if out is None:
        raise UserError("no folder to write to: give --out DIR")
    settings = load_config(
        config,
        set_ or (),
        {
            "data.train": _text(train),
            "data.valid": _text(valid),
            "data.labels": labels.value if labels else None,
            "model.base": _text(model),
            "model.forces": forces.value if forces else None,
            "weak.kind": weak.value if weak else None,
            "optimizer.max_steps": max_steps,
            "seed": seed,
            "device": device,
            "threads": threads,
        },
    )
    try:
        with step_progress("fine-tuning", quiet=quiet) as report:
            result = run_finetune(
                config=settings,
                out=out,
                resume=resume is not None,
                overwrite=overwrite,
                progress=lambda done, total, row: report(done, total, _errors(row)),
                notes={"command": _command()},
            )
    except KeyboardInterrupt:
        if (out / "last.ckpt").is_file():
            err_console.print(f"interrupted; to go on: ase-ws finetune --resume {out}")
        raise typer.Exit(130) from None
    if not quiet:
        _print_finetune(result)


def _print_finetune(result: Any) -> None:
    rows = [r for r in result.history if r["valid_loss"] is not None]
    best = min(rows, key=lambda r: r["valid_loss"])
    table = Table(title="validation errors", title_justify="left")
    for name in ("", "step", "energy RMSE, meV/atom", "forces RMSE, meV/Å"):
        table.add_column(name, justify="right")
    for label, row in (("start", rows[0]), ("best", best), ("end", rows[-1])):
        table.add_row(
            label,
            str(row["step"]),
            _number(row["energy_rmse_mev_per_atom"]),
            _number(row["forces_rmse_mev_per_angstrom"]),
        )
    out_console.print(table)
    if best is rows[0] and len(rows) > 1:
        out_console.print(
            "Training never improved on the start: the model kept is the start itself. Lower "
            "optimizer.learning_rate, or check that the labels belong to the frames.",
            style="yellow",
        )
    out_console.print(f"model: {result.path / 'model.safetensors'}", soft_wrap=True)


@app.command()
def evaluate(
    model: ModelArgument,
    data: Annotated[Path, typer.Argument(help="Labelled frames.")],
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the errors to this file as well.")
    ] = None,
    energy_key: Annotated[str, typer.Option(help="Key of the energy labels.")] = "energy",
    forces_key: Annotated[str, typer.Option(help="Key of the force labels.")] = "forces",
    dtype: Dtype = None,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Compare a model with labelled frames."""
    from ase_ws.frames import LabelKeys, read_frames
    from ase_ws.potentials.files import load_potential
    from ase_ws.training.evaluate import evaluate_potential

    if json_file is not None and not json_file.parent.is_dir():
        raise UserError(f"{json_file}: its folder does not exist; make it first")
    potential = load_potential(model, dtype=dtype, device=device or "cpu")
    frames = read_frames(data, LabelKeys(energy_key, forces_key))
    with step_progress("evaluating", quiet=quiet) as report:
        metrics = evaluate_potential(
            potential,
            frames,
            device=potential.device,
            progress=lambda done, total: report(done, total, ""),
        ).metrics
    text = json.dumps(metrics, indent=1)
    if json_file is not None:
        write_text(json_file, text + "\n")
    if not quiet:
        out_console.print_json(text)


@app.command()
def md(
    model: ModelArgument,
    structure: StructureArgument,
    out: Annotated[Path, typer.Option(help="Folder for trajectory.extxyz, md.csv and md.json.")],
    ensemble: Annotated[Ensemble, typer.Option(help="Ensemble to sample.")] = Ensemble.nvt,
    temperature: Annotated[float, typer.Option(help="Temperature in K.")] = 300.0,
    thermostat: Annotated[
        Thermostat, typer.Option(help="Thermostat, NVT only.")
    ] = Thermostat.bussi,
    steps: Annotated[int, typer.Option(help="Number of MD steps.")] = 2000,
    timestep: Annotated[float, typer.Option(help="Time step in fs.")] = 0.5,
    pressure: Annotated[float, typer.Option(help="Pressure in bar, NPT only.")] = 1.01325,
    interval: Annotated[int, typer.Option(help="Steps between two frames and log rows.")] = 10,
    seed: Annotated[int, typer.Option(help="Seed of velocities and thermostat.")] = 0,
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
    from ase_ws.md.run import run_md
    from ase_ws.stability.observers import default_checks

    atoms, calculator, largest_force = _attach(model, structure, dtype, device)
    if not resume:
        require_free(out, overwrite=overwrite, resumable=True)
    if not calculator.conservative and not quiet:
        err_console.print(
            "[yellow]note:[/] the forces of this model are a direct readout, not the gradient of "
            "its energy: energy is not conserved, use a thermostat (--ensemble nvt)",
            soft_wrap=True,
        )
    with _threads(threads, atoms), step_progress("md", quiet=quiet) as report:
        result = run_md(
            atoms,
            calculator,
            ensemble=ensemble.value,
            temperature=temperature,
            thermostat=thermostat.value,
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
    if not quiet:
        _print_md(result, out)
    if result.stopped_by is not None:
        raise typer.Exit(3)


def _print_md(result: Any, out: Path) -> None:
    for finding in result.warnings[:5]:
        out_console.print(f"[yellow]warning:[/] {_escape(finding.message)}")
    if len(result.warnings) > 5:
        out_console.print(f"[yellow]and {len(result.warnings) - 5} more warnings[/]")
    if result.stopped_by is not None:
        finding = result.stopped_by
        out_console.print(
            f"[bold red]stopped[/] at {finding.time:.1f} fs by the check '{finding.check}': "
            f"{_escape(finding.message)}"
        )
    out_console.print(
        f"{result.steps_done} steps, {result.time_ps:.3g} ps, {result.ns_per_day:.3g} ns/day; "
        f"written: {out}/trajectory.extxyz, md.csv, md.json",
        soft_wrap=True,
    )


@app.command()
def stability(
    model: ModelArgument,
    structure: StructureArgument,
    temperature: Annotated[
        list[float] | None, typer.Option(help="Temperature in K; may be repeated.")
    ] = None,
    temperatures: Annotated[
        list[float] | None, typer.Argument(help="More temperatures, after --temperature.")
    ] = None,
    ps: Annotated[float, typer.Option(help="Length of each replica in ps.")] = 5.0,
    replicas: Annotated[int, typer.Option(help="Runs at each temperature.")] = 1,
    timestep: Annotated[float, typer.Option(help="Time step in fs.")] = 0.5,
    ensemble: Annotated[Ensemble, typer.Option(help="Ensemble to sample.")] = Ensemble.nvt,
    seed: Annotated[int, typer.Option(help="Seed of the whole campaign.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for stability.json and the failing frames.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the report to this file.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Dask scheduler (not available in this version).")
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
    from ase_ws.stability.campaign import check_stability

    if scheduler is not None:
        raise UserError("--scheduler: not available in this version; leave it out to run here")
    atoms, calculator, largest_force = _attach(model, structure, dtype, device)
    if out is not None:
        require_free(out, overwrite=overwrite)
    with _threads(threads, atoms), step_progress("stability", quiet=quiet) as report_progress:
        report = check_stability(
            atoms,
            calculator,
            temperature=[*(temperature or []), *(temperatures or [])] or [300.0],
            ps=ps,
            replicas=replicas,
            timestep=timestep,
            ensemble=ensemble.value,
            seed=seed,
            largest_training_force=largest_force,
            out=out,
            progress=report_progress,
        )
    if json_file is not None:
        write_text(json_file, json.dumps(report.to_dict(), allow_nan=False, indent=1) + "\n")
    if not quiet:
        colour = {"stable": "green", "unstable": "red"}.get(report.verdict, "yellow")
        first, *rest = report.summary().splitlines()
        out_console.print(f"[bold {colour}]{_escape(first)}[/]", soft_wrap=True)
        for line in rest:
            out_console.print(line, markup=False, soft_wrap=True)
    if report.verdict != "stable":
        raise typer.Exit(3 if report.verdict == "unstable" else 1)


def _attach(
    model: Path, structure: Path, dtype: str | None, device: str | None
) -> tuple[Any, Any, float | None]:
    """Load structure and calculator, and the largest force that the model was trained on."""
    from ase_ws.calculators.potential import PotentialCalculator
    from ase_ws.frames import check_elements, frame_from_atoms, read_structure
    from ase_ws.potentials.files import read_header

    atoms = read_structure(structure)
    calculator = PotentialCalculator(model, dtype=dtype, device=device or "cpu")
    # Labels of the structure, if any, do not matter here.
    bare = atoms.copy()
    bare.info, bare.calc = {}, None
    check_elements(
        [frame_from_atoms(bare, str(structure))], calculator.potential.atomic_numbers, str(model)
    )
    if model.suffix != ".safetensors":
        return bare, calculator, None
    provenance = read_header(model).get("provenance", {})
    return bare, calculator, provenance.get("largest_training_force_ev_per_angstrom")


def _threads(number: int | None, atoms: Any) -> Any:
    from ase_ws.devices import sensible_threads, threads

    return threads(number or sensible_threads(len(atoms)))


@app.command()
def info(
    model: ModelArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """Show what is in a model file."""
    from ase.data import chemical_symbols

    from ase_ws.potentials.files import load_potential, read_header

    potential = load_potential(model)
    header = read_header(model) if model.suffix == ".safetensors" else {}
    e0 = {
        chemical_symbols[z]: float(e)
        for z, e in zip(potential.atomic_numbers, potential.e0.tolist(), strict=True)
    }
    facts = {
        "file": str(model),
        "elements": list(e0),
        "r_max_angstrom": potential.r_max,
        "parameters": sum(p.numel() for p in potential.parameters()),
        "dtype": str(potential.dtype).removeprefix("torch."),
        "conservative": potential.conservative,
        "skin_safe": potential.skin_safe,
        "e0_ev": e0,
        "kind": potential.kind,
        "network": potential.architecture.size,
        "architecture": potential.architecture.model_dump(mode="json"),
        "provenance": header.get("provenance", {}),
    }
    if as_json:
        out_console.print_json(json.dumps(facts))
        return
    _print_info(facts)


def _print_info(facts: dict[str, Any]) -> None:
    table = Table(show_header=False, box=None, padding=(0, 2))
    provenance = facts["provenance"]
    rows = {
        "file": facts["file"],
        "elements": " ".join(facts["elements"]),
        "cutoff": f"{facts['r_max_angstrom']} Å",
        "network": f"{facts['network']}, {facts['parameters']:,} weights, {facts['dtype']}",
        "forces": "-dE/dr" if facts["conservative"] else "direct readout, not conservative",
        "E0 (eV)": ", ".join(f"{k} {v:.4f}" for k, v in facts["e0_ev"].items()),
        "made": f"{provenance.get('created', '?')} by ase_ws {provenance.get('ase_ws', '?')}"
        if provenance
        else ("not recorded" if facts["file"].endswith(".safetensors") else "upstream mace-torch"),
    }
    # What `finetune` writes; a file saved from Python may hold other facts, or none.
    if "n_train" in provenance:
        rows["trained on"] = (
            f"{provenance['n_train']} frames ({provenance['n_train_with_forces']} with forces): "
            f"{', '.join(provenance['trained_on'])}"
        )
        rows["validation"] = ", ".join(
            f"{k} {_number(v)}" for k, v in provenance.get("validation", {}).items()
        )
        rows.update({k: str(v) for k, v in provenance.get("notes", {}).items()})
    for name, value in rows.items():
        table.add_row(f"[bold]{name}[/]", _escape(value))
    out_console.print(table)


class Format(str, Enum):
    """Formats to export to."""

    mace = "mace"


@app.command()
def export(
    model: ModelArgument,
    out: Annotated[Path, typer.Argument(help="File to write.")],
    format_: Annotated[Format, typer.Option("--format", help="mace: upstream's .model file.")] = (
        Format.mace
    ),
    overwrite: Annotated[bool, typer.Option(help="Replace OUT if it exists.")] = False,
) -> None:
    """Write a model as a file that other programs load."""
    from ase_ws.potentials.files import export_upstream, load_potential

    if out.exists() and not overwrite:
        raise UserError(f"{out}: exists; use --overwrite or another name")
    export_upstream(load_potential(model), out)
    out_console.print(f"written: {out}", soft_wrap=True)


def _errors(row: dict[str, Any]) -> str:
    """Give the latest validation errors in a few characters."""
    energy = row.get("energy_rmse_mev_per_atom")
    forces = row.get("forces_rmse_mev_per_angstrom")
    parts = [] if energy is None else [f"E {energy:.3g} meV/atom"]
    return "  ".join(parts if forces is None else [*parts, f"F {forces:.3g} meV/Å"])


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _command() -> str:
    return shlex.join(["ase-ws", *sys.argv[1:]])


if __name__ == "__main__":
    main()
