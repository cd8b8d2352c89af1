"""The tables of the page, as rows of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ase_ws.report.demo.verdicts import status_kind
from ase_ws.report.drawing.looks import Look
from ase_ws.report.drawing.text import kelvin, number, seconds, value
from ase_ws.results.demo import Check, Errors, Model

ERROR_COLUMNS = (
    ("energy_rmse_mev_per_atom", "Energy RMSE", "meV/atom"),
    ("energy_mae_mev_per_atom", "Energy MAE", "meV/atom"),
    ("forces_rmse_mev_per_angstrom", "Force RMSE", "meV/Å"),
    ("forces_mae_mev_per_angstrom", "Force MAE", "meV/Å"),
)


@dataclass(frozen=True)
class ErrorCell:
    """One error with its ratio to the supervised model."""

    text: str
    ratio: str
    best: bool
    bar_percent: float
    """Length of the bar under the number, relative to the worst of the column."""


@dataclass(frozen=True)
class ErrorRow:
    """The errors of one model."""

    model: Model
    look: Look
    cells: tuple[ErrorCell, ...]


def error_rows(models: Sequence[Model], styles: Sequence[Look]) -> tuple[ErrorRow, ...]:
    """Build the error table: one row for each model that was measured."""
    shown = [
        (model, look, model.errors)
        for model, look in zip(models, styles, strict=True)
        if model.errors is not None
    ]
    columns = []
    for name, _, _ in ERROR_COLUMNS:
        values = [getattr(errors, name) for _, _, errors in shown]
        columns.append(_error_column(values, _supervised_value(shown, name)))
    return tuple(
        ErrorRow(model, look, tuple(column[i] for column in columns))
        for i, (model, look, _) in enumerate(shown)
    )


def _supervised_value(
    shown: Sequence[tuple[Model, Look, Errors]], name: str
) -> tuple[int, float] | None:
    """Give the row and the value that ratios are relative to."""
    for i, (model, _, errors) in enumerate(shown):
        is_supervised = model.training is not None and model.training.weak in ("", "none")
        found = getattr(errors, name)
        if (model.key == "supervised" or (not model.key and is_supervised)) and found:
            return i, found
    return None


def _error_column(
    values: Sequence[float | None], reference: tuple[int, float] | None
) -> list[ErrorCell]:
    known = [v for v in values if v is not None]
    best, worst = min(known, default=None), max(known, default=0.0)
    cells = []
    for i, v in enumerate(values):
        ratio = ""
        if v is not None and reference is not None and i != reference[0]:
            ratio = f"×{_two_decimals(v / reference[1])}"
        bar = 100 * v / worst if v is not None and 0 < worst < float("inf") else 0.0
        is_best = v is not None and v == best and len(known) > 1
        cells.append(ErrorCell(number(v, keep_zeros=True), ratio, is_best, round(bar, 1)))
    return cells


def _two_decimals(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 10 else number(ratio)


@dataclass(frozen=True)
class CheckResult:
    """The worst value of one check in one run."""

    temperature: str
    worst: str
    status: str
    kind: str
    note: str


@dataclass(frozen=True)
class CheckRow:
    """One check over all models and temperatures."""

    name: str
    definition: str
    thresholds: tuple[tuple[str, str], ...]
    """(temperature or "" where it is the same for all, threshold)."""
    results: tuple[tuple[CheckResult, ...], ...]
    """For each model of the table, one result for each temperature."""


def checked_models(models: Sequence[Model], styles: Sequence[Look]) -> list[tuple[Model, Look]]:
    """Give the models that have any check to show, the columns of the table."""
    return [
        (model, look)
        for model, look in zip(models, styles, strict=True)
        if any(run.checks for run in model.stability)
    ]


def check_rows(models: Sequence[Model]) -> tuple[CheckRow, ...]:
    """Build the table of checks, in the order in which they first appear."""
    names = dict.fromkeys(
        check.name for model in models for run in model.stability for check in run.checks
    )
    return tuple(_check_row(name, models) for name in names)


def _check_row(name: str, models: Sequence[Model]) -> CheckRow:
    found = [
        (i, kelvin(run.temperature_K), check)
        for i, model in enumerate(models)
        for run in sorted(model.stability, key=lambda run: run.temperature_K or 0.0)
        for check in run.checks
        if check.name == name
    ]
    thresholds = dict.fromkeys(
        (temperature, _with_unit(check.threshold, check)) for _, temperature, check in found
    )
    texts = {text for _, text in thresholds}
    return CheckRow(
        name,
        next((check.definition for _, _, check in found if check.definition), ""),
        (("", texts.pop()),) if len(texts) == 1 else tuple(thresholds),
        tuple(
            tuple(_check_result(where, check) for j, where, check in found if i == j)
            for i in range(len(models))
        ),
    )


def _check_result(temperature: str, check: Check) -> CheckResult:
    return CheckResult(
        temperature,
        _with_unit(check.worst, check),
        check.status or "no status",
        status_kind(check.status),
        check.note,
    )


def _with_unit(anything: Any, check: Check) -> str:
    text = value(anything)
    bare = isinstance(anything, (int, float, Mapping)) and not isinstance(anything, bool)
    return f"{text} {check.unit}".strip() if bare else text


@dataclass(frozen=True)
class SettingRow:
    """One setting over all trained models."""

    name: str
    values: tuple[str, ...]
    differs: bool


def setting_rows(trained: Sequence[Model]) -> tuple[SettingRow, ...]:
    """Build the table of training settings; rows that differ between models come first."""
    flat = [_training_table(model) for model in trained]
    names = dict.fromkeys(name for table in flat for name in table)
    rows = []
    for name in names:
        values = tuple(table.get(name, "–") for table in flat)
        rows.append(SettingRow(name, values, len(set(values)) > 1))
    return tuple(sorted(rows, key=lambda row: not row.differs))


def _training_table(model: Model) -> dict[str, str]:
    training = model.training
    if training is None:
        return {}
    return {
        "weak losses": training.weak or "–",
        "steps": number(training.steps),
        "training time": seconds(training.seconds),
        **{name: value(item) for name, item in flatten(training.settings).items()},
    }


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested tables into one with dotted names."""
    flat: dict[str, Any] = {}
    for key, item in table.items():
        if isinstance(item, Mapping) and item:
            flat |= flatten(item, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = item
    return flat


def pairs(table: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Give a table as (name, text) for a definition list."""
    return [(name.replace("_", " "), value(item)) for name, item in flatten(table).items()]
