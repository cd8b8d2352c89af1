"""The tables of the page, as rows of text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ase_ws.report.drawing.looks import Look
from ase_ws.report.drawing.settings import SettingRow, flatten, setting_rows
from ase_ws.report.drawing.text import number, seconds, value
from ase_ws.results.demo import Errors, Model

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


def training_rows(trained: Sequence[Model]) -> list[SettingRow]:
    """Build the table of training settings."""
    return setting_rows([_training_table(model) for model in trained])


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
