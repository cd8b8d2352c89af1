"""Where a training starts: the base model at the new reference level, or a new network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from ase.data import chemical_symbols

from ase_ws.errors import UserError
from ase_ws.frames import Frame, composition, elements_of, fit_reference_energies
from ase_ws.pairs import edges
from ase_ws.potentials.base import PotentialModule
from ase_ws.potentials.mace.architecture import MACEArchitecture
from ase_ws.potentials.mace.model import MACEPotential, build_mace
from ase_ws.training.config import FinetuneConfig
from ase_ws.training.predict import batches, require_finite_predictions

#: Isolated atoms that leave a base model further off than this (eV/atom), and by that many times
#: what a fit leaves, do not belong to it: its own reference energies are not those of atoms.
MISFIT, MISFIT_RATIO = 0.1, 3.0


@dataclass(frozen=True)
class ReferenceEnergies:
    """Where the reference energies of the elements come from.

    Attributes
    ----------
    source : {"fit", "atoms", "kept"}
        Least squares, isolated atoms, or the base model as it was.
    separable : bool
        Whether structures of different composition can be compared: False where a fit had too few
        compositions to tell the elements apart.
    remark : str
        What a user should know of the choice, in a line; empty where there is nothing to say.
    absent : tuple of str
        Elements of a base model that no label has: they stay at its level.
    """

    source: Literal["fit", "atoms", "kept"]
    separable: bool = True
    remark: str = ""
    absent: tuple[str, ...] = ()


def refit_e0(
    potential: PotentialModule,
    frames: Sequence[Frame],
    isolated: dict[int, float],
    *,
    insist: bool = False,
) -> ReferenceEnergies:
    """Shift the reference energies of a base model to the level of the labels, in place.

    E0 += argmin_x ‖A x − (E_ref − E_base)‖ in float64, A the composition matrix: the difference
    of two levels is, to leading order, a constant per element. Isolated atoms take precedence
    where every element of the frames has one and they suit the base model: one whose own E0 were
    fitted would be off by the whole energy of atomization.

    Parameters
    ----------
    potential : PotentialModule
    frames : sequence of Frame
    isolated : dict of int to float
        Energies of single atoms, eV, by atomic number.
    insist : bool
        Take the isolated atoms, suited or not.

    Returns
    -------
    ReferenceEnergies

    Raises
    ------
    UserError
        Isolated atoms are insisted on, and an element has none.
    """
    labelled = [f for f in frames if f.energy is not None]
    given = given_by_atoms(labelled, isolated, insist=insist)
    if not labelled:
        return ReferenceEnergies("kept")
    elements = potential.atomic_numbers
    numbers = [f.numbers for f in labelled]
    missing = np.array([f.energy for f in labelled]) - predicted_energies(potential, labelled)
    shift = fit_reference_energies(numbers, missing, elements)
    if given:
        atoms = _shift_to_atoms(potential, isolated)
        counts = composition(numbers, elements)
        off, least = (_rms_per_atom(missing - counts @ x, counts) for x in (atoms, shift))
        if insist or off <= max(MISFIT, MISFIT_RATIO * least):
            shift, references = atoms, ReferenceEnergies("atoms")
        else:
            references = replace(
                fitted_references(labelled, {}),
                remark=f"isolated atoms: with their energies the base model is {1e3 * off:.0f} "
                f"meV/atom off, with a least-squares fit {1e3 * least:.0f}: its own reference "
                "energies are not those of atoms, so the fit is taken (data.e0s=atoms insists)",
            )
    else:
        references = fitted_references(labelled, isolated)
    potential.e0 += torch.from_numpy(shift).to(potential.e0.device)
    return _with_absent(references, potential, numbers, shift)


def _with_absent(
    references: ReferenceEnergies,
    potential: PotentialModule,
    numbers: Sequence[np.ndarray],
    shift: np.ndarray,
) -> ReferenceEnergies:
    """Name the elements that no label has, where the others moved away from them."""
    there = set(elements_of(numbers))
    absent = tuple(chemical_symbols[z] for z in potential.atomic_numbers if z not in there)
    if not absent or not np.abs(shift).max() > MISFIT:
        return references
    some = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
    remark = (
        f"no label has {some}: reference energies of these stay at the base model's level, the "
        f"others moved by up to {np.abs(shift).max():.3g} eV; do not use the model on structures "
        "that mix them"
    )
    remarks = [r for r in (references.remark, remark) if r]
    return replace(references, remark="; ".join(remarks), absent=absent)


def _shift_to_atoms(potential: PotentialModule, isolated: dict[int, float]) -> np.ndarray:
    """Give what lifts the potential's lone atoms to their labels, (n_elements,), eV."""
    shift = np.zeros(len(potential.atomic_numbers))
    for k, z in enumerate(potential.atomic_numbers):
        if z in isolated:
            shift[k] = isolated[z] - _atom_interaction(potential, z) - float(potential.e0[k])
    return shift


