"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Weak = Literal["none", "pitc", "pisc", "both", "gradient", "auto"]
Optimizer = Literal["adam", "schedule-free", "gauss-newton"]
Forces = Literal["conservative", "direct"]
Labels = Literal["energy", "energy+forces"]
Thermostat = Literal["bussi", "langevin", "nose-hoover"]
Topology = Literal["fixed", "reactive"]
Ensemble = Literal["nve", "nvt", "npt"]

ModelArgument = Annotated[
    Path, typer.Argument(help="Model file: .safetensors of this package, or a mace-torch .model.")
]
StructureArgument = Annotated[
    Path, typer.Argument(help="Structure to start from (any file that ASE reads; last frame).")
]
EnergyKey = Annotated[str | None, typer.Option(help="Key of the energy labels. Default 'energy'.")]
ForcesKey = Annotated[
    str | None,
    typer.Option(
        help="Key of the force labels. Default: of the energies' level, 'REF_forces' beside "
        "'REF_energy', else 'forces'."
    ),
]
StressKey = Annotated[
    str | None,
    typer.Option(help="Key of the stress labels, likewise; a virial in eV where it says 'virial'."),
]
Dtype = Annotated[str | None, typer.Option(help="float32 or float64; default: as saved.")]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads; default 1 for structures of few atoms.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
Head = Annotated[
    str | None,
    typer.Option(help="Head of a multi-head model; `ase-ws info MODEL` lists them."),
]
