"""The YAML file of a campaign."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from ase_ws.errors import UserError
from ase_ws.files.mistakes import first_mistake
from ase_ws.files.yaml import read_yaml
from ase_ws.results.settings import StabilitySettings

#: Names become names of folders.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def split_selection(source: str) -> tuple[str, str]:
    """Split "FILE@index", as ASE reads it, into the file and the index ("" where there is none)."""
    file, separator, selection = source.rpartition("@")
    if separator and re.fullmatch(r"-?\d*(:-?\d*){0,2}", selection) and selection:
        return file, selection
    return source, ""


def _named(value: Any) -> Any:
    """Give the items of a list the stems of their files as names."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        return value
    named: dict[str, str] = {}
    for item in value:
        if not isinstance(item, str):
            raise ValueError(f"expected names of files, not {item!r}")
        file, selection = split_selection(item)
        # Of a slice each frame gets its number later on.
        name = Path(file).stem + (f"_{selection}" if selection and ":" not in selection else "")
        if name in named:
            raise ValueError(f"two files are called '{name}': give them names, as NAME: FILE")
        named[name] = item
    return named


Files = Annotated[dict[str, str], BeforeValidator(_named), Field(min_length=1)]


class CampaignConfig(StabilitySettings):
    """What to run on what."""

    models: Files = Field(
        description="Model files: NAME: FILE, or a list of files, which are then called by their "
        "stems."
    )
    heads: dict[str, str] = Field(
        {},
        description="Heads of multi-head models: NAME: HEAD. One file may stand under several "
        "names, each with another head.",
    )
    structures: Files = Field(
        description="Structure files, likewise. FILE stands for its last structure, FILE@3 for one "
        "of several and FILE@: or FILE@0:10 for each of them, as NAME_0, NAME_1, ..."
    )
    compare: str | None = Field(
        None, description="Name of the model that the others are compared with, run by run."
    )
    calibrate: str | None = Field(
        None, description="Training set for the thresholds, see `Calibration`."
    )
    dtype: Literal["float32", "float64"] | None = Field(None, description="Default: as saved.")
    chunk: int | None = Field(
        None,
        ge=1,
        description="Replicas in one unit of work; default as suits the number of workers. The "
        "results do not depend on it, but for rounding.",
    )

    @field_validator("models", "structures")
    @classmethod
    def _names_are_folders(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"the name '{name}' becomes a folder: use letters, digits and . _ + -"
                )
        return value

    @model_validator(mode="after")
    def _names_are_models(self) -> CampaignConfig:
        known = ", ".join(self.models)
        if self.compare is not None and self.compare not in self.models:
            raise ValueError(f"compare: '{self.compare}' is none of the models ({known})")
        for name in self.heads:
            if name not in self.models:
                raise ValueError(f"heads: '{name}' is none of the models ({known})")
        return self

    def relative_to(self, folder: Path) -> CampaignConfig:
        """Read relative paths as seen from this folder."""

        def resolved(files: Mapping[str, str]) -> dict[str, str]:
            return {name: str(folder / file) for name, file in files.items()}

        calibrate = None if self.calibrate is None else str(folder / self.calibrate)
        return self.model_copy(
            update={
                "models": resolved(self.models),
                "structures": resolved(self.structures),
                "calibrate": calibrate,
            }
        )


def read_config(path: str | os.PathLike[str]) -> CampaignConfig:
    """Read a campaign from YAML; paths in it are relative to the file.

    Raises
    ------
    UserError
        Names the file and the field, what it was and what was expected.
    """
    path = Path(path)
    tree = read_yaml(path, what="campaign file")
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected fields such as 'models:', 'structures:' and 'ps:'")
    return make_config(tree, source=str(path)).relative_to(path.absolute().parent)


def make_config(tree: Mapping[Any, Any], *, source: str = "campaign") -> CampaignConfig:
    """Check the fields of a campaign; `source` is named in the error.

    Raises
    ------
    UserError
        Names the first field that is wrong.
    """
    try:
        return CampaignConfig.model_validate(dict(tree))
    except ValidationError as error:
        field, message = first_mistake(error, CampaignConfig)
        where = f"{source}, field '{field}'" if field else source
        raise UserError(f"{where}: {message}") from error
