"""The pictures of the failing frames, with the words beside them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ase_ws.report.drawing import structure as frame_plot
from ase_ws.report.drawing.panels import Drawer, Panel
from ase_ws.report.drawing.text import joined, number
from ase_ws.report.stability.entries import Entry
from ase_ws.report.stability.sentences import atom_names, blame_sentence, finding_where, frame_alt
from ase_ws.results.blame import Blame
from ase_ws.results.finding import Finding
from ase_ws.results.pictures import FailingFrame

_SYMBOL = re.compile(r"[A-Z][a-z]?")
_USUAL_RADIUS = 0.8
"""Covalent radius in Å of an atom for which the file has none."""
_MANY_ATOMS = 12


@dataclass(frozen=True)
class FirstFailure:
    """What failed first in one run, with its picture and its blame."""

    entry: Entry
    check: str
    message: str
    facts: tuple[tuple[str, str], ...]
    picture: Panel | None
    caption: str
    blame: Blame | None
    blame_sentence: str


def first_failures(entries: Sequence[Entry], drawer: Drawer) -> list[FirstFailure]:
    """Collect the first failure of each run that has one."""
    found = []
    for entry in entries:
        first, run = entry.first_failure, entry.run
        if run is None or (first is None and run.failing_frame is None and run.blame is None):
            continue
        frame = run.failing_frame
        first = first or _finding_of(frame)
        picture, caption = (None, "") if frame is None else _picture(frame, entry, drawer)
        found.append(
            FirstFailure(
                entry,
                first.check or "unnamed check",
                first.message,
                _facts(first, entry, frame),
                picture,
                caption,
                run.blame,
                blame_sentence(run.blame, before_md=entry.decided_before_md)
                if run.blame is not None
                else "",
            )
        )
    return found


def _finding_of(frame: FailingFrame | None) -> Finding:
    if frame is None:
        return Finding(message="No failure is listed.")
    return Finding(
        check=frame.check,
        message=frame.message,
        atoms=frame.marked,
        time=math.nan if frame.time_ps is None else 1000 * frame.time_ps,
        temperature=frame.temperature,
        replica=frame.replica,
    )


def _facts(
    finding: Finding, entry: Entry, frame: FailingFrame | None
) -> tuple[tuple[str, str], ...]:
    symbols = frame.symbols if frame is not None else []
    names = atom_names(finding.atoms, symbols)
    more = f" and {len(names) - _MANY_ATOMS} more" if len(names) > _MANY_ATOMS else ""
    unit = _unit_of(entry, finding.check)
    facts = {
        "When": "before MD" if entry.decided_before_md else finding_where(finding),
        "Atoms": joined(names[:_MANY_ATOMS]) + more if names else "the whole system",
        "Measured": "" if finding.value is None else f"{number(finding.value)} {unit}",
        "Limit": "" if finding.threshold is None else f"{number(finding.threshold)} {unit}",
    }
    return tuple((name, text.strip()) for name, text in facts.items() if text)


def _unit_of(entry: Entry, check: str) -> str:
    checks = [*entry.run.checks, *entry.run.static] if entry.run is not None else []
    return next((item.unit for item in checks if item.name == check), "")


def _picture(frame: FailingFrame, entry: Entry, drawer: Drawer) -> tuple[Panel | None, str]:
    """Draw the frame; atoms without a place are left out."""
    places = [
        (i, place)
        for i, place in enumerate(frame.positions[: len(frame.symbols)])
        if len(place) == 3 and None not in place
    ]
    if not places:
        return None, ""
    row = {atom: k for k, (atom, _) in enumerate(places)}
    symbols = [frame.symbols[atom] for atom, _ in places]
    plain = [symbol if _SYMBOL.fullmatch(symbol) else "X" for symbol in symbols]
    radii = [_radius(frame, atom) for atom, _ in places]
    bonds = [
        (row[bond[0]], row[bond[1]])
        for bond in frame.bonds
        if len(bond) == 2 and bond[0] in row and bond[1] in row and bond[0] != bond[1]
    ]
    marked = list(dict.fromkeys(row[atom] for atom in frame.marked if atom in row))
    figure, shown = frame_plot.structure(
        frame_plot.Picture(
            plain,
            np.array([place for _, place in places], dtype=float),
            np.array(radii),
            bonds,
            marked,
            [f"{symbol}{atom}" for symbol, (atom, _) in zip(plain, places, strict=True)],
        )
    )
    alt = f"{entry.name}: {frame_alt(frame, atom_names(frame.marked, frame.symbols), shown)}"
    return drawer.panel("", figure, alt), _caption(
        frame, shown, len(marked), later=entry.decided_before_md
    )


def _radius(frame: FailingFrame, atom: int) -> float:
    radius = frame.radii[atom] if atom < len(frame.radii) else None
    return radius if radius is not None and radius > 0 else _USUAL_RADIUS


def _caption(frame: FailingFrame, shown: int, n_marked: int, *, later: bool) -> str:
    what = "The frame at which the run was stopped"
    if later:
        what = f"The frame at which MD was stopped afterwards ({frame.check or 'unnamed check'})"
    parts = [f"{what}, from the side that hides the fewest atoms"]
    if shown < len(frame.symbols):
        parts = [f"The {shown} of {len(frame.symbols)} atoms nearest to the failure"]
    if n_marked:
        parts.append(f"the failing {'atom is' if n_marked == 1 else 'atoms are'} ringed")
    return "; ".join(parts) + ". Atoms are counted from 0."
