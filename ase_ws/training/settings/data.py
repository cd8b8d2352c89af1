"""Which frames, and which of their labels."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, field_validator

from ase_ws.training.settings.section import Section


class DataConfig(Section):
    """Which files, and which keys hold the labels."""

    train: str | list[str] | None = Field(
        default=None,
        description="training frames: any file that ASE reads, HDF5 or LMDB, a pattern, or a list",
    )
    valid: str | list[str] | dict[str, str | list[str]] | None = Field(
        default=None,
        description="validation frames; default: a part of train; several sets by their names: "
        "each has its errors in metrics.csv, all together choose the model",
    )
    valid_fraction: float = Field(
        default=0.1, gt=0, lt=1, description="held out where valid is not given"
    )
    labels: Literal["energy", "energy+forces"] = Field(
        default="energy+forces", description="'energy' ignores forces even where a frame has them"
    )
    energy_key: str = "energy"
    forces_key: str | None = Field(
        default=None, description="default: of the energies' level, REF_forces beside REF_energy"
    )
    stress_key: str | None = Field(
        default=None,
        description="default as forces_key; a virial in eV where the key says 'virial'",
    )
    head: str | None = Field(
        default=None,
        description="of frames that say of which head they are, those to take; default model.head",
    )
    heads: list[str] = Field(
        default=[],
        description="levels of theory, as frames name them, that are trained together: a readout "
        "each, all else is shared; the first is the head of the model that is written",
    )
    config_type_weights: dict[str, float] = Field(
        default={},
        description="weight of all frames of a config_type, times those that frames bring",
    )
    e0s: Literal["fit", "atoms", "keep"] | dict[str, float] = Field(
        default="fit",
        description="energies of the atoms in eV by symbol; or fit: isolated atoms of the training "
        "file where there are all and they suit the base model, else least squares in float64; "
        "atoms: insist on them; keep: those of the base model",
    )

    @field_validator("config_type_weights")
    @classmethod
    def _weights_are_numbers(cls, value: dict[str, float]) -> dict[str, float]:
        for name, weight in value.items():
            if not 0.0 <= weight < math.inf:
                raise ValueError(f"weight of '{name:.40}' is {weight}: expected 0 or more")
        return value


class ReplayConfig(Section):
    """Frames of the base model that are trained beside the new ones, so that it forgets less."""

    train: str | list[str] | None = Field(
        default=None, description="frames that the base model knows, or shall go on to know"
    )
    labels: Literal["base", "file"] = Field(
        default="base",
        description="base: what the base model says of them, energies and forces (no labels are "
        "needed); file: their own, at the base model's level of theory",
    )
    head: str | None = Field(
        default=None,
        description="head that they train; default: that of the new frames, whose reference "
        "energies they get; another one is added to the model with the base model's",
    )
    weight: float = Field(
        default=0.03,
        gt=0,
        description="of their loss beside that of new frames: the more, the less is forgotten "
        "and learned",
    )
    batch_size: int | None = Field(
        default=None, gt=0, description="structures a step; default as of the new frames"
    )
