"""What `results.json` of `ase-ws demo` holds: models, their errors, and how they do in MD."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any

from pydantic import BeforeValidator, ValidationError
from pydantic.dataclasses import dataclass

from ase_ws.errors import UserError
from ase_ws.results.record import CONFIG, Listed, Numbers, Record, Table, Text, only_finite
from ase_ws.results.report import StabilityReport, read_stability

SCHEMA_VERSION = 1
"""The newest version of `results.json` that this package reads and writes."""


@dataclass(frozen=True, config=CONFIG)
class HistoryEntry(Record):
    """One evaluation on the validation data during training."""

    step: float | None = None
    energy_rmse_mev_per_atom: float | None = None
    forces_rmse_mev_per_angstrom: float | None = None
    loss: float | None = None
    train_loss: float | None = None


@dataclass(frozen=True, config=CONFIG)
class Training(Record):
    """How a model was trained; absent for a model that was taken as it is."""

    steps: float | None = None
    seconds: float | None = None
    weak: Text = ""
    settings: Table = field(default_factory=dict)
    history: Listed[HistoryEntry] = field(default_factory=list)


@dataclass(frozen=True, config=CONFIG)
class Errors(Record):
    """Errors on the test frames."""

    n_frames: float | None = None
    energy_rmse_mev_per_atom: float | None = None
    energy_mae_mev_per_atom: float | None = None
    forces_rmse_mev_per_angstrom: float | None = None
    forces_mae_mev_per_angstrom: float | None = None


@dataclass(frozen=True, config=CONFIG)
class Parity(Record):
    """Energies in eV per molecule relative to the mean of the reference, forces in eV/Å."""

    energy_ref: Numbers = field(default_factory=list)
    energy_pred: Numbers = field(default_factory=list)
    forces_ref: Numbers = field(default_factory=list)
    forces_pred: Numbers = field(default_factory=list)


def _reports(value: Any) -> Any:
    """One report, or one for each temperature, as earlier versions have it."""
    listed = [value] if isinstance(value, Mapping) else value or []
    if not isinstance(listed, list):
        return listed  # for pydantic to name
    return [read_stability(item) if isinstance(item, Mapping) else item for item in listed]


@dataclass(frozen=True, config=CONFIG)
class Model(Record):
    """One model and all that was found out about it."""

    name: str
    key: Text = ""
    training: Training | None = None
    errors: Errors | None = None
    parity: Parity | None = None
    stability: Annotated[list[StabilityReport], BeforeValidator(_reports)] = field(
        default_factory=list
    )


@dataclass(frozen=True, config=CONFIG)
class DemoResults(Record):
    """The whole of `results.json`."""

    schema_version: int = SCHEMA_VERSION
    ase_ws_version: Text = ""
    command: Text = ""
    created: Text = ""
    wall_time_s: float | None = None
    versions: Table = field(default_factory=dict)
    system: Table = field(default_factory=dict)
    title: Text = ""
    data: Table = field(default_factory=dict)
    models: Listed[Model] = field(default_factory=list)
    findings: Listed[Text] = field(default_factory=list)


def read_results(results: Mapping[str, Any]) -> DemoResults:
    """Read a plain dictionary, as of `results.json`; what is absent gets its default.

    Raises
    ------
    UserError
        If a field has the wrong type, or the file is of a newer schema than this package knows.
    """
    try:
        parsed = DemoResults.from_dict(only_finite(results))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"results: field '{where}': {first['msg']}; write results.json with `ase-ws demo`."
        ) from error
    if parsed.schema_version > SCHEMA_VERSION:
        raise UserError(
            f"results: schema_version is {parsed.schema_version}, expected at most "
            f"{SCHEMA_VERSION}; update ase-ws to read this file."
        )
    return parsed
