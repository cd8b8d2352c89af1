"""From any ASE-readable file, or `Atoms`, to labelled frames."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ase import Atoms

from ase_ws.errors import UserError
from ase_ws.frames.files import expand, iterate
from ase_ws.frames.frame import Frame
from ase_ws.frames.labels import LabelKeys, frame_from_atoms

FrameSource = (
    str
    | os.PathLike[str]
    | Atoms
    | Sequence[str | os.PathLike[str]]
    | Sequence[Atoms]
    | Sequence[Frame]
)


def read_frames(source: FrameSource, keys: LabelKeys | None = None) -> list[Frame]:
    """Read every frame of a file, or of several, or convert `Atoms`.

    Parameters
    ----------
    source : path, Atoms, or sequence of path, of Atoms, or of Frame
        A path may be a pattern ("runs/*.xyz"), and may choose frames the way ASE does:
        "labels.xyz@:100", "labels.xyz@100:150". A file of exactly that name goes first.
    keys : LabelKeys, optional

    Returns
    -------
    list of Frame

    Raises
    ------
    UserError
        A missing or unreadable file, no frames, a label that is NaN or has the wrong shape:
        the message names the file and the frame.
    """
    keys = keys or LabelKeys()
    items = [source] if isinstance(source, str | os.PathLike | Atoms) else list(source)
    frames: list[Frame] = []
    for number, item in enumerate(items):
        if isinstance(item, Frame):
            frames.append(item)
        elif isinstance(item, Atoms):
            frames.append(frame_from_atoms(item, f"frame {number}", keys))
        else:
            for path in expand(item):
                frames += (frame for frame, _ in _of_file(path, keys))
    if not frames:
        raise UserError(f"{name_of(source)}: no frames found; expected at least one structure")
    return frames


def read_with_atoms(
    names: Sequence[str | os.PathLike[str]], keys: LabelKeys | None = None
) -> tuple[list[Frame], list[Atoms]]:
    """Read every frame of files, as `read_frames` does, and all that they bring beside it."""
    pairs = [pair for path in expand(names) for pair in _of_file(path, keys or LabelKeys())]
    return [frame for frame, _ in pairs], [atoms for _, atoms in pairs]


def _of_file(path: Path, keys: LabelKeys) -> Iterator[tuple[Frame, Atoms]]:
    found = False
    for where, atoms in iterate(path):
        found = True
        yield frame_from_atoms(atoms, where, keys), atoms
    if not found:
        raise UserError(
            f"{path}: no frames found; expected at least one structure, under a name that tells "
            "ASE its format (frames.xyz, OUTCAR, vasprun.xml, orca.out, espresso.pwo)"
        )
    return found


def name_of(source: FrameSource | None, otherwise: str = "the given frames") -> str:
    """Give the names of the files, for messages."""
    paths = paths_of(source)
    return otherwise if paths is None else ", ".join(paths)


def paths_of(source: FrameSource | None) -> list[str] | None:
    """Give the paths as they were given; None where frames were given, or nothing."""
    if isinstance(source, str | os.PathLike):
        return [str(source)]
    if source is None or isinstance(source, Atoms):
        return None
    paths = [str(item) for item in source if isinstance(item, str | os.PathLike)]
    return paths or None


def read_atoms(path: str | os.PathLike[str]) -> list[Atoms]:
    """Read every structure of a file as `Atoms`, with all that it brings."""
    found = [atoms for file in expand(path) for _, atoms in iterate(file)]
    if not found:
        raise UserError(f"{path}: no structure found; expected one that ASE can read")
    return found


def read_structure(path: str | os.PathLike[str]) -> Atoms:
    """Read the last structure of a file, for MD and relaxation."""
    for _, atoms in iterate(Path(path), last=True):
        return atoms
    raise UserError(f"{path}: no structure found; expected one that ASE can read")
