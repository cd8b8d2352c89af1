"""The files and folders that a run writes: found out before the work, never mixed, never lost."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ase_ws.errors import UserError


def require_free(out: Path, *, overwrite: bool, resume: str | None = None) -> None:
    """Raise a `UserError` where `out` cannot be the folder of a new run.

    That is: a file, a folder with something in it, or one that cannot be written to.

    Parameters
    ----------
    out : Path
    overwrite : bool
        A folder with something in it is fine.
    resume : str, optional
        How to go on with the run that is there, for the error.
    """
    require_writable(out, folder=True)
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        going_on = f"{resume} to go on, " if resume else ""
        raise UserError(
            f"{out}: exists and is not empty; use {going_on}--overwrite to start anew, or another "
            "--out"
        )


def require_writable(path: Path, *, folder: bool = False) -> None:
    """Find out by trying whether `path` can be written, before any work; leave nothing behind.

    A file is written beside its place and moved there (see `ase_ws.files.writing`), so its folder
    must be there and be writable. A folder, and those above it, are made where they are missing.

    Parameters
    ----------
    path : Path
    folder : bool
        `path` is to be a folder.

    Raises
    ------
    UserError
        It cannot; says why.
    """
    try:
        if path.is_symlink():
            # What it points to is what will be written.
            path = Path(os.path.realpath(path))
        if folder:
            if path.exists() and not path.is_dir():
                raise UserError(f"{path}: is a file; expected a folder to write to")
            _try_folder(path)
            return
        if path.is_dir():
            raise UserError(f"{path}: is a folder; expected the name of a file to write")
        if path.exists() and not path.is_file():
            # A pipe or a device: whoever reads it decides.
            return
        if not path.parent.is_dir():
            raise UserError(f"{path}: there is no folder {path.parent}; make it first")
        # As `ase_ws.files.writing` names its files: a little longer than the name itself.
        suffix = "".join(path.suffixes)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.stem}.", suffix=suffix):
            pass
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); give a place that you may "
            "write to"
        ) from error


def _try_folder(path: Path) -> None:
    """Make and remove a folder in the nearest one that is there; others may do so meanwhile."""
    missing: list[Path] = []
    while not path.exists():
        missing.append(path)
        path = path.parent
    with tempfile.TemporaryDirectory(dir=path, prefix=".ase-ws-"):
        for part in missing:
            # Only asked about, which a name that is too long does not survive.
            (path / part.name).exists()


def make_clear(out: Path, names: Sequence[str]) -> Path:
    """Make the folder and remove these files of an earlier run; nothing else is ever removed.

    To be called once the input is known to be good, so that a mistake costs no earlier result.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        (out / name).unlink(missing_ok=True)
    return out
