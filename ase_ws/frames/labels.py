"""Which labels a structure brings, and under which names."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError, all_properties
from ase.data import chemical_symbols
from ase.stress import voigt_6_to_full_3x3_stress

from ase_ws.errors import UserError
from ase_ws.frames.frame import Frame
from ase_ws.graphs import state_of
from ase_ws.pairs import check_periodicity

#: The names under which ASE knows labels; every other name was chosen by someone.
STANDARD = ("energy", "free_energy", "forces", "stress")
#: What looks like a label, or like something that should count in training.
_LIKE_A_LABEL = re.compile(
    r"energy|forces?|stress|virial|weight$|^head$|^(total_)?(charge|spin)$|^multiplicity$", re.I
)
#: What may have a weight of its own in a frame, as mace-torch names it.
WEIGHTED = ("energy", "forces", "stress", "virials")
#: Values that say nothing: no charge, the weight of every other frame.
_NEUTRAL = {"weight": 1.0, "charge": 0.0, "spin": 0.0, "multiplicity": 1.0}


@dataclass(frozen=True)
class LabelKeys:
    """Where the labels stand: keys of `atoms.info`, `atoms.arrays`, or of ASE's calculator.

    ASE moves `energy`, `free_energy`, `forces` and `stress` of an extended XYZ file into a
    single-point calculator, so these names are looked for there first.

    Attributes
    ----------
    energy : str
    forces, stress : str, optional
        Default: of the level of the energies, "REF_forces" beside "REF_energy". Energies under a
        name of their own do not go with `forces`, which may be of another level. A stress under a
        name with "virial" in it is taken as a virial W in eV, σ = −W/V.
    """

    energy: str = "energy"
    forces: str | None = None
    stress: str | None = None

    def key(self, label: str) -> str | None:
        """Key of "energy", "forces" or "stress"; None where the energies' level has none."""
        own = getattr(self, label)
        if own is not None or self.energy in ("energy", "free_energy"):
            return own or label
        if "energy" in self.energy.lower():
            return re.sub("energy", label, self.energy, flags=re.I)
        return None


def frame_from_atoms(atoms: Atoms, source: str = "frame", keys: LabelKeys | None = None) -> Frame:
    """Take structure and labels from an `Atoms` object, checking every number.

    Raises
    ------
    UserError
        No atoms, NaN, a label that is no number or has the wrong shape; with `source` in it.
    """
    keys = keys or LabelKeys()
    if len(atoms) == 0:
        raise UserError(f"{source}: no atoms; expected at least one")
    unknown = np.flatnonzero((atoms.numbers < 1) | (atoms.numbers >= len(chemical_symbols)))
    if len(unknown):
        atom = int(unknown[0])
        raise UserError(
            f"{source}: atom {atom} has atomic number {atoms.numbers[atom]} (0 is a dummy, X); "
            "expected elements: mend or remove it"
        )
    _require_finite(atoms.positions, source, "positions", atoms)
    _require_finite(np.asarray(atoms.cell), source, "cell")
    try:
        check_periodicity(np.asarray(atoms.cell), atoms.pbc)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    energy = _label(atoms, keys, "energy", source)
    forces = _label(atoms, keys, "forces", source)
    stress = _label(atoms, keys, "stress", source)
    if energy is not None and energy.size != 1:
        raise UserError(f"{source}: energy label '{keys.key('energy')}' is not one number")
    if forces is not None and forces.shape != (len(atoms), 3):
        raise UserError(
            f"{source}: forces label '{keys.key('forces')}' has shape {forces.shape}, "
            f"expected ({len(atoms)}, 3)"
        )
    if stress is not None and stress.size not in (6, 9):
        raise UserError(
            f"{source}: stress label '{keys.key('stress')}' has {stress.size} numbers, "
            "expected 6 or 9"
        )
    return Frame(
        numbers=atoms.numbers.copy(),
        positions=atoms.positions.copy(),
        cell=np.array(atoms.cell),
        pbc=atoms.pbc.copy(),
        energy=None if energy is None else float(energy.reshape(())),
        forces=forces,
        # Without a cell there is none: programs write zeros, or leave what they had.
        stress=None if stress is None or not has_stress(atoms) else _full(stress, atoms, keys),
        source=source,
        config_type=str(atoms.info.get("config_type", "")),
        weights=_weights(atoms, source),
        head=str(atoms.info.get("head", "")),
        unused=_unused(atoms, keys),
        state=state_of(atoms.info),
    )


def _weights(atoms: Atoms, source: str) -> tuple[float, float, float]:
    """Weights of energy, forces and stress, under the names that mace-torch gives them."""

    def of(key: str) -> float:
        value = atoms.info.get(key, 1.0)
        try:
            weight = float(value)
        except (TypeError, ValueError):
            weight = math.nan
        if not 0.0 <= weight < math.inf:
            raise UserError(f"{source}: {key} is {value!r:.40}; expected a number, 0 or more")
        return weight

    whole = of("config_weight")
    stress = "virials" if "config_virials_weight" in atoms.info else "stress"
    energy, forces, stress = (of(f"config_{name}_weight") for name in ("energy", "forces", stress))
    return whole * energy, whole * forces, whole * stress


def has_stress(atoms: Atoms) -> bool:
    """Whether a structure has a stress: it is periodic, and has a volume."""
    return atoms.cell.rank == 3 and bool(atoms.pbc.any())


