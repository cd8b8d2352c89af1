"""Errors of a potential on labelled frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

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
from ase_ws.training.predict import FramePrediction, predict_frames
from ase_ws.typing import GraphBatch, Potential, Prediction

#: Errors of energies in meV/atom from which on one looks for a constant per element.
ANOTHER_LEVEL = 100.0
#: Errors that are told of each config_type.
OF_A_TYPE = ("n_frames", "energy_rmse_mev_per_atom", "forces_rmse_mev_per_angstrom")


@dataclass
class Errors:
    """Collects errors batch by batch.

    Energies count per atom and structure, forces per component; what has no label is left out.
    """

    energy: list[np.ndarray] = field(default_factory=list)
    forces: list[np.ndarray] = field(default_factory=list)
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


class Points(NamedTuple):
    """Numbers that frames are labelled with, and what a potential says of them.

    Attributes
    ----------
    reference, predicted : ndarray, (n,)
    config_type : ndarray, (n,), str
        Of the frame of each.
    """

    reference: np.ndarray
    predicted: np.ndarray
    config_type: np.ndarray

    @property
    def error(self) -> np.ndarray:
        """Prediction minus reference."""
        return self.predicted - self.reference


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Errors on frames and, for parity plots, the values themselves.

    Attributes
    ----------
    frames : sequence of Frame
        The structures that are compared.
    predictions : sequence of FramePrediction
        One for each.
    """

    frames: Sequence[Frame]
    predictions: Sequence[FramePrediction]

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """See `Errors.metrics`."""
        own = [(p.forces, p.energy_forces) for p in self.predictions]
        return (
            Errors(
                energy=[self.points("energy").error / [len(z) for z in self._numbers]],
                forces=[self.points("forces").error],
                consistency=[(f - g).ravel() for f, g in own if f is not None and g is not None],
                stress=[self.points("stress").error],
                n_frames=len(self.frames),
            ).metrics()
            | self._expected()
        )

    def _expected(self) -> dict[str, float | None]:
        """Give the errors that the labels of the model let expect, where it knows them."""
        found = [p for p in self.predictions if p.forces_spread is not None]
        if not found:
            return {}
        atoms = np.concatenate([p.forces_spread for p in found if p.forces_spread is not None])
        sizes = np.array([0 if p.forces_spread is None else len(p.forces_spread) for p in found])
        energies = np.array([p.energy_spread for p in found]) / sizes
        # NaN is no number that a program can read.
        return {
            name: 1e3 * float(np.sqrt(value)) if np.isfinite(value) else None
            for name, value in {
                "expected_energy_rmse_mev_per_atom": np.mean(energies**2),
                "expected_forces_rmse_mev_per_angstrom": np.mean(atoms**2) / 3,
            }.items()
        }

    def expected_of_frames(self) -> list[tuple[float, Frame]]:
        """Give each frame and its expected force error in meV/Å, largest first."""
        found = [
            (1e3 * float(np.sqrt(np.mean(p.forces_spread**2) / 3)), frame)
            for p, frame in zip(self.predictions, self.frames, strict=True)
            if p.forces_spread is not None
        ]
        return sorted(found, key=lambda pair: -pair[0])

    @property
    def energy_ref(self) -> np.ndarray:
        """Energies of the structures that have one, eV."""
        return self.points("energy").reference

    @property
    def energy_pred(self) -> np.ndarray:
        """What was predicted for them, eV."""
        return self.points("energy").predicted

    @property
    def forces_ref(self) -> np.ndarray:
        """Components of the forces of structures that have them, eV/Å."""
        return self.points("forces").reference

    @property
    def forces_pred(self) -> np.ndarray:
        """What was predicted for them, eV/Å."""
        return self.points("forces").predicted

    def points(self, label: str) -> Points:
        """Give every "energy" (eV), component of "forces" (eV/Å) or "stress" (eV/Å³) there is."""
        pairs = zip(self.frames, self.predictions, strict=True)
        found = [(getattr(f, label), getattr(p, label), f.config_type) for f, p in pairs]
        there = [(r, p, name) for r, p, name in found if r is not None and p is not None]
        return Points(
            _joined([np.ravel(reference) for reference, _, _ in there]),
            _joined([np.ravel(predicted) for _, predicted, _ in there]),
            np.repeat([name for *_, name in there], [np.size(r) for r, *_ in there]),
        )

    def energies_per_atom(self) -> Points:
        """Energies in eV/atom above those of the elements, as fitted to the labels.

        Where the prediction is of another level (`energy_rmse_of_another_level`), its own are taken
        off it.
        """
        reference, predicted, types = points = self.points("energy")
        if not len(reference):
            return points
        elements = elements_of(self._numbers)
        counts = composition(self._numbers, elements)

        def of_elements(energies: np.ndarray) -> np.ndarray:
            return counts @ fit_reference_energies(self._numbers, energies, elements)

        base = of_elements(reference)
        other = self.energy_rmse_of_another_level() is not None
        own = of_elements(predicted) if other else base
        n_atoms = counts.sum(axis=1)
        return Points((reference - base) / n_atoms, (predicted - own) / n_atoms, types)

    @property
    def _numbers(self) -> list[np.ndarray]:
        """Atomic numbers of each frame with an energy."""
        return [f.numbers for f in self.frames if f.energy is not None]

    def by_config_type(self) -> dict[str, dict[str, Any]]:
        """Errors of each config_type that the frames name, as in `metrics`: energy and forces."""
        found: dict[str, dict[str, Any]] = {}
        pairs = list(zip(self.frames, self.predictions, strict=True))
        for name in sorted({frame.config_type for frame in self.frames}):
            frames, predictions = zip(*(p for p in pairs if p[0].config_type == name), strict=True)
            metrics = Evaluation(frames, predictions).metrics
            found[name] = {key: metrics[key] for key in OF_A_TYPE}
        return found

    def energy_rmse_of_another_level(self) -> float | None:
        """RMSE in meV/atom once a constant for each element is fitted, where that explains it.

        None where it does not: the errors are small, or a fit leaves more than a tenth of them.
        """
        numbers = self._numbers
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
    error_bars: bool = False,
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
    error_bars : bool
        Say what errors are to be expected, too, of a potential that carries a posterior; then
        labels are not needed.
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
    labelled = any(f.energy is not None or f.forces is not None for f in frames)
    if not labelled and not error_bars:
        raise UserError("no frame has an energy or forces label: there is nothing to compare with")
    check_elements(frames, potential.atomic_numbers)
    found = predict_frames(
        potential,
        frames,
        error_bars=error_bars,
        batch_size=batch_size,
        device=device,
        progress=progress,
    )
    return Evaluation(frames, found)
