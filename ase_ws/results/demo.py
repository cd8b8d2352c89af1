"""What `results.json` of `ase-ws demo` holds: names, units, and what may be absent.

Everything but the names of the models may be missing, `null` or NaN: a report of half a run is
better than none. NaN is read as "not available", so that it can pass for nothing further on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from ase_ws.errors import UserError
from ase_ws.results.adapt import check_with_threshold, event_in_ps, stability_entries
from ase_ws.results.fields import Number, Numbers, Part, Table, Text, none_is_empty_list

SCHEMA_VERSION = 1
"""The newest version of `results.json` that this package reads and writes."""


def _one_entry_a_temperature(value: Any) -> Any:
    if not isinstance(value, list):
        return [] if value is None else value
    entries: list[Any] = []
    for item in value:
        entries += stability_entries(item) if isinstance(item, Mapping) else [item]
    return entries


class HistoryEntry(Part):
    """One evaluation on the validation data during training."""

    step: Number = None
    energy_rmse_mev_per_atom: Number = None
    forces_rmse_mev_per_angstrom: Number = None
    loss: Number = None
    train_loss: Number = None


class Training(Part):
    """How a model was trained; absent for a model that was taken as it is."""

    steps: Number = None
    seconds: Number = None
    weak: Text = ""
    settings: Table = Field(default_factory=dict)
    history: Annotated[list[HistoryEntry], BeforeValidator(none_is_empty_list)] = Field(
        default_factory=list
    )


class Errors(Part):
    """Errors on the test frames."""

    n_frames: Number = None
    energy_rmse_mev_per_atom: Number = None
    energy_mae_mev_per_atom: Number = None
    forces_rmse_mev_per_angstrom: Number = None
    forces_mae_mev_per_angstrom: Number = None


class Parity(Part):
    """Energies in eV per molecule relative to the mean of the reference, forces in eV/Å."""

    energy_ref: Numbers = Field(default_factory=list)
    energy_pred: Numbers = Field(default_factory=list)
    forces_ref: Numbers = Field(default_factory=list)
    forces_pred: Numbers = Field(default_factory=list)


class Event(Part):
    """A failure or a warning of one check."""

    check: Text = ""
    message: Text = ""
    time_ps: Number = None
    replica: Number = None

    _fs_to_ps = model_validator(mode="before")(event_in_ps)


class Check(Part):
    """A check with its definition, its threshold and the worst that was seen."""

    name: Text = ""
    definition: Text = ""
    threshold: Any = None
    worst: Any = None
    unit: Text = ""
    status: Text = ""
    note: Text = ""

    _limits_to_threshold = model_validator(mode="before")(check_with_threshold)


class Trace(Part):
    """One replica in time."""

    replica: Number = None
    time_ps: Numbers = Field(default_factory=list)
    energy_drift_mev_per_atom: Numbers = Field(default_factory=list)
    temperature_K: Numbers = Field(default_factory=list)


class Stability(Part):
    """The verdict at one temperature."""

    temperature_K: Number = None
    verdict: Text = ""
    reason: Text = ""
    failures: Annotated[list[Event], BeforeValidator(none_is_empty_list)] = Field(
        default_factory=list
    )
    warnings: Annotated[list[Event], BeforeValidator(none_is_empty_list)] = Field(
        default_factory=list
    )
    total_ps: Number = None
    failed_replicas: Number = None
    failure_rate_per_ps: Number = None
    failure_rate_95_upper_per_ps: Number = None
    checks: Annotated[list[Check], BeforeValidator(none_is_empty_list)] = Field(
        default_factory=list
    )
    traces: Annotated[list[Trace], BeforeValidator(none_is_empty_list)] = Field(
        default_factory=list
    )

    @property
    def n_failures(self) -> int:
        """How many runs failed; each replica ends with its first failure."""
        listed = len(self.failures)
        known = self.failed_replicas
        # A failure before any replica (in the relaxation) is listed, but is no replica's.
        return listed if known is None or not math.isfinite(known) else max(int(known), listed)


class Model(Part):
    """One model and all that was found out about it."""

    name: str
    key: Text = ""
    training: Training | None = None
    errors: Errors | None = None
    parity: Parity | None = None
    stability: Annotated[list[Stability], BeforeValidator(_one_entry_a_temperature)] = Field(
        default_factory=list
    )


class DemoResults(Part):
    """The whole of `results.json`."""

    schema_version: int = SCHEMA_VERSION
    ase_ws_version: Text = ""
    command: Text = ""
    created: Text = ""
    wall_time_s: Number = None
    versions: Table = Field(default_factory=dict)
    system: Table = Field(default_factory=dict)
    title: Text = ""
    data: Table = Field(default_factory=dict)
    models: Annotated[list[Model], BeforeValidator(none_is_empty_list)] = Field(
        default_factory=list
    )
    findings: Annotated[list[Text], BeforeValidator(none_is_empty_list)] = Field(
        default_factory=list
    )


def read_results(results: Mapping[str, Any]) -> DemoResults:
    """Check a plain dictionary against the schema.

    Parameters
    ----------
    results : mapping
        As read from `results.json`.

    Returns
    -------
    DemoResults
        The same with defaults where something is absent.

    Raises
    ------
    UserError
        If a field has the wrong type, or the file is of a newer schema than this package knows.
    """
    try:
        parsed = DemoResults.model_validate(dict(results))
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
