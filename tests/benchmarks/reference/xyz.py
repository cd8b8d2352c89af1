"""Extended XYZ with as many digits as the reference data carry, no more."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ase_ws.files.writing import atomic_path
from reference.geometries import DECIMALS


@dataclass(frozen=True)
class Frame:
    """A labelled geometry as it is stored.

    Attributes
    ----------
    symbols : list of str
        Elements.
    positions : list of list of float
        Å, already rounded to the stored digits.
    info : dict
        Single words and numbers for the comment line.
    energy : float
        eV.
    forces : list of list of float or None
        eV/Å.
    """

    symbols: list[str]
    positions: list[list[float]]
    info: dict[str, Any]
    energy: float
    forces: list[list[float]] | None


def write_frames(path: Path, frames: Iterable[Frame]) -> None:
    """Write frames whole or not at all, with `energy` and `forces` as ASE reads them back."""
    with atomic_path(path) as temporary:
        temporary.write_text("".join(map(_block, frames)), encoding="utf-8")


def _block(frame: Frame) -> str:
    columns = "species:S:1:pos:R:3" + (":forces:R:3" if frame.forces is not None else "")
    info = " ".join(f"{key}={value}" for key, value in frame.info.items())
    lines = [
        str(len(frame.symbols)),
        f'Properties={columns} energy={frame.energy:.6f} {info} pbc="F F F"',
    ]
    for i, symbol in enumerate(frame.symbols):
        row = [symbol, *(f"{x:.{DECIMALS}f}" for x in frame.positions[i])]
        if frame.forces is not None:
            row += [f"{f:.4f}" for f in frame.forces[i]]
        lines.append(" ".join(row))
    return "\n".join(lines) + "\n"
