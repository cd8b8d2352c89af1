"""Sets of frames in HDF5 and LMDB, which `mace_run_train` takes beside extended XYZ.

| file | written by | one frame |
| --- | --- | --- |
| `.h5`, `.hdf5` | `mace_prepare_data` | the group `config_batch_0/config_7` |
| `.aselmdb`, `.lmdb` | fairchem, mace-torch | a row of an ASE database at `8`: JSON in zlib |

Nothing in a file is run: pickles, which fairchem's older sets hold, are refused, and rows are plain
JSON here, where `ase.db` makes objects of them.
"""

from __future__ import annotations

import itertools
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from ase_ws.errors import UnsafeFileError, UserError, about
from ase_ws.frames.labels import STANDARD, WEIGHTED

#: A file of the set, the number of a frame in it, and what the file calls this frame.
Entry = tuple[Path, int, str]
#: What the frames of an open file are called, and how to read one.
_Opened = tuple[list[str], Callable[[str], Atoms]]

#: What mace-torch keeps of `Atoms.info`, under its names and ours.
_INFO = {
    "weight": "config_weight",
    "config_type": "config_type",
    "head": "head",
    "virials": "virials",
    "total_charge": "charge",
    "total_spin": "spin",
}
#: What it writes where a frame says nothing.
_NOTHING = ("None", "Default", "")
_STRUCTURE = ("numbers", "positions", "cell", "pbc", "tags", "masses", "momenta")
#: Bytes of one row or array, unpacked: a few packed ones could fill the memory.
_LARGEST = 2**30


def parts(path: Path) -> list[Path]:
    """Give the files of a set: itself, or those in a folder in the order of their numbers.

    There are none where the path is no set.
    """
    inside = path.iterdir() if path.is_dir() else [path]
    found = (file for file in inside if file.suffix.lower() in _OPEN and file.is_file())
    return sorted(found, key=lambda file: re.sub(r"\d+", lambda n: n[0].zfill(20), file.name))


def entries(files: Iterable[Path]) -> Iterator[Entry]:
    """Find every frame, without reading it."""
    for file in files:
        with _opened(file) as (names, _):
            pass
        yield from ((file, number, name) for number, name in enumerate(names))


def read(chosen: Iterable[Entry]) -> Iterator[tuple[str, Atoms]]:
    """Read frames, each with its file and number, for messages.

    Labels stand where ASE puts those of extended XYZ; of constraints only fixed atoms are taken.

    Raises
    ------
    UserError
        A file or a frame that is damaged, or of another kind.
    """
    for file, several in itertools.groupby(chosen, key=itemgetter(0)):
        with _opened(file) as (_, atoms_of):
            for _, number, name in several:
                where = f"{file}, frame {number}"
                with _named(where):
                    atoms = atoms_of(name)
                yield where, atoms


@contextmanager
def _opened(file: Path) -> Iterator[_Opened]:
    with ExitStack() as stack:
        with _named(file):
            if file.stat().st_size == 0:
                raise UserError("is empty; expected frames")
            opened = stack.enter_context(_OPEN[file.suffix.lower()](file))
        yield opened


@contextmanager
def _named(where: object) -> Iterator[None]:
    """Make one line, which names the file, of whatever is wrong with it."""
    with about(where):
        try:
            yield
        except UserError:
            raise
        except ModuleNotFoundError as error:
            raise UserError(f"needs {error.name}: pip install {error.name}") from error
        except Exception as error:
            detail = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"cannot be read ({detail:.200}); expected what mace_prepare_data writes (.h5), or "
                "a set of ASE's kind (.aselmdb)"
            ) from error


# HDF5 -------------------------------------------------------------------------------------------


@contextmanager
def _hdf5(file: Path) -> Iterator[_Opened]:
    import h5py

    with h5py.File(file, "r") as opened:
        batches = _numbered(opened, "config_batch")
        if not batches:
            raise UserError("has no group config_batch_0; expected a file of mace_prepare_data")
        names = [f"{batch}/{c}" for batch in batches for c in _numbered(opened[batch], "config")]
        yield names, lambda name: _from_group(opened[name])


def _numbered(group: Any, stem: str) -> list[str]:
    """Names in their order: to HDF5, config_10 is before config_2."""
    found = (re.fullmatch(rf"{stem}_(\d+)", key) for key in group)
    return [match[0] for match in sorted(filter(None, found), key=lambda match: int(match[1]))]


