"""Levels of theory, and weights, that frames bring with them as mace-torch names them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from ase_ws.errors import UserError
from ase_ws.frames.frame import Frame


def of_head(
    frames: list[Frame], lone: list[Frame], head: str | None, name: str
) -> tuple[list[Frame], list[Frame]]:
    """Take what is of one level of theory, where frames say of which they are (`head=...`).

    Parameters
    ----------
    frames, lone : list of Frame
        Structures, and isolated atoms; atoms that say nothing go with any level.
    head : str, optional
        The level that is wanted.
    name : str
        Of the file, for the message.

    Raises
    ------
    UserError
        The structures are of several, and `head` is none of these.
    """
    counts = Counter(frame.head for frame in frames)
    if len(counts) < 2:
        return frames, lone
    if head is not None and head in counts:
        return named_by(frames, lone, head)
    found = ", ".join(f"{tag or '(none)'} × {n}" for tag, n in sorted(counts.items()))
    wanted = "" if head is None else f", and none of '{head}'"
    raise UserError(
        f"{name}: frames of several levels of theory ({found}){wanted}: train one at a time, "
        "--set data.head=NAME takes it"
    )


def named_by(frames: list[Frame], lone: list[Frame], head: str) -> tuple[list[Frame], list[Frame]]:
    """Give the structures that say they are of a head, and its isolated atoms or any head's."""
    return [f for f in frames if f.head == head], [f for f in lone if f.head in (head, "")]


def require_types(frames: Sequence[Frame], types_named: Collection[str], name: str) -> None:
    """Raise a `UserError` for a config_type that is named for its weight, and no frame has."""
    types = Counter(frame.config_type for frame in frames)
    for wanted in types_named:
        if wanted not in types:
            there = ", ".join(sorted(filter(None, types))) or "none"
            raise UserError(
                f"{name}: no frame has config_type '{wanted:.40}', which "
                f"data.config_type_weights names; there are: {there:.200}"
            )


def weighted_by_type(frames: Sequence[Frame], weights: Mapping[str, float]) -> list[Frame]:
    """Multiply the weights of all frames of a config_type, as mace-torch does."""
    return [
        replace(f, weights=(w * f.weights[0], w * f.weights[1], w * f.weights[2]))
        if (w := weights.get(f.config_type, 1.0)) != 1.0
        else f
        for f in frames
    ]


def describe_levels(frames: Sequence[Frame]) -> Iterator[str]:
    """Say of which level frames are, where they say it, and how many have weights of their own."""
    heads = sorted({frame.head for frame in frames} - {""})
    if heads:
        yield f"the labels say that they are of head {', '.join(heads)}"
    own = sum(any(weight != 1.0 for weight in frame.weights) for frame in frames)
    if own:
        yield f"{own} of {len(frames)} frames have weights of their own (config_weight and others)"
