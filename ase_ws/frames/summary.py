"""What was taken from the frames and what was not, before anything is done with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence

import numpy as np
from ase.data import chemical_symbols

from ase_ws.errors import UserError
from ase_ws.frames.frame import Frame
from ase_ws.frames.labels import has_label, not_used

#: Compositions that are named; a data set may have thousands.
MOST_FORMULAS = 6
#: Electronic-structure programs leave some 0.1 % of net force and torque; other axes leave some
#: 50 %. Mean forces below the second (eV/Å) are too small to tell.
NET_FORCE, SMALL_FORCE = 0.1, 0.02
#: Beyond this (eV/Å³; 1,600 GPa) a stress is in another unit, or a virial in eV; and programs leave
#: it asymmetric by less than this part.
LARGEST_STRESS, ASYMMETRY = 10.0, 0.05


def separate_isolated_atoms(
    frames: Sequence[Frame], cutoff: float
) -> tuple[list[Frame], list[Frame]]:
    """Part the frames into structures, and lone atoms whose energies are reference energies.

    Parameters
    ----------
    frames : sequence of Frame
    cutoff : float, Å
        An atom without a neighbour within it is alone, also in a periodic box.
    """
    lone = [frame for frame in frames if frame.is_isolated_atom(cutoff)]
    known = set(map(id, lone))
    return [frame for frame in frames if id(frame) not in known], lone


def atom_energies(lone: Sequence[Frame]) -> dict[int, float]:
    """Energy of each element's isolated atom, eV, by atomic number.

    Raises
    ------
    UserError
        Two isolated atoms of one element differ.
    """
    first: dict[int, Frame] = {}
    for frame in lone:
        if frame.energy is None:
            continue
        z = int(frame.numbers[0])
        other = first.setdefault(z, frame)
        assert other.energy is not None
        if abs(other.energy - frame.energy) > 1e-6:
            raise UserError(
                f"{frame.source}: an isolated {chemical_symbols[z]} atom with {frame.energy:g} eV, "
                f"and {other.source} has {other.energy:g} eV; expected one energy for each "
                "element: keep the right one"
            )
    return {z: float(frame.energy) for z, frame in first.items() if frame.energy is not None}


def describe_frames(name: str, frames: Sequence[Frame]) -> str:
    """Say in a line how many frames there are, with which labels, of which compositions."""
    counts = [
        f"{sum(getattr(f, label) is not None for f in frames)} with {words}"
        for label, words in (("energy", "energies"), ("forces", "forces"), ("stress", "stress"))
        if has_label(frames, label)
    ]
    formulas = Counter(frame.formula for frame in frames).most_common()
    named = ", ".join(f"{formula} × {n}" for formula, n in formulas[:MOST_FORMULAS])
    more = len(formulas) - MOST_FORMULAS
    named += f" and {more} more compositions" if more > 0 else ""
    number = "1 frame" if len(frames) == 1 else f"{len(frames)} frames"
    return f"{name}: {number}, {', '.join(counts) or 'no labels'} ({named})"


def describe_atoms(lone: Sequence[Frame]) -> Iterator[str]:
    """Name the isolated atoms and their energies, and those that have none."""
    energies = sorted({(int(f.numbers[0]), f.energy) for f in lone if f.energy is not None})
    if energies:
        named = ", ".join(f"{chemical_symbols[z]} {e:.6g} eV" for z, e in energies)
        yield f"isolated atoms, no structures: {named}"
    without = [frame.source for frame in lone if frame.energy is None]
    if without:
        yield f"isolated atoms without an energy, left out: {', '.join(without[:3])}"


def describe_rest(frames: Sequence[Frame], taken: Collection[str] = ()) -> Iterator[str]:
    """Name what is in the frames and is not taken, and how it would be; see `not_used`."""
    rest = not_used(frames, taken)
    if not rest:
        return
    yield f"there and not used: {', '.join(rest)}"
    if not has_label(frames, "forces") and any("force" in key.lower() for key in rest):
        yield "  for forces, name their key: --forces-key"
    if has_label(frames, "forces") and any(key.startswith("free_energy ") for key in rest):
        yield (
            "  free_energy differs from energy (smearing), and the forces are its gradient: "
            "--energy-key free_energy takes it"
        )
    if not has_label(frames, "stress") and any("virial" in key.lower() for key in rest):
        yield "  --stress-key takes a virial in eV, too: σ = −W/V"


def describe_forces(frames: Sequence[Frame]) -> Iterator[str]:
    """Say where forces of isolated structures turn or push them as a whole, as none can."""
    odd = [frame for frame in frames if _net_force(frame) > NET_FORCE]
    if odd:
        yield (
            f"forces of {len(odd)} of {len(frames)} frames push or turn the whole structure (the "
            f"first: {odd[0].source}): are they in the axes of the positions, and of free atoms?"
        )


def _net_force(frame: Frame) -> float:
    """Net force and torque of an isolated structure, as parts of what they could be at most."""
    forces = frame.forces
    if forces is None or frame.pbc.any() or len(forces) < 3:
        return 0.0
    sizes = np.linalg.norm(forces, axis=1)
    if sizes.mean() < SMALL_FORCE:
        return 0.0
    arms = frame.positions - frame.positions.mean(axis=0)
    torque = np.linalg.norm(np.cross(arms, forces).sum(axis=0))
    most = (np.linalg.norm(arms, axis=1) * sizes).sum()
    return max(float(np.linalg.norm(forces.sum(axis=0)) / sizes.sum()), float(torque / most))


def describe_stress(frames: Sequence[Frame]) -> Iterator[str]:
    """Say where a stress cannot be one in eV/Å³, or has its components in another order."""
    for frame in frames:
        if frame.stress is None:
            continue
        largest = float(abs(frame.stress).max())
        if largest > LARGEST_STRESS:
            yield (
                f"{frame.source}: a stress of {largest:.3g} eV/Å³; expected less than "
                f"{LARGEST_STRESS:g}: divide GPa by 160.2, kbar by 1602, or call a virial in eV "
                "'virial'"
            )
        elif abs(frame.stress - frame.stress.T).max() > ASYMMETRY * max(largest, 1e-3):
            yield f"{frame.source}: a stress that is not symmetric; look at its order"


def describe_overlap(train: Sequence[Frame], valid: Sequence[Frame]) -> Iterator[str]:
    """Say how many structures validate that were trained on."""
    known = {_structure(frame) for frame in train}
    both = [frame for frame in valid if _structure(frame) in known]
    if both:
        yield (
            f"{len(both)} of {len(valid)} validation frames are training frames too (the first: "
            f"{both[0].source}): their errors say nothing of other structures"
        )


def _structure(frame: Frame) -> tuple[bytes, ...]:
    return frame.numbers.tobytes(), frame.positions.tobytes(), frame.cell.tobytes()
