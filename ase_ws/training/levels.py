"""Levels of theory that are trained together, and the replay of what a base model knows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ase_ws.errors import UserError
from ase_ws.frames import (
    Frame,
    LabelKeys,
    check_elements,
    composition,
    name_of,
    read_frames,
    require_labels,
    split_frames,
)
from ase_ws.frames.summary import separate_isolated_atoms
from ase_ws.potentials.base import PotentialModule
from ase_ws.potentials.heads import ONE_HEAD
from ase_ws.training.config import FinetuneConfig
from ase_ws.training.predict import predict_frames

#: Name of the columns of the replay.
REPLAY = "replay"


@dataclass(frozen=True)
class Level:
    """Frames of one level of theory, and what they train.

    Attributes
    ----------
    name : str
        Of its columns in the metrics; empty for the frames of the run.
    head : str
        Head of the potential.
    train : list of Frame
    valid : dict of str to list of Frame
        Sets by their names.
    weight : float
        Of its loss.
    batch_size : int, optional
        Structures a step; default as of the run.
    replayed : bool
        Whether they are replayed.
    """

    name: str
    head: str
    train: list[Frame]
    valid: dict[str, list[Frame]]
    weight: float = 1.0
    batch_size: int | None = None
    replayed: bool = False

    def weighted(self) -> list[Frame]:
        """Give the training frames with the weight of the level in their own."""
        if self.weight == 1.0:
            return self.train
        return [
            replace(f, weights=(self.weight * f.weights[0], *f.weights[1:])) for f in self.train
        ]


def heads_of(config: FinetuneConfig, given: PotentialModule | None) -> dict[str, str]:
    """Give the heads that a run trains, and what each begins as; empty where the model has them.

    Raises
    ------
    UserError
        Names that are given twice, or contradict each other.
    """
    own = given.head if given is not None else ONE_HEAD[0]
    wanted = config.data.heads or [own]
    replayed = config.replay.head
    if len(set(wanted)) < len(wanted):
        raise UserError(f"data.heads: {wanted}: each name once")
    if replayed is not None and replayed not in wanted:
        wanted = [*wanted, replayed]
    heads = given.heads if given is not None else (own,)
    if set(wanted) <= set(heads):
        return {}
    return {name: name if name in heads else own for name in wanted}


def replay_level(
    config: FinetuneConfig, given: PotentialModule, base: PotentialModule
) -> tuple[Level, list[str]]:
    """Read the frames that are replayed, and label them.

    Parameters
    ----------
    config : FinetuneConfig
    given : PotentialModule
        The base model as it was given.
    base : PotentialModule
        The same with the heads of the run, the trained one at the reference energies of the new
        frames.

    Returns
    -------
    Level
    lines : list of str
        What a user should know.

    Raises
    ------
    UserError
        Frames that cannot be read or labelled.
    """
    settings = config.replay
    assert settings.train is not None
    name = name_of(settings.train)
    keys = LabelKeys(config.data.energy_key, config.data.forces_key, config.data.stress_key)
    frames, _ = separate_isolated_atoms(read_frames(settings.train, keys), given.r_max)
    if len(frames) < 2:
        raise UserError(f"{name}: {len(frames)} structures to replay; expected two or more")
    check_elements(frames, given.atomic_numbers, config.model.base or "")
    known = base.of_head(settings.head) if settings.head else base
    own = known.head == base.head
    if settings.labels == "base":
        frames = labelled_by(known, frames)
        line = "labelled by the base model"
    else:
        require_labels(frames, keys, name, ["energy", "forces"])
        if all(f.energy is None and f.forces is None for f in frames):
            raise UserError(
                f"{name}: no frame has an energy or forces: name their keys, or leave "
                "replay.labels=file out, and the base model labels them"
            )
        if own:
            shift = (base.e0 - given.e0).cpu().numpy()
            frames = list(_moved(frames, shift, given.atomic_numbers))
        line = "with their own labels"
    train, valid = split_frames(frames, config.data.valid_fraction, config.seed)
    level = Level(
        REPLAY,
        known.head,
        train,
        {REPLAY: valid},
        settings.weight,
        settings.batch_size,
        replayed=True,
    )
    where = "the head of the new frames" if own else f"head '{known.head}'"
    return level, [f"replay: {len(train)} frames {line}, for {where}; {len(valid)} validate"]


def labelled_by(potential: PotentialModule, frames: Sequence[Frame]) -> list[Frame]:
    """Give the frames with the energies and forces of a potential, and no other labels."""
    found = predict_frames(potential, frames, everything=True, device=potential.device)
    return [
        replace(f, energy=p.energy, forces=p.forces, stress=None, weights=(1.0, 1.0, 1.0))
        for f, p in zip(frames, found, strict=True)
    ]


def _moved(frames: Sequence[Frame], shift: np.ndarray, elements: Sequence[int]) -> Iterator[Frame]:
    """Move energies to other reference energies."""
    counts = composition([f.numbers for f in frames], elements)
    for frame, change in zip(frames, counts @ shift, strict=True):
        energy = None if frame.energy is None else frame.energy + float(change)
        yield replace(frame, energy=energy)
