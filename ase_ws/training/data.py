"""The frames of a run: read, parted from isolated atoms, checked and described."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import NamedTuple

from ase_ws.errors import UserError
from ase_ws.frames import (
    Frame,
    FrameSource,
    LabelKeys,
    has_label,
    name_of,
    present,
    read_frames,
    require_labels,
    split_frames,
)
from ase_ws.frames.levels import describe_levels, named_by, of_head, require_types, weighted_by_type
from ase_ws.frames.summary import (
    atom_energies,
    describe_atoms,
    describe_forces,
    describe_frames,
    describe_overlap,
    describe_rest,
    describe_stress,
    separate_isolated_atoms,
)
from ase_ws.training.config import FinetuneConfig

#: Frames, or several sets of them by their names.
ValidSource = FrameSource | Mapping[str, FrameSource]


class Data(NamedTuple):
    """The frames of a run.

    Attributes
    ----------
    train : list of Frame
        Structures, with the labels that are used.
    valid : dict of str to list of Frame
        Likewise, in named sets; one without a name where there is but one.
    isolated : dict of int to float
        Reference energies that came with the training frames, eV, by atomic number.
    summary : list of str
        What was taken, and what is there and was not, in lines.
    """

    train: list[Frame]
    valid: dict[str, list[Frame]]
    isolated: dict[int, float]
    summary: list[str]


def load_data(
    config: FinetuneConfig,
    train: FrameSource,
    valid: ValidSource | None,
    cutoff: float,
    taken: Collection[str] = (),
    head: str | None = None,
) -> Data:
    """Read, part and check the frames of a level of theory.

    Parameters
    ----------
    config : FinetuneConfig
    train, valid : frames or files
    cutoff : float, Å
        Tells which atoms are alone.
    taken : collection of str
        Keys beside the labels that the model takes.
    head : str, optional
        Of several levels that are trained together (`data.heads`), the one to read.

    Raises
    ------
    UserError
        Frames that cannot be read, or labels that are named or weighted and nowhere.
    """
    name = name_of(train, "the training frames")
    train_frames, lone, others = _read(config, train, name, cutoff, head)
    if not train_frames and head is not None:
        raise UserError(
            f"{name}: data.heads names '{head}', and no frame is of that head: frames say of which "
            "they are by head=... in the file"
        )
    if not train_frames:
        raise UserError(f"{name}: only isolated atoms; expected structures to train on")
    require_types(train_frames, config.data.config_type_weights, name)
    _require_any(train_frames, name, config, ["energy"])
    rest = list(describe_rest(train_frames, taken))
    apart: list[Frame] = []
    sets: dict[str, list[Frame]] = {}
    if valid is None:
        train_frames, sets[""] = split_frames(train_frames, config.data.valid_fraction, config.seed)
    else:
        for set_name, source in _named(valid).items():
            file_name = name_of(source, "the validation frames")
            sets[set_name], atoms, more = _read(config, source, file_name, cutoff, head)
            if not sets[set_name] and head is None:
                raise UserError(
                    f"{file_name}: no frames for validation; expected at least one structure"
                )
            apart += atoms
            others += more
        # A set may be of some of several heads.
        sets = {set_name: frames for set_name, frames in sets.items() if frames}
        if not sets:
            raise UserError(f"no frames of head '{head}' for validation: give some")
    valid_frames = [frame for frames in sets.values() for frame in frames]
    summary = [
        describe_frames("training", train_frames),
        describe_frames("validation", valid_frames),
        *describe_atoms([*lone, *apart]),
        *describe_levels([*train_frames, *valid_frames]),
        *describe_forces(train_frames),
        *rest,
        *(describe_overlap(train_frames, valid_frames) if valid is not None else ()),
    ]
    if others and head is None:
        summary.append(f"{others} frames of other heads: left out")
    if has_label(train_frames, "stress") and config.loss.stress_weight == 0:
        summary.append("stress: there and not used (loss.stress_weight is 0)")
    elif odd := next(describe_stress([*train_frames, *valid_frames]), None):
        if config.loss.stress_weight is not None:
            raise UserError(odd)
        # Nobody asked for it.
        train_frames = _without_stress(train_frames)
        sets = {name: _without_stress(frames) for name, frames in sets.items()}
        summary.append(f"stress: not used: {odd}")
    return Data(train_frames, sets, atom_energies([*lone, *apart]), summary)


def _named(valid: ValidSource) -> Mapping[str, FrameSource]:
    if not isinstance(valid, Mapping):
        return {"": valid}
    for name in valid:
        if not re.fullmatch(r"[A-Za-z_][\w.+-]*", name):
            raise UserError(
                f"data.valid: the name '{name:.40}' becomes a column of metrics.csv: begin it "
                "with a letter, and go on with letters, digits and _ . + - only"
            )
    if not valid:
        raise UserError("data.valid: no sets; give frames, or leave it out")
    return valid


def _without_stress(frames: list[Frame]) -> list[Frame]:
    return [replace(frame, stress=None) for frame in frames]


def _read(
    config: FinetuneConfig,
    source: FrameSource,
    name: str,
    cutoff: float,
    head: str | None = None,
) -> tuple[list[Frame], list[Frame], int]:
    """Read structures and isolated atoms, with the labels that are wanted.

    The last is how many structures are of other levels of theory, and left out.
    """
    data = config.data
    keys = LabelKeys(data.energy_key, data.forces_key, data.stress_key)
    found, lone = separate_isolated_atoms(read_frames(source, keys), cutoff)
    if head is None:
        frames, lone = of_head(found, lone, data.head or config.model.head, name)
    else:
        frames, lone = named_by(found, lone, head)
    frames = weighted_by_type(frames, data.config_type_weights)
    energies_only = data.labels == "energy"
    require_labels(
        frames, keys, name, ["energy"] if energies_only else ["energy", "forces", "stress"]
    )
    if energies_only:
        frames = [_energy_only(f) for f in frames]
    if frames:
        _require_any(frames, name, config, ["energy", "forces"])
    for frame in frames:
        if frame.energy is None and frame.forces is None:
            raise UserError(f"{frame.source}: neither energy nor forces; remove the frame")
    return frames, lone, len(found) - len(frames)


def _require_any(frames: list[Frame], name: str, config: FinetuneConfig, labels: list[str]) -> None:
    if not any(has_label(frames, label) for label in labels):
        raise UserError(
            f"{name}: no frame has an energy under the key '{config.data.energy_key}' "
            f"({present(frames)}); name the right one with --energy-key"
        )


def require_weighted(config: FinetuneConfig, frames: list[Frame], name: str) -> None:
    """Refuse a weight on labels that are nowhere, in no head: it was given for a reason."""
    for label, weight in (
        ("forces", config.loss.forces_weight),
        ("stress", config.loss.stress_weight),
    ):
        if not weight or has_label(frames, label):
            continue
        if config.data.labels == "energy":
            if label == "forces":
                # What a run with forces wrote, run again without them.
                continue
            raise UserError(
                f"loss.{label}_weight is {weight:g} and --labels energy leaves the {label} out: "
                "give one of them"
            )
        raise UserError(
            f"{name}: no frame has {label}, and loss.{label}_weight is {weight:g} "
            f"({present(frames)}); name their key with --{label}-key, or leave the "
            "weight out"
        )


def _energy_only(frame: Frame) -> Frame:
    return replace(frame, forces=None, stress=None)
