"""Which figures the page shows, with their alternative texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ase_ws.report.demo import plots
from ase_ws.report.drawing.lines import Line, finite_line
from ase_ws.report.drawing.looks import Look
from ase_ws.report.drawing.panels import Drawer, Panel
from ase_ws.report.drawing.parity import parity_limits
from ase_ws.report.drawing.text import number
from ase_ws.results.demo import HistoryEntry, Model, Parity


@dataclass(frozen=True)
class ParityRow:
    """The parity panels of one model."""

    model: Model
    look: Look
    energy: Panel
    forces: Panel


def learning_panels(
    models: Sequence[Model], styles: Sequence[Look], drawer: Drawer
) -> tuple[Panel, ...]:
    """Draw energy error, force error and loss against the step for all trained models."""
    trained = [
        (model, look, model.training.history)
        for model, look in zip(models, styles, strict=True)
        if model.training is not None and model.training.history
    ]
    if not trained:
        return ()

    def draw(title: str, ylabel: str, empty: str, *fields: str) -> Panel:
        lines: list[Line] = []
        told: list[str] = []
        for model, look, history in trained:
            curves = [_curve(history, name, look, name == "train_loss") for name in fields]
            lines += [curve for curve in curves if len(curve.x)]
            told += [f"{model.name} {_from_to(curves[0])}"] if len(curves[0].x) else []
        if not lines:
            return Panel(title, None, empty)
        figure = plots.learning_curve(lines, ylabel)
        alt = f"{title} against the training step, logarithmic. {'; '.join(told)}."
        return drawer.panel(title, figure, alt)

    return (
        draw(
            "Energy error, validation",
            "energy RMSE (meV/atom)",
            "No energy error was recorded during training.",
            "energy_rmse_mev_per_atom",
        ),
        draw(
            "Force error, validation",
            "force RMSE (meV/Å)",
            "The validation data have no forces, so the force error could not be followed during "
            "training. It is measured on the test data only.",
            "forces_rmse_mev_per_angstrom",
        ),
        draw(
            "Loss",
            "loss",
            "No loss was recorded during training.",
            "loss",
            "train_loss",
        ),
    )


def _curve(history: Sequence[HistoryEntry], name: str, look: Look, secondary: bool) -> Line:
    steps = [entry.step for entry in history]
    values = [getattr(entry, name) for entry in history]
    return finite_line(steps, values, look, secondary=secondary)


def _from_to(line: Line) -> str:
    return f"goes from {number(line.y[0])} to {number(line.y[-1])}"


def parity_rows(
    models: Sequence[Model], styles: Sequence[Look], drawer: Drawer
) -> tuple[ParityRow, ...]:
    """Draw energy and force parity for each model on axes common to all models."""
    shown = [
        (model, look)
        for model, look in zip(models, styles, strict=True)
        if model.parity is not None
    ]
    if not shown:
        return ()
    energies = _parity_panels(
        shown,
        drawer,
        title="Energy",
        quantity="energy (eV)",
        empty="The test data have no energies.",
        points_of=_energy_points,
    )
    forces = _parity_panels(
        shown,
        drawer,
        title="Forces",
        quantity="force (eV/Å)",
        empty="The test data have no forces.",
        points_of=_force_points,
    )
    return tuple(
        ParityRow(model, look, energy, force)
        for (model, look), energy, force in zip(shown, energies, forces, strict=True)
    )


@dataclass(frozen=True)
class _Points:
    reference: np.ndarray
    predicted: np.ndarray
    rmse: str


def _energy_points(model: Model) -> _Points:
    parity = model.parity or Parity()
    line = _pairs(parity.energy_ref, parity.energy_pred)
    known = model.errors.energy_rmse_mev_per_atom if model.errors else None
    if known is not None:
        return _Points(*line, f"RMSE {number(known)} meV/atom")
    return _Points(*line, f"RMSE {number(_rmse(*line) * 1000)} meV per molecule")


def _force_points(model: Model) -> _Points:
    parity = model.parity or Parity()
    line = _pairs(parity.forces_ref, parity.forces_pred)
    known = model.errors.forces_rmse_mev_per_angstrom if model.errors else None
    known = _rmse(*line) * 1000 if known is None else known
    return _Points(*line, f"RMSE {number(known)} meV/Å")


def _pairs(
    reference: Sequence[float | None], predicted: Sequence[float | None]
) -> tuple[np.ndarray, np.ndarray]:
    line = finite_line(reference, predicted, Look("", (), ""))
    return line.x, line.y


def _rmse(reference: np.ndarray, predicted: np.ndarray) -> float:
    return float(np.sqrt(np.mean((predicted - reference) ** 2))) if len(reference) else np.nan


def _parity_panels(
    shown: Sequence[tuple[Model, Look]],
    drawer: Drawer,
    *,
    title: str,
    quantity: str,
    empty: str,
    points_of: Callable[[Model], _Points],
) -> list[Panel]:
    """Draw one panel for each model; common axes are what makes them comparable."""
    every = [points_of(model) for model, _ in shown]
    references = np.concatenate([points.reference for points in every])
    limits = parity_limits(references, [points.predicted for points in every])
    panels = []
    for (model, look), points in zip(shown, every, strict=True):
        if not len(points.reference):
            panels.append(Panel(title, None, empty))
            continue
        figure = plots.parity(
            points.reference,
            points.predicted,
            look,
            limits=limits,
            quantity=quantity,
            note=points.rmse,
        )
        alt = (
            f"Parity of {model.name}: predicted against reference {quantity}, "
            f"{len(points.reference)} points, {points.rmse}."
        )
        panels.append(drawer.panel(title, figure, alt))
    return panels
