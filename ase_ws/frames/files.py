"""The files that were named, all of them, and every frame in them."""

from __future__ import annotations

import glob
import io
import itertools
import os
import shutil
import tempfile
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import ase.io
import numpy as np
from ase import Atoms
from ase.io.formats import (
    UnknownFileTypeError,
    filetype,
    ioformats,
    open_with_compression,
)
from ase.utils import string2index

from ase_ws.errors import UserError
from ase_ws.frames import sets

#: Formats whose frames are found and counted here: ASE's reader stops at a blank line.
_XYZ = ("extxyz", "xyz")
#: How `ase_ws.md.record.TrajectoryWriter` begins a frame, whose number of atoms it writes last: if
#: the run was killed meanwhile, the file ends before it.
HALF_WRITTEN = " " * 12
#: An occupancy from which on a site is full, as written with three digits.
FULL = 0.99
_PACKED = (".gz", ".bz2", ".xz")
_Item = TypeVar("_Item")


def expand(names: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Give the files that are meant: as named, or as a pattern such as "runs/*.xyz" matches.

    Raises
    ------
    UserError
        A pattern that matches nothing.
    """
    several = [names] if isinstance(names, str | os.PathLike) else names
    out: list[Path] = []
    for name in several:
        path = Path(name)
        pattern, at, selection = path.name.partition("@")
        # A folder that is there is meant letter by letter.
        folder = str(path.parent) if not path.parent.is_dir() else glob.escape(str(path.parent))
        if path.exists() or not glob.has_magic(os.path.join(folder, pattern)):  # noqa: PTH118
            out.append(path)
            continue
        found = sorted(glob.glob(os.path.join(folder, pattern)))  # noqa: PTH118, PTH207
        if not found:
            raise UserError(f"{name}: no file matches this pattern")
        out += [Path(f"{file}{at}{selection}") for file in found]
    return out


def file_of(path: Path) -> Path:
    """Give the file, or folder, whose frames are meant, without which of them; see `iterate`."""
    return _selection(path)[0]


def iterate(path: Path, *, last: bool = False) -> Iterator[tuple[str, Atoms]]:
    """Read frames one by one, each with its file and number in it, for messages.

    Parameters
    ----------
    path : Path
        "FILE@10:20" is ASE's way to name some frames, where no file has that name. A folder is
        that of a set, see `ase_ws.frames.sets`.
    last : bool
        Only the last of them.

    Raises
    ------
    UserError
        No such file, or a frame that cannot be read: the message names it.
    """
    file, selection = _selection(path)
    if parts := sets.parts(file):
        chosen = _chosen(sets.entries(parts), selection, file, last)
        yield from sets.read(entry for _, entry in chosen)
        return
    number = 0
    try:
        format_ = _format(file)
        if format_ in _XYZ:
            for number, text in _chosen(_xyz_frames(file), selection, file, last):
                frame = _first(ase.io.read(io.StringIO(text), format="extxyz"))
                yield f"{path}, frame {number}", frame
            return
        with _unpacked(file) as plain:
            several = ase.io.iread(
                str(plain), index=selection, format=format_, do_not_split_by_at_sign=True
            )
            numbered = zip(_numbers(selection), _with_notes(several, file), strict=False)
            for number, atoms in deque(numbered, maxlen=1) if last else numbered:
                _require_real(atoms, file, number, format_)
                yield f"{path}, frame {number}", atoms
                number += 1  # noqa: PLW2901 - where the next one fails
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error})") from error
    except Exception as error:
        detail = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, KeyError):
            detail = f"unknown element or key {detail}"
        raise UserError(
            f"{file}, frame {number}: cannot be read ({detail:.200}); expected a file that ASE can "
            "read, such as extended XYZ"
        ) from error


def _require_real(atoms: Atoms, file: Path, number: int, format_: str) -> None:
    """Refuse, or mend, what a format says that is no structure."""
    where = f"{file}, frame {number}"
    partial = [
        symbol
        for site in _occupancy(atoms).values()
        for symbol, part in dict(site).items()
        if not part >= FULL
    ]
    if partial:
        raise UserError(
            f"{where}: sites that are partly occupied ({', '.join(sorted(set(partial)))}); "
            "expected every atom to be there: choose an ordered structure"
        )
    lammps = format_.startswith("lammps-dump")
    if lammps and (format_ != "lammps-dump-text" or not _names_elements(file)):
        raise UserError(
            f"{where}: a LAMMPS dump without elements, whose atom types would be read as atomic "
            "numbers; write it with 'element' among its columns (dump_modify element)"
        )
    # What the PDB format has for "no cell".
    if format_ == "proteindatabank" and np.allclose(atoms.cell.cellpar(), [1, 1, 1, 90, 90, 90]):
        atoms.set_cell(None)
        atoms.pbc = False


def _occupancy(atoms: Atoms) -> dict[Any, Any]:
    sites = atoms.info.get("occupancy")
    return (
        sites
        if isinstance(sites, dict) and all(isinstance(s, dict) for s in sites.values())
        else {}
    )


def _names_elements(file: Path) -> bool:
    with open_with_compression(str(file), "r") as text:
        columns = next((str(line) for line in text if "ITEM: ATOMS" in str(line)), "")
    return "element" in columns.split()


def _numbers(selection: slice | int | str) -> Iterator[int]:
    """Count the frames as the file does, as far as that is known."""
    if isinstance(selection, slice):
        return itertools.count(selection.start or 0, selection.step or 1)
    return itertools.count(selection if isinstance(selection, int) else 0)


def _with_notes(frames: Iterator[Atoms], file: Path) -> Iterator[Atoms]:
    """Pass on what ASE's reader has to say of the file, without the line of code it comes from."""
    while True:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            atoms = next(frames, None)
        for note in caught:
            # Others are about ASE's own code.
            if issubclass(note.category, UserWarning):
                warnings.warn(f"{file}: {note.message}", stacklevel=2)
        if atoms is None:
            return
        yield atoms


@contextmanager
def _unpacked(file: Path) -> Iterator[Path]:
    """Give the file itself, or its unpacked content under the inner name, which ASE goes by."""
    if file.suffix not in _PACKED:
        yield file
        return
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / file.stem
        with open_with_compression(str(file), "rb") as packed, plain.open("wb") as out:
            shutil.copyfileobj(packed, out)
        yield plain


def _first(atoms: Atoms | list[Atoms]) -> Atoms:
    return atoms[0] if isinstance(atoms, list) else atoms


def _selection(path: Path) -> tuple[Path, slice | int | str]:
    """Part a name into the file and the frames of it that are meant."""
    if path.is_dir() and not sets.parts(path):
        raise UserError(
            f"{path}: is a folder; expected a file, a pattern such as {path}/*.xyz, or a folder of "
            ".h5 or .aselmdb files"
        )
    if path.exists() or "@" not in path.name:
        if not path.exists():
            raise UserError(f"{path}: no such file; expected a structure file that ASE can read")
        return path, slice(None)
    name, _, text = path.name.rpartition("@")
    file = path.with_name(name)
    if not (file.is_file() or sets.parts(file)):
        raise UserError(f"{file}: no such file; expected a structure file that ASE can read")
    try:
        selection = string2index(text)
    except ValueError:
        selection = text
    if isinstance(selection, str) and file.suffix not in (".db", ".json"):
        raise UserError(
            f"{path}: no such file, and '{text}' behind the @ names no frames of {file.name}; "
            "expected a number or a range such as @:100 or @10:20"
        )
    return file, selection


def _format(file: Path) -> str:
    """Give ASE's name of the format: by the name of the file and its first lines."""
    packed = file.suffix in _PACKED
    if (file.with_suffix("") if packed else file).suffix.lower() in (".xyz", ".extxyz"):
        return "extxyz"
    try:
        guess = filetype(str(file))
    except UnknownFileTypeError:
        guess = ""
    if guess in ioformats:
        return guess
    with open_with_compression(str(file), "r") as text:
        first = next((line for line in text if line.strip()), "")
    if str(first).strip().isdigit():
        return "extxyz"
    raise UserError(
        f"{file}: of no format that ASE knows by this name; expected a name such as frames.xyz, "
        "OUTCAR, vasprun.xml, orca.out or frames.traj"
    )


def _chosen(
    frames: Iterator[_Item], selection: slice | int | str, file: Path, last: bool
) -> Iterator[tuple[int, _Item]]:
    """Take some of the frames; only what counts from the end needs all of them at once."""
    numbered = enumerate(frames)
    if isinstance(selection, str):
        raise UserError(f"{file}@{selection}: expected a number or a range such as @:100")
    if isinstance(selection, int):
        several = list(numbered)
        if not -len(several) <= selection < len(several):
            raise UserError(f"{file}@{selection}: the file has {len(several)} frames")
        yield several[selection]
        return
    bounds = (selection.start or 0, selection.stop or 0, selection.step or 1)
    chosen: Iterator[tuple[int, _Item]] | list[tuple[int, _Item]]
    if min(bounds) < 0:
        chosen = list(numbered)[selection]
    else:
        chosen = itertools.islice(numbered, selection.start, selection.stop, selection.step)
    if not last:
        yield from chosen
        return
    final = None
    for final in chosen:  # noqa: B007 - the last one counts
        pass
    if final is not None:
        yield final


def _xyz_frames(file: Path) -> Iterator[str]:
    """Cut an (extended) XYZ file into frames; blank lines between them do not matter.

    Raises
    ------
    UserError
        What is there is no frame, or not the whole of one.
    """
    with open_with_compression(str(file), "r") as text:
        number, line_number, blank = 0, 0, ""
        line = text.readline()
        while line:
            line_number += 1
            if not line.strip():
                blank, line = line.rstrip("\n"), text.readline()
                continue
            if not line.strip().isdigit():
                if blank == HALF_WRITTEN and line.startswith(("Lattice=", "Properties=")):
                    return
                raise UserError(
                    f"{file}, line {line_number}: expected the number of atoms of frame {number}, "
                    f"found '{line.strip():.40}'; cut off what is no frame, or take "
                    f"{file.name}@:{number} to leave the rest out"
                )
            n_atoms = int(line)
            lines = [line]
            for _ in range(n_atoms + 1):
                line = text.readline()
                if not line:
                    raise UserError(
                        f"{file}, frame {number}: cannot be read: the file ends after "
                        f"{max(0, len(lines) - 2)} of its {n_atoms} atoms; take "
                        f"{file.name}@:{number} to leave it out"
                    )
                lines.append(line)
            line_number += n_atoms + 1
            line = text.readline()
            # Lattice vectors of an older dialect.
            while line.lstrip().startswith("VEC"):
                lines.append(line)
                line_number += 1
                line = text.readline()
            yield "".join(lines)
            number, blank = number + 1, ""