def _rms_per_atom(energies: np.ndarray, counts: np.ndarray) -> float:
    return float(np.sqrt(np.mean((energies / counts.sum(axis=1)) ** 2)))


def fitted_references(frames: Sequence[Frame], isolated: dict[int, float]) -> ReferenceEnergies:
    """Say what reference energies are worth that were fitted to these frames."""
    elements = elements_of(f.numbers for f in frames)
    counts = composition([f.numbers for f in frames], elements)
    separable = int(np.linalg.matrix_rank(counts)) == len(elements)
    remarks = []
    if isolated:
        lacking = _symbols([z for z in elements if z not in isolated])
        remarks.append(f"isolated atoms: none of {lacking}, so all reference energies are fitted")
    if not separable:
        remarks.append(
            "too few compositions to tell the elements' reference energies apart: compare energies "
            "of equal composition only, not between molecules"
        )
    return ReferenceEnergies("fit", separable, "; ".join(remarks))


def given_by_atoms(
    frames: Sequence[Frame], isolated: dict[int, float], *, insist: bool = False
) -> bool:
    """Tell whether isolated atoms fix the reference energy of every element of the frames.

    Raises
    ------
    UserError
        They do not, and are insisted on.
    """
    lacking = [z for z in elements_of(f.numbers for f in frames) if z not in isolated]
    if insist and lacking:
        raise UserError(
            f"data.e0s=atoms: no isolated atom of {_symbols(lacking)} among the training frames; "
            "add one with its energy, or leave data.e0s out"
        )
    return bool(isolated) and not lacking


def _symbols(numbers: Sequence[int]) -> str:
    return ", ".join(chemical_symbols[z] for z in numbers)


def _atom_interaction(potential: PotentialModule, z: int) -> float:
    """Energy that the network itself gives to a lone atom, eV."""
    atom = Frame(np.array([z]), np.zeros((1, 3)), np.zeros((3, 3)), np.zeros(3, bool))
    index = potential.atomic_numbers.index(z)
    return float(predicted_energies(potential, [atom])[0] - float(potential.e0[index]))


def predicted_energies(potential: PotentialModule, frames: Sequence[Frame]) -> np.ndarray:
    """Total energies of the frames, (n_frames,), eV."""
    out = []
    with torch.no_grad():
        for batch in batches(frames, potential.r_max, 32, potential.dtype):
            moved = batch.to(potential.device, potential.dtype)
            out.append(potential(moved, forces=False).energy.cpu().numpy())
    energies = np.concatenate(out)
    require_finite_predictions(frames, np.isfinite(energies))
    return energies


def new_potential(
    config: FinetuneConfig, frames: Sequence[Frame], isolated: dict[int, float]
) -> PotentialModule:
    """Build what the configuration asks for, fitted to the scale of the training frames."""
    if config.model.kind == "painn":
        return new_painn(config, frames, isolated)
    body = new_mace(config, frames, isolated)
    return add_readout(body, config, frames) if config.model.forces == "direct" else body


def with_forces(
    potential: PotentialModule, config: FinetuneConfig, frames: Sequence[Frame]
) -> PotentialModule:
    """Give a base model the asked kind of forces: add a direct readout, or take it off."""
    wanted = config.model.forces
    if wanted is None or (wanted == "conservative") == potential.conservative:
        return potential
    if wanted == "conservative":
        return potential.with_energy_forces()
    return add_readout(potential, config, frames)


def add_readout(
    body: PotentialModule, config: FinetuneConfig, frames: Sequence[Frame]
) -> PotentialModule:
    """Add a direct-force readout whose scale is the RMS force of the training frames."""
    if not any(f.forces is not None for f in frames):
        raise UserError(
            "--forces direct: no training frame has forces, and energies alone cannot train a "
            "force readout; give frames with forces, or use --forces conservative"
        )
    return body.with_direct_forces(scale=_scale(frames), seed=config.seed)


