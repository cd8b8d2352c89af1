"""`ase-ws finetune` and `ase-ws evaluate`."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ase_ws.cli.inputs import load
from ase_ws.cli.options import (
    Device,
    Dtype,
    EnergyKey,
    Forces,
    ForcesKey,
    Head,
    Labels,
    ModelArgument,
    Optimizer,
    Quiet,
    StressKey,
    Threads,
    Weak,
)
from ase_ws.cli.output import (
    command,
    err_console,
    number,
    out_console,
    say,
    say_json,
    say_path,
)
from ase_ws.cli.progress import step_progress
from ase_ws.errors import UserError
from ase_ws.files.folders import require_writable
from ase_ws.files.writing import write_text

if TYPE_CHECKING:
    from ase_ws.frames import Frame
    from ase_ws.training.evaluate import Evaluation


#: Names of extended XYZ files, packed or not, and of pictures.
_XYZ = re.compile(r"\.(ext)?xyz(\.(gz|bz2|xz))?$", re.I)
_PICTURE = re.compile(r"\.(png|svg|pdf)$", re.I)


def finetune(
    out: Annotated[Path | None, typer.Option(help="Folder to write the run to.")] = None,
    train: Annotated[
        list[str] | None,
        typer.Option(
            help="Training frames with labels; may be repeated, a pattern in quotes, or a folder "
            "of .h5 or .aselmdb files; FILE@:100 takes the first 100."
        ),
    ] = None,
    valid: Annotated[
        list[str] | None,
        typer.Option(help="Validation frames, likewise; default: a tenth of the training ones."),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Base model to start from; default: a new small MACE.")
    ] = None,
    head: Head = None,
    replay: Annotated[
        list[str] | None,
        typer.Option(
            help="Frames that the base model is not to forget, without labels: it labels them "
            "itself; likewise."
        ),
    ] = None,
    forces: Annotated[
        Forces | None,
        typer.Option(
            help="conservative: -dE/dr. direct: a readout of its own, faster, but energy is not "
            "conserved in MD. Default: as the base model; conservative from scratch."
        ),
    ] = None,
    weak: Annotated[
        Weak | None,
        typer.Option(
            help="Weak losses to add; auto picks what was measured to pay for this model, and says "
            "what."
        ),
    ] = None,
    optimizer: Annotated[
        Optimizer | None,
        typer.Option(
            help="gauss-newton: energies alone in closed form, nothing to tune; the default where "
            "a conservative base model is tuned on 50 energies or more, without weak losses. "
            "Else adam."
        ),
    ] = None,
    labels: Annotated[
        Labels | None, typer.Option(help="Labels to use; 'energy' ignores forces.")
    ] = None,
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    stress_key: StressKey = None,
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
    from ase_ws.training.config_files import load_config

    if resume is not None:
        config, out = config or resume / "config.yaml", out or resume
        if out != resume:
            raise UserError("--resume DIR goes on in DIR: leave --out away")
    settings = load_config(
        config,
        set_ or (),
        {
            "data.train": _one_or_all(train),
            "data.valid": _one_or_all(valid),
            "data.labels": labels,
            "data.energy_key": energy_key,
            "data.forces_key": forces_key,
            "data.stress_key": stress_key,
            "model.base": None if model is None else str(model),
            "model.head": head,
            "replay.train": _one_or_all(replay),
            "model.forces": forces,
            "weak.kind": weak,
            "optimizer.kind": optimizer,
            "optimizer.max_steps": max_steps,
            "seed": seed,
            "device": device,
            "threads": threads,
        },
    )
    if out is None:
        raise UserError("no folder to write to: give --out DIR")
    try:
        with step_progress("fine-tuning", quiet=quiet) as report:
            result = run_finetune(
                config=settings,
                out=out,
                resume=resume is not None,
                overwrite=overwrite,
                progress=lambda done, total, row: report(done, total, _errors(row)),
                notes={"command": command()},
                announce=None if quiet else say,
            )
    except KeyboardInterrupt:
        if (out / "last.ckpt").is_file():
            err_console.print(f"interrupted; to go on: ase-ws finetune --resume {out}")
        raise typer.Exit(130) from None
    if not quiet:
        _print_finetune(result)


def _one_or_all(names: list[str] | None) -> str | list[str] | None:
    return names[0] if names and len(names) == 1 else names or None


def _print_finetune(result: Any) -> None:
    rows = [r for r in result.history if r["valid_loss"] is not None]
    kept = next((r for r in rows if r["step"] == result.kept_step), rows[0])
    table = Table(title="validation errors", title_justify="left")
    for name in ("", "step", "energy RMSE, meV/atom", "forces RMSE, meV/Å"):
        table.add_column(name, justify="right")
    for label, row in (("start", rows[0]), ("kept", kept), ("end", rows[-1])):
        table.add_row(
            label,
            str(row["step"]),
            number(row["energy_rmse_mev_per_atom"]),
            number(row["forces_rmse_mev_per_angstrom"]),
        )
    out_console.print(table)
    if kept is rows[0] and len(rows) > 1:
        # The closed form has no learning rate.
        steps = any(row.get("learning_rate") for row in rows)
        advice = "Lower optimizer.learning_rate, or check" if steps else "Check"
        out_console.print(
            "Training never improved on the start: the model kept is the start itself. "
            f"{advice} that the labels belong to the frames.",
            style="yellow",
        )
    say_path("model", result.path / "model.safetensors")


def evaluate(
    model: ModelArgument,
    data: Annotated[
        list[str], typer.Argument(help="Labelled frames: files, or a pattern in quotes.")
    ],
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the errors to this file as well.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write every structure with what the model says of it to this .xyz file; labels "
            "are not needed."
        ),
    ] = None,
    prefix: Annotated[
        str, typer.Option(help="Begins the names of the predictions in --out: 'MACE_energy'.")
    ] = "ase_ws_",
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw predictions against labels: a .png, .svg or .pdf file."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option(help="Replace what is there at --out and --plot.")
    ] = False,
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    stress_key: StressKey = None,
    head: Head = None,
    dtype: Dtype = None,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Compare a model with labelled frames, or write down what it says of any."""
    from ase_ws.frames import (
        LabelKeys,
        check_elements,
        name_of,
        present,
        read_frames,
        read_with_atoms,
        require_labels,
    )
    from ase_ws.frames.summary import separate_isolated_atoms
    from ase_ws.training.evaluate import Evaluation
    from ase_ws.training.predict import predict_frames, require_new_names, write_predictions

    _require_targets(data, json_file, out, plot, overwrite=overwrite)
    potential = load(model, quiet=quiet, dtype=dtype, device=device or "cpu", head=head)
    keys = LabelKeys(energy_key or "energy", forces_key, stress_key)
    every, structures = read_with_atoms(data, keys) if out else (read_frames(data, keys), [])
    frames = [f for f in every if f.head == head] or every if head else every
    require_labels(frames, keys, name_of(data), ["energy", "forces", "stress"])
    unlabelled = all(f.energy is None and f.forces is None for f in frames)
    if unlabelled and (out is None or plot is not None):
        raise UserError(
            f"{name_of(data)}: no frame has an energy or forces ({present(frames)}); name the "
            "right keys with --energy-key and --forces-key"
        )
    if out is not None:
        require_new_names(every, structures, prefix)
    check_elements(frames if out is None else every, potential.atomic_numbers)
    if not quiet:
        for line in _summary(frames, potential.r_max):
            say(line)
    compared, lone = separate_isolated_atoms(frames, potential.r_max)
    compared = compared or lone
    asked = compared if out is None else every
    with step_progress("evaluating", quiet=quiet) as report:
        found = predict_frames(
            potential,
            asked,
            everything=out is not None,
            device=potential.device,
            progress=lambda done, total: report(done, total, ""),
        )
    by_frame = dict(zip(map(id, asked), found, strict=True))
    evaluation = Evaluation(compared, [by_frame[id(frame)] for frame in compared])
    text = json.dumps(evaluation.metrics, indent=1, allow_nan=False)
    if not quiet:
        say_json(text)
        rest = evaluation.energy_rmse_of_another_level()
        if rest is not None:
            say(
                "energies are off by a constant for each element (another level of theory): "
                f"{rest:.4g} meV/atom are left once it is fitted, which `ase-ws finetune` does "
                "to begin with"
            )
    types = evaluation.by_config_type()
    if not quiet and len(types) > 1:
        _print_by_type(types)
    if json_file is not None:
        write_text(json_file, text + "\n")
    if out is not None:
        write_predictions(out, structures, found, prefix)
    if plot is not None:
        _plot(evaluation, plot)
    for what, path in (("predictions", out), ("picture", plot)):
        if path is not None and not quiet:
            say(f"{what}: {path}")


