"""`ase-ws evaluate`."""

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
    ForcesKey,
    Head,
    ModelArgument,
    Quiet,
    StressKey,
)
from ase_ws.cli.output import (
    err_console,
    number,
    say,
    say_json,
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
    error_bars: Annotated[
        bool,
        typer.Option(
            help="Say what errors the labels of the model let expect, where its file knows."
        ),
    ] = True,
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
    bars = error_bars and _has_error_bars(potential, every if out else frames)
    if unlabelled and ((out is None and not bars) or plot is not None):
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
            error_bars=bars,
            device=potential.device,
            progress=lambda done, total: report(done, total, ""),
        )
    by_frame = dict(zip(map(id, asked), found, strict=True))
    evaluation = Evaluation(compared, [by_frame[id(frame)] for frame in compared])
    text = json.dumps(evaluation.metrics, indent=1, allow_nan=False)
    if not quiet:
        say_json(text)
        for line in (*_of_another_level(evaluation), *_expected(evaluation)):
            say(line)
        _print_by_type(evaluation.by_config_type())
    if json_file is not None:
        write_text(json_file, text + "\n")
    if out is not None:
        write_predictions(out, structures, found, prefix)
    if plot is not None:
        _plot(evaluation, plot)
    for what, path in (("predictions", out), ("picture", plot)):
        if path is not None and not quiet:
            say(f"{what}: {path}")


def _has_error_bars(potential: Any, frames: Sequence[Frame]) -> bool:
    """Whether the model knows its errors on all of these."""
    posterior = potential.posterior
    return posterior is not None and all({*f.numbers} <= {*posterior.elements} for f in frames)


def _of_another_level(evaluation: Evaluation) -> Iterator[str]:
    rest = evaluation.energy_rmse_of_another_level()
    if rest is not None:
        yield (
            "energies are off by a constant for each element (another level of theory): "
            f"{rest:.4g} meV/atom are left once it is fitted, which `ase-ws finetune` does to "
            "begin with"
        )


def _expected(evaluation: Evaluation) -> Iterator[str]:
    """Say what errors the labels let expect, and which frames stand out."""
    worst = evaluation.expected_of_frames()[:3]
    if not worst:
        return
    forces = evaluation.metrics["expected_forces_rmse_mev_per_angstrom"]
    energy = evaluation.metrics["expected_energy_rmse_mev_per_atom"]
    named = ", ".join(f"{frame.source or frame.formula} ({error:.3g})" for error, frame in worst)
    yield (
        f"expected from the model's labels alone: {number(energy)} meV/atom, forces "
        f"{number(forces)} meV/Å; largest: {named}"
    )


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
    if len(types) < 2:
        return
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