def _scale(frames: Sequence[Frame]) -> float:
    """RMS force of the frames, eV/Å; 1 where there is none."""
    forces = [f.forces.ravel() for f in frames if f.forces is not None]
    scale = float(np.sqrt(np.mean(np.concatenate(forces) ** 2))) if forces else 0.0
    # A single frame, or equal ones, may have no forces: any scale will do to begin with.
    return scale if scale > 1e-3 else 1.0


class EnergyScale(NamedTuple):
    """What a new network is told of the energies, so that it starts near them.

    Attributes
    ----------
    elements : tuple of int
        In ascending order.
    e0 : ndarray, (n_elements,), eV
    scale : float, eV
        Of the interaction energy of an atom.
    shift : float, eV
        Its mean.
    """

    elements: tuple[int, ...]
    e0: np.ndarray
    scale: float
    shift: float


def energy_scale(frames: Sequence[Frame], isolated: dict[int, float]) -> EnergyScale:
    """Fit reference energies and the scale of what is left to the training frames.

    The scale is the RMS force where there are labels, else the spread of the energies per √atom.
    """
    elements = elements_of(f.numbers for f in frames)
    labelled = [f for f in frames if f.energy is not None]
    if not labelled:
        raise UserError("no training frame has an energy: expected at least one to fix E0")
    energies = np.array([f.energy for f in labelled])
    if given_by_atoms(frames, isolated):
        e0 = np.array([isolated[z] for z in elements])
    else:
        e0 = fit_reference_energies([f.numbers for f in labelled], energies, elements)
    counts = composition([f.numbers for f in labelled], elements)
    per_atom = (energies - counts @ e0) / counts.sum(axis=1)
    scale = _scale(frames)
    if all(f.forces is None for f in frames):
        scale = float(np.std(per_atom * np.sqrt(counts.sum(axis=1))))
    return EnergyScale(tuple(elements), e0, scale if scale > 1e-3 else 1.0, float(per_atom.mean()))


def new_mace(
    config: FinetuneConfig, frames: Sequence[Frame], isolated: dict[int, float]
) -> MACEPotential:
    """Build a MACE whose energy scale and reference energies fit the training frames.

    The mean number of neighbours is counted without any skin.
    """
    settings = config.model
    fitted = energy_scale(frames, isolated)
    architecture = MACEArchitecture(
        atomic_numbers=fitted.elements,
        r_max=settings.r_max,
        hidden_irreps=settings.hidden_irreps,
        num_interactions=settings.num_interactions,
        max_ell=settings.max_ell,
        correlation=settings.correlation,
        num_bessel=settings.num_bessel,
        MLP_irreps=settings.MLP_irreps,
        # A direct readout wants the vectors of every layer.
        keep_last_layer_irreps=settings.forces == "direct",
        avg_num_neighbors=_mean_neighbours(frames, settings.r_max),
        scale=(fitted.scale,),
        shift=(fitted.shift,),
        radial_MLP=settings.radial_MLP,
        distance_transform=settings.distance_transform,
        pair_repulsion=settings.pair_repulsion,
        interaction=settings.interaction,  # pyright: ignore[reportArgumentType] - checked there
        interaction_first=settings.interaction_first,  # pyright: ignore[reportArgumentType]
        dtype=config.dtype,
    )
    return build_mace(architecture, fitted.e0, seed=config.seed)


def new_painn(
    config: FinetuneConfig, frames: Sequence[Frame], isolated: dict[int, float]
) -> PotentialModule:
    """Build a PaiNN whose energy scale and reference energies fit the training frames."""
    # An optional library: only imported where it is wanted.
    from ase_ws.potentials.painn import PaiNNArchitecture, build_painn

    settings = config.model
    if settings.forces == "direct":
        raise UserError(
            "--forces direct: a PaiNN has conservative forces only; leave --forces away, or take "
            "a MACE (model.kind=mace)"
        )
    fitted = energy_scale(frames, isolated)
    architecture = PaiNNArchitecture(
        atomic_numbers=fitted.elements,
        r_max=settings.r_max,
        channels=settings.channels,
        num_interactions=settings.num_interactions,
        num_bessel=settings.num_bessel,
        scale=fitted.scale,
        shift=fitted.shift,
        dtype=config.dtype,
    )
    return build_painn(architecture, fitted.e0, seed=config.seed)


def _mean_neighbours(frames: Sequence[Frame], r_max: float) -> float:
    n_edges = sum(edges(f.positions, f.cell, f.pbc, r_max)[0].shape[1] for f in frames)
    return max(1.0, n_edges / sum(len(f.numbers) for f in frames))
