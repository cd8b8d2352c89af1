"""Where a training starts: the base model at the new reference level, or a new MACE."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ase_ws.errors import UserError
from ase_ws.frames import Frame, fit_reference_energies
from ase_ws.graphs import edges
from ase_ws.potentials.architecture import MACEArchitecture
from ase_ws.potentials.mace import MACEPotential, build_mace
from ase_ws.training.config import FinetuneConfig
from ase_ws.training.evaluate import batches


def separate_isolated_atoms(frames: Sequence[Frame]) -> tuple[list[Frame], dict[int, float]]:
    """Take single atoms with an energy out of the frames: their energies are E0, not labels.

    Returns
    -------
    frames : list of Frame
    e0 : dict of int to float
        Atomic number to eV.
    """
    e0 = {
        int(f.numbers[0]): float(f.energy)
        for f in frames
        if f.is_isolated_atom and f.energy is not None
    }
    return [f for f in frames if not f.is_isolated_atom], e0


def refit_e0(potential: MACEPotential, frames: Sequence[Frame], isolated: dict[int, float]) -> None:
    """Shift the reference energies of a base model to the level of the labels, in place.

    E0 += argmin_x ‖A x − (E_ref − E_base)‖ in float64, A the composition matrix: the difference
    of two levels is, to leading order, a constant per element. Isolated atoms take precedence
    where every element of the frames has one.
    """
    labelled = [f for f in frames if f.energy is not None]
    if not labelled:
        return
    elements = potential.atomic_numbers
    present = {int(z) for f in labelled for z in f.numbers}
    if isolated and present <= set(isolated):
        for k, z in enumerate(elements):
            if z in isolated:
                potential.e0[k] = isolated[z] - _atom_interaction(potential, z)
        return
    shift = fit_reference_energies(
        [f.numbers for f in labelled],
        np.array([f.energy for f in labelled]) - predicted_energies(potential, labelled),
        elements,
    )
    potential.e0 += torch.from_numpy(shift).to(potential.e0.device)


def _atom_interaction(potential: MACEPotential, z: int) -> float:
    """Energy that the network itself gives to a lone atom, eV."""
    atom = Frame(np.array([z]), np.zeros((1, 3)), np.zeros((3, 3)), np.zeros(3, bool))
    index = potential.atomic_numbers.index(z)
    return float(predicted_energies(potential, [atom])[0] - float(potential.e0[index]))


def predicted_energies(potential: MACEPotential, frames: Sequence[Frame]) -> np.ndarray:
    """Total energies of the frames, (n_frames,), eV."""
    out = []
    with torch.no_grad():
        for batch in batches(frames, potential.r_max, 32):
            moved = batch.to(potential.device, potential.dtype)
            out.append(potential(moved, forces=False).energy.cpu().numpy())
    return np.concatenate(out)


def new_mace(
    config: FinetuneConfig, frames: Sequence[Frame], isolated: dict[int, float]
) -> MACEPotential:
    """Build a MACE whose energy scale and reference energies fit the training frames.

    The scale is the RMS force where there are labels, else the spread of the energies per √atom;
    the mean number of neighbours is counted without any skin.
    """
    settings = config.model
    elements = sorted({int(z) for f in frames for z in f.numbers})
    labelled = [f for f in frames if f.energy is not None]
    if not labelled:
        raise UserError("no training frame has an energy: expected at least one to fix E0")
    energies = np.array([f.energy for f in labelled])
    if isolated and set(elements) <= set(isolated):
        e0 = np.array([isolated[z] for z in elements])
    else:
        e0 = fit_reference_energies([f.numbers for f in labelled], energies, elements)
    counts = np.array([[np.count_nonzero(f.numbers == z) for z in elements] for f in labelled])
    per_atom = (energies - counts @ e0) / counts.sum(axis=1)
    forces = [f.forces.ravel() for f in frames if f.forces is not None]
    if forces:
        scale = float(np.sqrt(np.mean(np.concatenate(forces) ** 2)))
    else:
        scale = float(np.std(per_atom * np.sqrt(counts.sum(axis=1))))
    architecture = MACEArchitecture(
        atomic_numbers=tuple(elements),
        r_max=settings.r_max,
        hidden_irreps=settings.hidden_irreps,
        num_interactions=settings.num_interactions,
        max_ell=settings.max_ell,
        correlation=settings.correlation,
        num_bessel=settings.num_bessel,
        MLP_irreps=settings.MLP_irreps,
        avg_num_neighbors=_mean_neighbours(frames, settings.r_max),
        # A single frame, or equal ones, have no spread: any scale will do to begin with.
        scale=(scale if scale > 1e-3 else 1.0,),
        shift=(float(per_atom.mean()),),
        dtype=config.dtype,
    )
    return build_mace(architecture, e0, seed=config.seed)


def _mean_neighbours(frames: Sequence[Frame], r_max: float) -> float:
    n_edges = sum(edges(f.positions, f.cell, f.pbc, r_max)[0].shape[1] for f in frames)
    return max(1.0, n_edges / sum(len(f.numbers) for f in frames))
