"""Which figures the page shows, with their alternative texts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from ase_ws.report.demo import plots
from ase_ws.report.drawing.lines import Failure, Line, finite_line
from ase_ws.report.drawing.looks import Look
from ase_ws.report.drawing.svg import inline_svg
from ase_ws.report.drawing.text import count, joined, kelvin, number
from ase_ws.results.demo import HistoryEntry, Model, Parity, Stability


@dataclass(frozen=True)
class Panel:
    """One drawn figure, or the words that stand where there is nothing to draw."""

    title: str
    svg: Markup | None
    empty: str = ""


@dataclass
class Drawer:
    """Draws figures with names that are unique on one page."""

    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def panel(self, title: str, figure: Figure, alt: str) -> Panel:
        """Draw one figure."""
        return Panel(title, inline_svg(figure, alt, f"fig{next(self._numbers)}"))


@dataclass(frozen=True)
class ParityRow:
    """The parity panels of one model."""

    model: Model
    look: Look
    energy: Panel
    forces: Panel


@dataclass(frozen=True)
class StabilityRow:
    """The panels of all models at one temperature."""

    temperature: str
    runs: tuple[tuple[Model, Look, Stability], ...]
    drift: Panel
    heat: Panel
    any_failure: bool


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
    limits = plots.parity_limits(references, [points.predicted for points in every])
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


def stability_rows(
    models: Sequence[Model], styles: Sequence[Look], drawer: Drawer
) -> tuple[StabilityRow, ...]:
    """Draw energy drift and temperature of all models, one row for each temperature."""
    by_temperature: dict[float | None, list[tuple[Model, Look, Stability]]] = {}
    for model, look in zip(models, styles, strict=True):
        for run in model.stability:
            by_temperature.setdefault(run.temperature_K, []).append((model, look, run))
    ordered = sorted(by_temperature.items(), key=lambda item: item[0] or 0.0)
    return tuple(_stability_row(target, runs, drawer) for target, runs in ordered)


def _stability_row(
    target: float | None, runs: Sequence[tuple[Model, Look, Stability]], drawer: Drawer
) -> StabilityRow:
    marks = [
        Failure(event.time_ps, look)
        for _, look, run in runs
        for event in run.failures
        if event.time_ps is not None and np.isfinite(event.time_ps)
    ]
    drift, drift_told = _trace_lines(runs, "energy_drift_mev_per_atom", "meV/atom")
    heat, heat_told = _trace_lines(runs, "temperature_K", "K")
    where = f"at {kelvin(target)}"
    empty = "No trace was recorded."
    return StabilityRow(
        kelvin(target),
        tuple(runs),
        drawer.panel(
            "Energy drift",
            plots.energy_drift(drift, marks),
            f"Energy drift {where} against time, one line a replica. {drift_told}",
        )
        if drift
        else Panel("Energy drift", None, empty),
        drawer.panel(
            "Temperature",
            plots.temperature(heat, marks, target),
            f"Temperature {where} against time, one line a replica. {heat_told}",
        )
        if heat
        else Panel("Temperature", None, empty),
        bool(marks),
    )


def _trace_lines(
    runs: Sequence[tuple[Model, Look, Stability]], name: str, unit: str
) -> tuple[list[Line], str]:
    """Give the lines of one quantity, and their range in words."""
    lines: list[Line] = []
    told: list[str] = []
    for model, look, run in runs:
        own = [finite_line(trace.time_ps, getattr(trace, name), look) for trace in run.traces]
        own = [line for line in own if len(line.x)]
        if own:
            values = np.concatenate([line.y for line in own])
            told.append(
                f"{model.name}: {number(values.min())} to {number(values.max())} {unit}, "
                f"{count(run.n_failures, 'failure')}"
            )
        lines += own
    return lines, f"{joined(told)}."