def _from_group(group: Any) -> Atoms:
    values = _values(group)
    # Up to mace-torch 0.3.10 everything is in one group, and labels that a frame has not are
    # zeros whose weight is 0.
    weights = {label: values.get(f"{label}_weight", 1.0) for label in WEIGHTED}
    if "properties" in group:
        values.update(_values(group["properties"]))
        weights.update(_values(group["property_weights"]))
    there = [k for k in WEIGHTED if k in values and (weights[k] != 0 or np.any(values[k]))]
    values = {k: v for k, v in values.items() if k in there or k not in WEIGHTED}
    info = {ours: values[key] for key, ours in _INFO.items() if key in values}
    # Every label has a weight there, and one of virials would stand for that of stress.
    info |= {f"config_{label}_weight": weights[label] for label in there if weights[label] != 1}
    return _atoms({**values, "numbers": values.get("atomic_numbers")}, info)


def _values(group: Any) -> dict[str, Any]:
    """Give what is in the group itself (not in groups there), without what says nothing."""
    small = {k: v for k, v in group.items() if getattr(v, "nbytes", _LARGEST) < _LARGEST}
    found = {key: array[()] for key, array in small.items()}
    plain = {k: v.decode() if isinstance(v, bytes) else v for k, v in found.items()}
    return {k: v for k, v in plain.items() if not (isinstance(v, str) and v in _NOTHING)}


# LMDB -------------------------------------------------------------------------------------------


@contextmanager
def _lmdb(file: Path) -> Iterator[_Opened]:
    import lmdb

    with lmdb.open(str(file), subdir=False, readonly=True, lock=False) as opened:
        # It is mapped into memory: to touch what is beyond its end would kill the process.
        if file.stat().st_size < (opened.info()["last_pgno"] + 1) * opened.stat()["psize"]:
            raise UserError("ends before its last page; copy it once more")
        with opened.begin() as rows:
            keys = list(rows.cursor().iternext(values=False))
            names = sorted((key.decode() for key in keys if key.isdigit()), key=int)
            if keys and not names and b"nextid" not in keys:
                raise UserError("has no rows 1, 2, ...; expected a set of ASE's kind")
            yield names, lambda name: _from_row(_unpacked(rows.get(name.encode(), b"")))


def _unpacked(value: bytes) -> Any:
    if not value.startswith(b"\x78"):  # as zlib begins, and no pickle does
        raise UnsafeFileError(
            "is not JSON packed by zlib; pickles, which fairchem's older .lmdb sets hold, can run "
            "anything and are not read: write the set anew as .aselmdb or extended XYZ"
        )
    unpacking = zlib.decompressobj()
    text = unpacking.decompress(value, _LARGEST)
    if not unpacking.eof:
        raise UserError("is not the whole of a row, or a row of more than 1 GB")
    return json.loads(text, object_hook=_array)


def _array(found: dict[str, Any]) -> Any:
    """Make an array of what ASE writes for one; all other objects stay what they are."""
    if "__ndarray__" not in found:
        return found
    shape, _, flat = found["__ndarray__"]
    return np.asarray(flat).reshape(shape)


def _from_row(row: dict[str, Any]) -> Atoms:
    info = {**row.get("data", {}), **row.get("key_value_pairs", {})}
    arrays = info.pop("__arrays__", {})
    info.update(info.pop("__info__", {}))
    atoms = _atoms(row, info)
    for name, value in arrays.items():
        atoms.new_array(name, np.asarray(value))
    fixed = [c["kwargs"] for c in row.get("constraints", []) if c["name"] == "FixAtoms"]
    atoms.set_constraint([FixAtoms(indices=kwargs["indices"]) for kwargs in fixed])
    return atoms


def _atoms(values: Mapping[str, Any], info: dict[str, Any]) -> Atoms:
    for key in ("numbers", "positions"):
        if values.get(key) is None:
            raise UserError(f"has no {key} of atoms")
    atoms = Atoms(**{key: values.get(key) for key in _STRUCTURE}, info=info)
    results = {key: values[key] for key in STANDARD if values.get(key) is not None}
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


_OPEN: dict[str, Callable[[Path], AbstractContextManager[_Opened]]] = {
    ".h5": _hdf5,
    ".hdf5": _hdf5,
    ".lmdb": _lmdb,
    ".aselmdb": _lmdb,
}
