"""Plain data of what a page draws: distributions of bond lengths, and the failing frame."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated

from pydantic.dataclasses import dataclass

from ase_ws.results.record import CONFIG, Indices, NoneIsEmpty, Numbers, Record, Text, about


@dataclass(frozen=True, config=CONFIG)
class BondLengths(Record):
    """Distribution of the lengths of one kind of bond."""

    pair: Annotated[Text, about("Elements, such as 'C-H'.")] = ""
    edges: Annotated[Numbers, about("Edges of the bins in Å, one more than there are bins.")] = (
        field(default_factory=list)
    )
    md: Annotated[Numbers, about("Probability density in MD, 1/Å.")] = field(default_factory=list)
    training: Annotated[Numbers, about("The same in the training data; empty where not known.")] = (
        field(default_factory=list)
    )


@dataclass(frozen=True, config=CONFIG)
class FailingFrame(Record):
    """The frame at which the first failing run was stopped."""

    symbols: Annotated[list[Text], NoneIsEmpty, about("Element of each atom.")] = field(
        default_factory=list
    )
    positions: Annotated[list[Numbers], NoneIsEmpty, about("Cartesian coordinates in Å.")] = field(
        default_factory=list
    )
    radii: Annotated[Numbers, about("Covalent radius of each atom in Å.")] = field(
        default_factory=list
    )
    bonds: Annotated[
        list[Indices], NoneIsEmpty, about("Pairs of bonded atoms, counted from 0.")
    ] = field(default_factory=list)
    marked: Annotated[Indices, about("The atoms that the failing check is about.")] = ()
    check: Annotated[Text, about("Name of the check.")] = ""
    message: Annotated[Text, about("What it said.")] = ""
    time_ps: Annotated[float | None, about("When, in ps.")] = None
    temperature: Annotated[float | None, about("Set temperature in K.")] = None
    replica: Annotated[int | None, about("In which run.")] = None
