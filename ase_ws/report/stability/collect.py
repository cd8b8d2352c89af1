"""Find and read the `stability.json` files that a report is about."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ase_ws.errors import UserError
from ase_ws.report.stability.entries import unique_names
from ase_ws.results.report import read_stability

FILE = "stability.json"
_HINT = f"expected a {FILE}, or a folder that holds some (`ase-ws stability --out DIR` writes one)"


def collect_runs(places: Sequence[str | os.PathLike[str]]) -> list[dict[str, Any]]:
    """Read all stability runs at these places, each with a name of its own.

    Parameters
    ----------
    places : sequence of path
        Each a `stability.json` (of any name), a folder with one, or a folder that holds several
        below it. A file that is met twice counts once.

    Returns
    -------
    list of dict
        The content of each file. `name` is filled in where it is absent (the folder), and made
        unique: where two have the same, the folders tell them apart.

    Raises
    ------
    UserError
        If a place does not exist or holds no such file, or a file cannot be read, is not of this
        schema or of a newer one.
    """
    files = list(dict.fromkeys(file.resolve() for place in places for file in _files(Path(place))))
    runs = [_read(file) for file in files]
    given = [
        str(run.get("name") or file.parent.name or file.stem)
        for run, file in zip(runs, files, strict=True)
    ]
    told = [
        name if given.count(name) == 1 else f"{name}, {_distinct_folder(file, files)}"
        for name, file in zip(given, files, strict=True)
    ]
    return [{**run, "name": name} for run, name in zip(runs, unique_names(told), strict=True)]


def _files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise UserError(f"{place}: no such file or folder; {_HINT}")
    if (place / FILE).is_file():
        return [place / FILE]
    found = sorted(place.rglob(FILE))
    if not found:
        raise UserError(f"{place}: no {FILE} in it or below it; {_HINT}")
    return found


def _read(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
        record = json.loads(text, parse_constant=lambda _: None, parse_float=_finite)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); {_HINT}") from error
    except (ValueError, RecursionError) as error:  # not JSON, or not UTF-8
        raise UserError(f"{file}: is no JSON ({error}); {_HINT}") from error
    if not isinstance(record, Mapping) or not {"verdict", "replicas"} & record.keys():
        raise UserError(f"{file}: holds no stability run; {_HINT}")
    read_stability(record, str(file))
    return dict(record)


def _finite(text: str) -> float | None:
    """Read a number; what is too large for one is as absent as NaN."""
    number = float(text)
    return number if math.isfinite(number) else None


def _distinct_folder(file: Path, files: Sequence[Path]) -> str:
    """Give the folder of a file without what all folders have in common at the front."""
    folders = [str(item.parent) for item in files]
    common = Path(os.path.commonpath(folders))
    folder = file.parent.relative_to(common)
    return folder.as_posix() if folder.parts else file.parent.name
