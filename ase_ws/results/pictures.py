"""Plain data of what a page draws: distributions of bond lengths, and the failing frame."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from ase_ws.results.record import CONFIG, Indices, Listed, Numbers, Record, Text, about


@dataclass(frozen=True, config=CONFIG)
class BondLengths(Record):
    """Distribution of the lengths of one kind of bond."""

    pair: Text = about("Elements, such as 'C-H'.", "")
    edges: Numbers = about("Edges of the bins in Å, one more than there are bins.", list)
    md: Numbers = about("Probability density in MD, 1/Å.", list)
    training: Numbers = about("The same in the training data; empty where not known.", list)


@dataclass(frozen=True, config=CONFIG)
class FailingFrame(Record):
    """The frame at which the first failing run was stopped."""

    symbols: Listed[Text] = about("Element of each atom.", list)
    positions: Listed[Numbers] = about("Cartesian coordinates in Å.", list)
    radii: Numbers = about("Covalent radius of each atom in Å.", list)
    bonds: Listed[Indices] = about("Pairs of bonded atoms, counted from 0.", list)
    marked: Indices = about("The atoms that the failing check is about.", ())
    check: Text = about("Name of the check.", "")
    message: Text = about("What it said.", "")
    time_ps: float | None = about("When, in ps.")
    temperature: float | None = about("Set temperature in K.")
    replica: int | None = about("In which run.")