def _require_targets(
    data: Sequence[str],
    json_file: Path | None,
    out: Path | None,
    plot: Path | None,
    *,
    overwrite: bool,
) -> None:
    """Find out before the work what cannot be written, or would replace something."""
    from ase_ws.frames.files import expand, file_of

    for path in (json_file, out, plot):
        if path is not None:
            require_writable(path)
    if out is not None and not _XYZ.search(out.name):
        raise UserError(f"{out}: expected a name that ends in .xyz, .extxyz or .xyz.gz for --out")
    if plot is not None and not _PICTURE.search(plot.name):
        raise UserError(f"{plot}: expected a name that ends in .png, .svg or .pdf for --plot")
    for path in (out, plot):
        if path is not None and path.exists() and not overwrite:
            raise UserError(f"{path}: exists; use --overwrite or another name")
    if out is not None and out.exists() and any(map(out.samefile, map(file_of, expand(data)))):
        raise UserError(f"{out}: is what is read; choose another name for --out")


def _plot(evaluation: Evaluation, path: Path) -> None:
    from ase_ws.report.parity import Quantity, write_parity

    other = evaluation.energy_rmse_of_another_level() is not None
    energies = "Energies, each above its elements" if other else "Energies above the elements"
    write_parity(
        path,
        [
            Quantity(energies, "energy", "eV/atom", *evaluation.energies_per_atom()),
            Quantity("Forces", "force", "eV/Å", *evaluation.points("forces")),
            Quantity("Stress", "stress", "eV/Å³", *evaluation.points("stress")),
        ],
    )


