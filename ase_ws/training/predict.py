"""What a potential says of frames, and the file that it is written to."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ase.io
import numpy as np
import torch
from ase import Atoms
from ase.io.extxyz import save_calc_results
from ase.io.formats import open_with_compression
from torch import Tensor

from ase_ws.errors import UserError
from ase_ws.files.writing import atomic_path
from ase_ws.frames import Frame
from ase_ws.frames.labels import STANDARD
from ase_ws.graphs import collate, sum_by_graph
from ase_ws.potentials.base import PotentialModule
from ase_ws.potentials.derivatives import energy_forces
from ase_ws.potentials.error_bars import SPREADS, ErrorBars
from ase_ws.typing import GraphBatch, Potential, Prediction

#: What a potential may say of a frame.
LABELS = ("energy", "forces", "stress", *SPREADS)


class FramePrediction(NamedTuple):
    """What a potential says of one frame.

    Attributes
    ----------
    energy : float, eV
    forces : ndarray, (n_atoms, 3), eV/Å, or None
    stress : ndarray, (3, 3), eV/Å³, or None
    energy_forces : ndarray, (n_atoms, 3), eV/Å, or None
        −dE/dr, to hold direct forces against.
    energy_spread : float, eV, or None
    forces_spread : ndarray, (n_atoms,), eV/Å, or None
        Standard deviations, see `ErrorBars`.
    """

    energy: float
    forces: np.ndarray | None = None
    stress: np.ndarray | None = None
    energy_forces: np.ndarray | None = None
    energy_spread: float | None = None
    forces_spread: np.ndarray | None = None


def predict_frames(
    potential: Potential,
    frames: Sequence[Frame],
    *,
    everything: bool = False,
    error_bars: bool = False,
    batch_size: int = 32,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> list[FramePrediction]:
    """Evaluate a potential on frames, in its lean form where it has one.

    Parameters
    ----------
    potential : Potential
    frames : sequence of Frame
        Of elements that it knows.
    everything : bool
        Forces of all frames and the stress of all periodic ones, in place of what may be compared
        with labels.
    error_bars : bool
        Standard deviations of energies and forces, of a potential that carries a posterior.
    batch_size : int
    device : str
    progress : callable, optional
        Called with (frames done, all frames).

    Returns
    -------
    list of FramePrediction

    Raises
    ------
    UserError
        A frame that it answers with NaN (named).
    """
    form = potential.lean() if isinstance(potential, PotentialModule) else potential
    bars = ErrorBars(potential) if error_bars else None
    dtype = getattr(potential, "dtype", torch.float64)
    # Direct forces are looked at even without labels: they can be held against -dE/dr.
    direct = not potential.conservative
    found: list[FramePrediction] = []
    with torch.no_grad():
        for batch in batches(frames, potential.r_max, batch_size, dtype):
            moved = batch.to(device, dtype)
            assert moved.labels is not None
            labelled, periodic = moved.labels, everything and bool(moved.pbc.all(dim=1).any())
            prediction = form(
                moved,
                forces=everything or direct or bool(labelled.has_forces.any()),
                stress=periodic or bool(labelled.has_stress.any()),
            )
            chunk = frames[len(found) : len(found) + batch.n_graphs]
            require_finite_predictions(chunk, finite_by_graph(moved, prediction))
            own = energy_forces(form, moved) if direct else None
            parts = _apart(moved, prediction, own)
            if bars is not None:
                spreads = bars(moved, forces=True)[1].apart(moved)
                parts = [p._replace(**s) for p, s in zip(parts, spreads, strict=True)]
            found += parts
            if progress is not None:
                progress(len(found), len(frames))
    return found


def _apart(batch: GraphBatch, prediction: Prediction, own: Tensor | None) -> list[FramePrediction]:
    """Part the prediction for a batch; `own` is −dE/dr where the forces are direct."""
    sizes = batch.n_atoms.tolist()

    def rows(values: Tensor | None, of_each: list[int]) -> Sequence[Any]:
        if values is None:
            return [None] * batch.n_graphs
        parts = values.detach().reshape(-1, 3).double().cpu().split(of_each)
        return [part.numpy() for part in parts]

    columns = (
        prediction.energy.tolist(),
        rows(prediction.forces, sizes),
        rows(prediction.stress, [3] * batch.n_graphs),
        rows(own, sizes),
    )
    return [FramePrediction(*row) for row in zip(*columns, strict=True)]


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


def require_new_names(frames: Sequence[Frame], structures: Sequence[Atoms], prefix: str) -> None:
    """Raise a `UserError` where predictions could not be written beside what is there.

    Parameters
    ----------
    frames : sequence of Frame
        Of the structures, for the message.
    structures : sequence of Atoms
    prefix : str
        Of the names of the predictions.
    """
    names = {prefix + label for label in LABELS}
    if not re.fullmatch(r"[A-Za-z]\w*", prefix, re.ASCII) or names & {*STANDARD}:
        raise UserError(f"--prefix '{prefix}': expected letters, digits and _, such as MACE_")
    for frame, atoms in zip(frames, structures, strict=True):
        there = sorted(names & {*atoms.info, *atoms.arrays})
        if there:
            raise UserError(
                f"{frame.source}: has '{there[0]}' already; choose another --prefix for the "
                "predictions"
            )


def write_predictions(
    path: Path,
    structures: Sequence[Atoms],
    predictions: Sequence[FramePrediction],
    prefix: str = "ase_ws_",
) -> None:
    """Write structures, with all that they bring, and predictions to an extended XYZ file.

    Parameters
    ----------
    path : Path
        Written whole or not at all; packed where its name ends in .gz, .bz2 or .xz.
    structures : sequence of Atoms
    predictions : sequence of FramePrediction
        One for each. The stress of those that are periodic in three directions is written.
    prefix : str
        Names are "ase_ws_energy" and so on.

    Raises
    ------
    UserError
        A structure with something that has no place in such a file.
    """
    with atomic_path(path) as temporary, open_with_compression(str(temporary), "w") as text:
        for number, (atoms, found) in enumerate(zip(structures, predictions, strict=True)):
            try:
                ase.io.write(text, _predicted(atoms, found, prefix), format="extxyz")
            except OSError:
                raise
            except Exception as error:
                raise UserError(
                    f"{path}, frame {number}: what this structure brings has no place in extended "
                    f"XYZ ({error!s:.200}); take it off, or convert the file beforehand"
                ) from error


def _predicted(atoms: Atoms, found: FramePrediction, prefix: str) -> Atoms:
    out = atoms.copy()
    # The labels of the calculator, under the names at which readers look for them.
    save_calc_results(out, atoms.calc, calc_prefix="", force=True)
    out.info[prefix + "energy"] = found.energy
    if found.forces is not None:
        out.arrays[prefix + "forces"] = found.forces
    if found.forces_spread is not None:
        out.info[prefix + "energy_spread"] = found.energy_spread
        out.arrays[prefix + "forces_spread"] = found.forces_spread
    if found.stress is not None and atoms.pbc.all():
        out.info[prefix + "stress"] = found.stress
    return out
