"""Options that several commands share."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class Weak(str, Enum):
    """Which weak losses."""

    none = "none"
    pitc = "pitc"
    pisc = "pisc"
    both = "both"
    gradient = "gradient"
    auto = "auto"


class Optimizer(str, Enum):
    """How the weights are found."""

    adam = "adam"
    gauss_newton = "gauss-newton"


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


class Topology(str, Enum):
    """Whether the bonds of the start must hold."""

    fixed = "fixed"
    reactive = "reactive"


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
