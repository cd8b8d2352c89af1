"""The folder that a run writes to: never mixes two runs, never loses one unasked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ase_ws.errors import UserError


def require_free(out: Path, *, overwrite: bool, resume: str | None = None) -> None:
    """Raise a `UserError` where `out` is a file, or a folder with something in it.

    Parameters
    ----------
    out : Path
    overwrite : bool
        A folder with something in it is fine.
    resume : str, optional
        How to go on with the run that is there, for the error.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; expected a folder to write to")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        going_on = f"{resume} to go on, " if resume else ""
        raise UserError(
            f"{out}: exists and is not empty; use {going_on}--overwrite to start anew, or another "
            "--out"
        )


def make_clear(out: Path, names: Sequence[str]) -> Path:
    """Make the folder and remove these files of an earlier run; nothing else is ever removed.

    To be called once the input is known to be good, so that a mistake costs no earlier result.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        (out / name).unlink(missing_ok=True)
    return out
