"""`ase-ws info` and `ase-ws export`."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ase_ws.cli.options import ModelArgument
from ase_ws.cli.output import number, out_console, plain
from ase_ws.errors import UserError


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
    separable = provenance.get("e0", {}).get("separable", True)
    apart = "" if separable else "; fitted together: compare energies of equal composition only"
    rows = {
        "file": facts["file"],
        "elements": " ".join(facts["elements"]),
        "cutoff": f"{facts['r_max_angstrom']} Å",
        "network": f"{facts['network']}, {facts['parameters']:,} weights, {facts['dtype']}",
        "forces": "-dE/dr" if facts["conservative"] else "direct readout, not conservative",
        "E0 (eV)": ", ".join(f"{k} {v:.4f}" for k, v in facts["e0_ev"].items()) + apart,
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
            f"{k} {number(v)}" for k, v in provenance.get("validation", {}).items() if v is not None
        )
        rows.update({k: str(v) for k, v in provenance.get("notes", {}).items()})
    for name, value in rows.items():
        table.add_row(f"[bold]{name}[/]", plain(value))
    out_console.print(table)


class Format(str, Enum):
    """Formats to export to."""

    mace = "mace"


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
