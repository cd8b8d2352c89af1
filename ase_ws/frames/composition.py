"""What frames are made of: elements, compositions, reference energies, parts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from ase.data import chemical_symbols

from ase_ws.errors import UserError
from ase_ws.frames.frame import Frame


def check_elements(frames: Iterable[Frame], known: Iterable[int], model: str = "") -> None:
    """Raise a `UserError` that names the first element the model does not know, and where."""
    known = set(known)
    for frame in frames:
        unknown = sorted(set(frame.numbers.tolist()) - known)
        if unknown:
            names = ", ".join(chemical_symbols[z] for z in unknown)
            have = ", ".join(chemical_symbols[z] for z in sorted(known))
            which = f"the model {model}" if model else "the model"
            raise UserError(
                f"{frame.source}: {which} does not know the element(s) {names} "
                f"(it knows {have}); choose another model or train one from scratch"
            )


def split_frames(
    frames: Sequence[Frame], fraction: float, seed: int
) -> tuple[list[Frame], list[Frame]]:
    """Shuffle by `seed` and hold out a fraction (at least one frame) for validation.

    Energies fix the reference level, so the last frame that has one is never held out.
    """
    if len(frames) < 2:
        raise UserError("one training frame cannot be split: give --valid, or more frames")
    order = np.random.default_rng(seed).permutation(len(frames)).tolist()
    n_valid = min(max(1, round(fraction * len(frames))), len(frames) - 1)
    with_energy = [k for k in order if frames[k].energy is not None]
    if with_energy and set(with_energy) <= set(order[:n_valid]):
        order.remove(with_energy[-1])
        order.append(with_energy[-1])
    held_out = set(order[:n_valid])
    train = [f for k, f in enumerate(frames) if k not in held_out]
    valid = [f for k, f in enumerate(frames) if k in held_out]
    return train, valid


def elements_of(numbers: Iterable[np.ndarray]) -> list[int]:
    """Give the atomic numbers that occur in any of the structures, ascending."""
    return sorted({int(z) for structure in numbers for z in structure})


def composition(numbers: Sequence[np.ndarray], elements: Sequence[int]) -> np.ndarray:
    """Count the atoms of each element in each structure, (n_structures, n_elements)."""
    return np.array([[np.count_nonzero(z == e) for e in elements] for z in numbers], dtype=float)


def fit_reference_energies(
    numbers: Sequence[np.ndarray],
    energies: Sequence[float] | np.ndarray,
    elements: Sequence[int],
) -> np.ndarray:
    """Energies per element that fit total energies best, in float64.

    Solves min ‖A x − E‖ with A the composition matrix (frames × elements). Where the compositions
    do not determine every element (isomers, one molecule) the solution of least norm is taken.

    Parameters
    ----------
    numbers : sequence of ndarray
        Atomic numbers of each frame.
    energies : sequence of float, eV
    elements : sequence of int

    Returns
    -------
    ndarray, (n_elements,), eV
    """
    solution, *_ = np.linalg.lstsq(
        composition(numbers, elements), np.asarray(energies, dtype=float), rcond=None
    )
    return solution
