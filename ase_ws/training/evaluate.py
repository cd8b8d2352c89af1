"""Errors of a potential on labelled frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ase_ws.errors import UserError
from ase_ws.frames import (
    Frame,
    check_elements,
    composition,
    elements_of,
    fit_reference_energies,
)
from ase_ws.frames.summary import separate_isolated_atoms
from ase_ws.graphs import collate, sum_by_graph
from ase_ws.potentials.derivatives import energy_forces
from ase_ws.typing import GraphBatch, Potential, Prediction

#: Errors of energies in meV/atom from which on one looks for a constant per element.
ANOTHER_LEVEL = 100.0


@dataclass
class Errors:
    """Collects errors batch by batch.

    Energies count per atom and structure, forces per component; what has no label is left out.
    """

    energy: list[np.ndarray] = field(default_factory=list)
    forces: list[np.ndarray] = field(default_factory=list)
    forces_per_frame: list[float] = field(default_factory=list)
    consistency: list[np.ndarray] = field(default_factory=list)
    stress: list[np.ndarray] = field(default_factory=list)
    n_frames: int = 0

    def add(
        self, batch: GraphBatch, prediction: Prediction, energy_forces: Tensor | None = None
    ) -> None:
        """Add a batch's errors in eV/atom and eV/Å.

        `energy_forces` (n_atoms, 3) is -dE/dr, to hold direct forces against.
        """
        labels = batch.labels
        if labels is None:
            raise ValueError("errors need a batch with labels")
        self.n_frames += batch.n_graphs
        has = labels.has_energy
        error = (prediction.energy[has] - labels.energy[has]) / batch.n_atoms[has]
        self.energy.append(error.detach().cpu().numpy())
        if prediction.forces is not None and bool(labels.has_forces.any()):
            atoms = labels.has_forces[batch.batch]
            difference = (prediction.forces[atoms] - labels.forces[atoms]).detach().cpu().double()
            self.forces.append(difference.numpy().ravel())
        if prediction.stress is not None and bool(labels.has_stress.any()):
            difference = (prediction.stress - labels.stress)[labels.has_stress]
            self.stress.append(difference.detach().cpu().double().numpy().ravel())
        if prediction.forces is not None and energy_forces is not None:
            difference = (prediction.forces - energy_forces).detach().cpu().double()
            self.consistency.append(difference.numpy().ravel())

    def extend(self, other: Errors) -> None:
        """Add what another one collected."""
        for name in ("energy", "forces", "consistency", "stress"):
            getattr(self, name).extend(getattr(other, name))
        self.n_frames += other.n_frames

    def metrics(self) -> dict[str, Any]:
        """Give what `ase-ws evaluate` promises: meV/atom, meV/Å, None where labels are absent.

        Of stress (meV/Å³) only where there are labels.
        """
        stress = _rmse(_joined(self.stress))
        energy, forces = _joined(self.energy), _joined(self.forces)
        consistency = _joined(self.consistency)
        return {
            "n_frames": self.n_frames,
            "energy_rmse_mev_per_atom": _rmse(energy),
            "energy_mae_mev_per_atom": _mae(energy),
            "forces_rmse_mev_per_angstrom": _rmse(forces),
            "forces_mae_mev_per_angstrom": _mae(forces),
            "force_consistency_rmse_mev_per_angstrom": _rmse(consistency),
            **({} if stress is None else {"stress_rmse_mev_per_angstrom3": stress}),
        }


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.empty(0)


def _rmse(errors: np.ndarray) -> float | None:
    return 1e3 * float(np.sqrt(np.mean(errors**2))) if errors.size else None


def _mae(errors: np.ndarray) -> float | None:
    return 1e3 * float(np.mean(np.abs(errors))) if errors.size else None


@dataclass
class Evaluation:
    """Errors and, for parity plots, the values themselves.

    Attributes
    ----------
    metrics : dict
        See `Errors.metrics`.
    energy_ref, energy_pred : ndarray, (n_labelled,), eV
        Total energies of the structures with an energy label.
    forces_ref, forces_pred : ndarray, (n_components,), eV/Å
    frames : sequence of Frame
        The structures that were evaluated.
    """

    metrics: dict[str, Any]
    energy_ref: np.ndarray
    energy_pred: np.ndarray
    forces_ref: np.ndarray
    forces_pred: np.ndarray
    frames: Sequence[Frame] = ()

    def by_config_type(self) -> dict[str, dict[str, Any]]:
        """Errors of each config_type that the frames name, as in `metrics`: energy and forces."""
        found: dict[str, dict[str, Any]] = {}
        energy, forces = self.energy_pred - self.energy_ref, self.forces_pred - self.forces_ref
        parts: dict[str, tuple[list[np.ndarray], list[np.ndarray]]] = {}
        at, atom = 0, 0
        for frame in self.frames:
            mine = parts.setdefault(frame.config_type, ([], []))
            n = len(frame.numbers)
            if frame.energy is not None:
                mine[0].append(energy[at : at + 1] / n)
                at += 1
            if frame.forces is not None:
                mine[1].append(forces[atom : atom + 3 * n])
                atom += 3 * n
        for name, (energies, components) in sorted(parts.items()):
            found[name] = {
                "n_frames": sum(f.config_type == name for f in self.frames),
                "energy_rmse_mev_per_atom": _rmse(_joined(energies)),
                "forces_rmse_mev_per_angstrom": _rmse(_joined(components)),
            }
        return found

    def energy_rmse_of_another_level(self) -> float | None:
        """RMSE in meV/atom once a constant for each element is fitted, where that explains it.

        None where it does not: the errors are small, or a fit leaves more than a tenth of them.
        """
        numbers = [f.numbers for f in self.frames if f.energy is not None]
        whole = self.metrics["energy_rmse_mev_per_atom"]
        elements = elements_of(numbers)
        if whole is None or whole < ANOTHER_LEVEL or len(numbers) < len(elements) + 2:
            return None
        missing = self.energy_ref - self.energy_pred
        counts = composition(numbers, elements)
        missing = missing - counts @ fit_reference_energies(numbers, missing, elements)
        rest = _rmse(missing / counts.sum(axis=1))
        return rest if rest is not None and rest < whole / 10 else None


def evaluate_potential(
    potential: Potential,
    frames: Sequence[Frame],
    *,
    batch_size: int = 32,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Evaluate a potential on labelled frames.

    Parameters
    ----------
    potential : Potential
    frames : sequence of Frame
        Frames without any label are an error: nothing could be compared. Isolated atoms beside
        structures are left out: their energies are reference energies.
    batch_size : int
    device : str
    progress : callable, optional
        Called with (frames done, all frames).

    Returns
    -------
    Evaluation

    Raises
    ------
    UserError
        No labels at all, an element that the potential does not know, or a frame that it answers
        with NaN (named).
    """
    structures, lone = separate_isolated_atoms(frames, potential.r_max)
    frames = structures or lone
    if not any(f.energy is not None or f.forces is not None for f in frames):
        raise UserError("no frame has an energy or forces label: there is nothing to compare with")
    check_elements(frames, potential.atomic_numbers)
    dtype = getattr(potential, "dtype", torch.float64)
    errors = Errors()
    energy, forces = ([], []), ([], [])
    with torch.no_grad():
        for batch in batches(frames, potential.r_max, batch_size, dtype):
            moved = batch.to(device, dtype)
            assert moved.labels is not None
            # Direct forces are looked at even without labels: they can be held against -dE/dr.
            direct = not potential.conservative
            prediction = potential(
                moved,
                forces=direct or bool(moved.labels.has_forces.any()),
                stress=bool(moved.labels.has_stress.any()),
            )
            require_finite_predictions(
                frames[errors.n_frames :], finite_by_graph(moved, prediction)
            )
            errors.add(moved, prediction, energy_forces(potential, moved) if direct else None)
            has = moved.labels.has_energy
            energy[0].append(moved.labels.energy[has].cpu().numpy())
            energy[1].append(prediction.energy[has].cpu().numpy())
            if prediction.forces is not None:
                atoms = moved.labels.has_forces[moved.batch]
                forces[0].append(moved.labels.forces[atoms].cpu().double().numpy().ravel())
                forces[1].append(prediction.forces[atoms].cpu().double().numpy().ravel())
            if progress is not None:
                progress(errors.n_frames, len(frames))
    return Evaluation(
        errors.metrics(),
        *(_joined(part) for part in energy),
        *(_joined(part) for part in forces),
        frames=frames,
    )


