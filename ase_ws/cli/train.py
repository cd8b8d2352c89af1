"""`ase-ws finetune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ase_ws.cli.options import (
    Device,
    EnergyKey,
    Forces,
    ForcesKey,
    Head,
    Labels,
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
    say_path,
)
from ase_ws.cli.progress import step_progress
from ase_ws.errors import UserError

if TYPE_CHECKING:
    pass


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


def _errors(row: dict[str, Any]) -> str:
    """Give the latest validation errors in a few characters."""
    energy = row.get("energy_rmse_mev_per_atom")
    forces = row.get("forces_rmse_mev_per_angstrom")
    parts = [] if energy is None else [f"E {energy:.3g} meV/atom"]
    return "  ".join(parts if forces is None else [*parts, f"F {forces:.3g} meV/Å"])