def _label(atoms: Atoms, keys: LabelKeys, name: str, source: str) -> np.ndarray | None:
    key = keys.key(name)
    value = None if key is None else _value(atoms, key)
    if value is None:
        return None
    label = f"{name} label '{key}'"
    if key == "E" and {"i", "time"} <= atoms.info.keys():
        raise UserError(
            f"{source}: {label} stands in a comment of CP2K (i, time, E), which is in Hartree, and "
            "its forces in Hartree/Bohr; convert to eV (times 27.2114) under a name of your own"
        )
    if value is _TWICE:
        raise UserError(
            f"{source}: {label} stands there twice and differs, in the structure and in its "
            f"calculator ({type(atoms.calc).__name__}); take one of them off, or name another key"
        )
    try:
        array = np.asarray(value)
        # A flag or a word that could be read as a number is no label.
        if array.dtype.kind not in "iuf":
            raise TypeError
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{source}: {label} is not a number: {value!r:.60}; mend it or leave it out"
        ) from error
    array = np.array(array, dtype=float)
    _require_finite(array, source, label, atoms)
    return array


#: Stands for a label that a calculator and the structure itself give differently.
_TWICE = object()


def _alike(one: Any, other: Any) -> bool:
    one, other = np.asarray(one), np.asarray(other)
    if one.dtype.kind not in "iuf" or other.dtype.kind not in "iuf":
        return bool(np.array_equal(one, other))
    # Files keep some digits fewer than calculators.
    return one.shape == other.shape and np.allclose(one, other, rtol=1e-8, atol=1e-6)


def _value(atoms: Atoms, key: str) -> Any:
    beside = atoms.arrays.get(key, atoms.info.get(key))
    if key in all_properties and atoms.calc is not None:
        try:
            # Never triggers a calculation: only what the file (or a past run) left there.
            value = atoms.calc.get_property(key, atoms, allow_calculation=False)
        except PropertyNotImplementedError:
            value = None
        if value is not None:
            return value if beside is None or _alike(value, beside) else _TWICE
    return beside


def _require_finite(value: np.ndarray, source: str, what: str, atoms: Atoms | None = None) -> None:
    finite = np.isfinite(value)
    if finite.all():
        return
    where = ""
    if atoms is not None and value.shape == (len(atoms), 3):
        atom = int(np.flatnonzero(~finite.all(axis=1))[0])
        where = f" (atom {chemical_symbols[atoms.numbers[atom]]}{atom})"
    raise UserError(
        f"{source}: {what} holds NaN or infinity{where}; leave a missing label out instead of "
        "marking it so, or remove the frame"
    )


def _full(stress: np.ndarray, atoms: Atoms, keys: LabelKeys) -> np.ndarray:
    """Stress in eV/Å³, (3, 3), from Voigt's six numbers or nine, or from a virial."""
    full = (
        np.asarray(voigt_6_to_full_3x3_stress(stress.reshape(6)))
        if stress.size == 6
        else stress.reshape(3, 3)
    )
    return -full / atoms.get_volume() if "virial" in (keys.key("stress") or "").lower() else full


def _unused(atoms: Atoms, keys: LabelKeys) -> tuple[str, ...]:
    """Keys that look like labels, weights and the like, and are not taken."""
    results = getattr(atoms.calc, "results", {})
    there = {**{k: results[k] for k in STANDARD if k in results}, **atoms.arrays, **atoms.info}
    taken = {
        keys.key(label)
        for label in ("energy", "forces", *(["stress"] if has_stress(atoms) else []))
    }
    taken |= {"config_weight", "head"} | {f"config_{name}_weight" for name in WEIGHTED}
    # The same number under both names says nothing.
    if results.get("free_energy") == results.get("energy"):
        taken |= {"energy", "free_energy"}
    return tuple(
        sorted(
            key
            for key, value in there.items()
            if isinstance(key, str)
            and key not in taken
            and _LIKE_A_LABEL.search(key)
            and _says_something(key, value)
        )
    )


def _says_something(key: str, value: Any) -> bool:
    if key.lower() == "head":  # by another spelling than the one that is taken
        return True
    try:
        array = np.asarray(value)
    except ValueError:  # ragged: no label, and no weight
        return False
    if array.dtype.kind not in "iuf":
        return False
    neutral = next((n for end, n in _NEUTRAL.items() if key.lower().endswith(end)), None)
    return neutral is None or bool(np.any(array != neutral))


def require_labels(
    frames: Sequence[Frame], keys: LabelKeys, name: str, labels: Sequence[str]
) -> None:
    """Raise a `UserError` where a label was named, by a name of its own, that no frame has.

    Parameters
    ----------
    frames : sequence of Frame
    keys : LabelKeys
    name : str
        Of the file, for the message.
    labels : sequence of str
        Which of "energy", "forces" and "stress" are wanted.
    """
    for label in labels:
        key = getattr(keys, label)
        if key is None or key in STANDARD or any(getattr(f, label) is not None for f in frames):
            continue
        raise UserError(f"{name}: no frame has '{key}', named for the {label}; {present(frames)}")


def present(frames: Sequence[Frame]) -> str:
    """Say which labels there are, for someone who looks for the right key."""
    taken = (k for k in ("energy", "forces", "stress") if has_label(frames, k))
    names = [*taken, *not_used(frames)]
    return f"there are: {', '.join(names)}" if names else "nothing in it looks like a label"


def has_label(frames: Sequence[Frame], label: str) -> bool:
    """Whether any frame has an "energy", "forces" or "stress"."""
    return any(getattr(f, label) is not None for f in frames)


def not_used(frames: Sequence[Frame], taken: Collection[str] = ()) -> list[str]:
    """Name what looks like a label and was not taken, with the number of frames.

    `taken` are keys that the model takes, such as "charge".
    """
    counts = Counter(key for frame in frames for key in frame.unused if key not in taken)
    return [f"{key} ({n} of {len(frames)} frames)" for key, n in sorted(counts.items())]
