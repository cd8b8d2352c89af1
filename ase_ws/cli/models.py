"""`ase-ws info` and `ase-ws export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from ase_ws.cli.inputs import load
from ase_ws.cli.options import Head, ModelArgument
from ase_ws.cli.output import number, out_console, plain, say_json, say_path
from ase_ws.errors import UserError


def info(
    model: ModelArgument,
    head: Head = None,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """Show what is in a model file."""
    from ase.data import chemical_symbols

    from ase_ws.potentials.files import is_own, read_header

    potential, named = _loaded(model, head)
    header = read_header(model) if is_own(model) else {}
    elements = [chemical_symbols[z] for z in potential.atomic_numbers]
    e0 = dict(zip(elements, potential.e0.tolist(), strict=True))
    facts = {
        "file": str(model),
        "ours": is_own(model),
        "elements": elements,
        "r_max_angstrom": potential.r_max,
        "parameters": sum(p.numel() for p in potential.parameters()),
        "dtype": str(potential.dtype).removeprefix("torch."),
        "conservative": potential.conservative,
        "skin_safe": potential.skin_safe,
        "heads": list(potential.heads),
        "head": potential.head if named else None,
        "e0_ev": e0 if named else None,
        "kind": potential.kind,
        "network": potential.architecture.size,
        "architecture": potential.architecture.model_dump(mode="json"),
        "provenance": header.get("provenance", {}),
    }
    if as_json:
        say_json(json.dumps(facts, indent=1))
        return
    _print_info(facts)


def _loaded(model: Path, head: str | None) -> tuple[Any, bool]:
    """Load a model to look at; of several heads none needs to be the one to use."""
    from ase_ws.potentials.files import HeadError

    try:
        return load(model, quiet=True, head=head), True
    except HeadError as error:
        if head is not None:
            raise
        return load(model, quiet=True, head=error.heads[0]), False


def _heads(facts: dict[str, Any]) -> str:
    used = facts["head"]
    if used is None:
        return f"{', '.join(facts['heads'])} (none by default: name one with --head)"
    return ", ".join(f"{name} (in use)" if name == used else name for name in facts["heads"])


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
        **({"heads": _heads(facts)} if len(facts["heads"]) > 1 else {}),
        "E0 (eV)": ", ".join(f"{k} {v:.4f}" for k, v in (facts["e0_ev"] or {}).items()) + apart,
        "made": f"{provenance.get('created', '?')} by ase_ws {provenance.get('ase_ws', '?')}"
        if provenance
        else ("not recorded" if facts["ours"] else "upstream mace-torch"),
    }
    # What `finetune` writes; a file saved from Python may hold other facts, or none.
    if "n_train" in provenance:
        rows["trained on"] = (
            f"{provenance['n_train']} frames ({provenance.get('n_train_with_forces', '?')} with "
            f"forces): {', '.join(provenance.get('trained_on', []))}"
        )
        rows["validation"] = ", ".join(
            f"{k} {number(v)}" for k, v in provenance.get("validation", {}).items() if v is not None
        )
    notes = provenance.get("notes", {})
    if not isinstance(notes, dict):
        notes = {"notes": notes}
    rows.update({k: str(v) for k, v in notes.items()})
    if facts["e0_ev"] is None:
        rows.pop("E0 (eV)")
    for name, value in rows.items():
        table.add_row(f"[bold]{name}[/]", plain(value))
    out_console.print(table)


def export(
    model: ModelArgument,
    out: Annotated[Path, typer.Argument(help="File to write.")],
    format_: Annotated[
        Literal["mace"], typer.Option("--format", help="mace: upstream's .model file.")
    ] = ("mace"),
    overwrite: Annotated[bool, typer.Option(help="Replace OUT if it exists.")] = False,
) -> None:
    """Write a model, with all its heads, as a file that other programs load."""
    from ase_ws.potentials.mace.upstream import export_upstream

    if out.exists() and not overwrite:
        raise UserError(f"{out}: exists; use --overwrite or another name")
    export_upstream(_loaded(model, None)[0], out)
    say_path("written", out)