def _print_by_type(types: dict[str, dict[str, Any]]) -> None:
    table = Table(title="by config_type", title_justify="left")
    for name in ("", "frames", "energy RMSE, meV/atom", "forces RMSE, meV/Å"):
        table.add_column(name, justify="right")
    for name, row in types.items():
        table.add_row(
            name or "(none)",
            str(row["n_frames"]),
            number(row["energy_rmse_mev_per_atom"]),
            number(row["forces_rmse_mev_per_angstrom"]),
        )
    err_console.print(table)


def _summary(frames: Sequence[Frame], cutoff: float) -> Iterator[str]:
    """Say what is compared, and what is not."""
    from ase_ws.frames.levels import describe_levels
    from ase_ws.frames.summary import (
        describe_atoms,
        describe_forces,
        describe_frames,
        describe_rest,
        describe_stress,
        separate_isolated_atoms,
    )

    structures, lone = separate_isolated_atoms(frames, cutoff)
    yield describe_frames("compared", structures or lone)
    if structures:
        yield from describe_atoms(lone)
    yield from describe_levels(structures)
    yield from describe_forces(structures)
    yield from itertools.islice(describe_stress(structures), 1)
    yield from describe_rest(frames)


def _errors(row: dict[str, Any]) -> str:
    """Give the latest validation errors in a few characters."""
    energy = row.get("energy_rmse_mev_per_atom")
    forces = row.get("forces_rmse_mev_per_angstrom")
    parts = [] if energy is None else [f"E {energy:.3g} meV/atom"]
    return "  ".join(parts if forces is None else [*parts, f"F {forces:.3g} meV/Å"])