def finite_by_graph(batch: GraphBatch, prediction: Prediction) -> np.ndarray:
    """Tell which structures have finite energies and forces, (n_graphs,), bool."""
    finite = torch.isfinite(prediction.energy)
    if prediction.forces is not None:
        bad = (~torch.isfinite(prediction.forces)).any(dim=1)
        finite = finite & (sum_by_graph(bad.to(batch.positions.dtype), batch) == 0)
    return finite.cpu().numpy()


def require_finite_predictions(frames: Sequence[Frame], finite: np.ndarray) -> None:
    """Raise a `UserError` that names the first frame that the model answered with NaN.

    Parameters
    ----------
    frames : sequence of Frame
    finite : ndarray, (n,), bool
        Of the first n of them.
    """
    for frame, fine in zip(frames, finite, strict=False):
        if not fine:
            raise UserError(
                f"{frame.source or 'a frame'} ({frame.formula}): the model's energy or forces are "
                "NaN or infinite; look at the structure, or at the model on another one"
            )


def batches(
    frames: Sequence[Frame], cutoff: float, batch_size: int, dtype: torch.dtype
) -> Iterable[GraphBatch]:
    """Graphs of the frames, in order, `batch_size` at a time, to be evaluated in `dtype`."""
    for start in range(0, len(frames), batch_size):
        chunk = frames[start : start + batch_size]
        yield collate([f.graph(cutoff, start + k, dtype) for k, f in enumerate(chunk)])
