"""The design: which runs are made. Groups of cases, each the product of what it lists."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

FILE = Path(__file__).parent / "design.yaml"
#: What makes a case; each is a list in a group, and a value in a case.
FACTORS = (
    "set",
    "start",
    "forces",
    "labels",
    "n",
    "learning_rate",
    "steps",
    "batch",
    "judge",
    "seed",
    "method",
)
Case = dict[str, Any]


class Method(BaseModel):
    """Settings of `weak` (one number, the strength, sets some of them), `loss`, `optimizer`."""

    model_config = ConfigDict(extra="forbid")
    weak: dict[str, Any] = Field(default_factory=dict)
    loss: dict[str, Any] = Field(default_factory=dict)
    optimizer: dict[str, Any] = Field(default_factory=dict)
    strength: list[str] = Field(default_factory=list)

    def settings(self, strength: float | None) -> dict[str, Any]:
        """Give the section `weak` at this strength; None: what is shipped."""
        if strength is None:
            return self.weak
        return {**self.weak, **dict.fromkeys(self.strength, strength)}


class Change(BaseModel):
    """What combinations that fit `when` have in place of what the group says."""

    model_config = ConfigDict(extra="forbid")
    when: dict[str, Any]
    to: dict[str, Any]


class Group(BaseModel):
    """A question, and the runs that answer it."""

    model_config = ConfigDict(extra="forbid")
    title: str
    why: str
    kind: str = Field(default="table", description="table, grid, curve or judge")
    times: bool = Field(
        default=False,
        description="show CPU times: of runs made beside each other, or they say nothing",
    )
    set: list[str]
    start: list[str] = ["scratch"]
    forces: list[str] = ["conservative"]
    labels: list[str] = ["energy+forces"]
    n: list[int]
    learning_rate: list[float | None] = [None]
    steps: list[int]
    batch: list[int | None] = [None]
    judge: list[bool] = [False]
    seed: list[int] = [0, 1, 2]
    method: list[str]
    tries: dict[str, list[dict[str, Any]]] = Field(
        default_factory=dict,
        description="what each method is tuned over; the best by validation at seed 0 goes on",
    )
    changes: list[Change] = Field(
        default_factory=list, description="factors that some combinations have differently"
    )
    skip: list[dict[str, Any]] = Field(
        default_factory=list, description="combinations that are left out"
    )

    def cells(self) -> list[Case]:
        """Give every combination but seeds and methods."""
        return [_without(c, "seed", "method") for c in self._product(["-"], [0])]

    def cases(self, seeds: list[int] | None = None) -> list[Case]:
        """Give every run, untuned; seeds outermost, so that a part is a table of fewer seeds."""
        return self._product(self.method, self.seed if seeds is None else seeds)

    def tries_of(self, method: str) -> list[dict[str, Any]]:
        """Give what a method is tuned over; one try, without a setting, where there is none."""
        return self.tries.get(method, [{}])

    def changed(self, case: Case) -> Case:
        """Give the case as its changes have it."""
        new = dict(case)
        for change in self.changes:
            if matches(case, change.when):
                new.update(change.to)
        return new

    def _product(self, methods: list[str], seeds: list[int]) -> list[Case]:
        names = ("seed", *(f for f in FACTORS if f not in ("seed", "method")), "method")
        lists = {
            **{name: getattr(self, name) for name in FACTORS},
            "seed": seeds,
            "method": methods,
        }
        found = []
        for values in itertools.product(*(lists[name] for name in names)):
            case = self.changed(dict(zip(names, values, strict=True)))
            if not any(matches(case, left_out) for left_out in self.skip):
                found.append(case)
        return found


#: Of each set the frames like those it was trained on, or the only ones.
MAIN_TESTS = ["test", "300 K", "mixed T"]


class Claim(BaseModel):
    """A bound on a ratio to supervised, in every cell of a group that fits `where`.

    what: "energy", "forces": the mean ratio of each cell on each of `tests`; "worst", "best": of
    the grid's forces.
    """

    model_config = ConfigDict(extra="forbid")
    says: str
    group: str
    method: str
    what: str
    at_most: float
    where: dict[str, list[Any]] = {}
    tests: list[str] = MAIN_TESTS


class Design(BaseModel):
    """All methods, all groups, and what is claimed."""

    model_config = ConfigDict(extra="forbid")
    methods: dict[str, Method]
    groups: dict[str, Group]
    claims: list[Claim] = []


@cache
def load_design() -> Design:
    """Read the design."""
    return Design.model_validate(yaml.safe_load(FILE.read_text(encoding="utf-8")))


def plain(case: Case) -> Case:
    """Leave out what is not set: the key of a result must not depend on factors added later."""
    return {k: v for k, v in case.items() if v is not None and v is not False}


def key(case: Case) -> tuple[tuple[str, str], ...]:
    """Give what tells a run from every other."""
    return tuple(sorted((k, str(v)) for k, v in plain(case).items()))


def matches(case: Case, pattern: dict[str, Any]) -> bool:
    """Tell whether a case has these values; a list stands for any of its values."""
    return all(case[k] in v if isinstance(v, list) else case[k] == v for k, v in pattern.items())


def _without(case: Case, *names: str) -> Case:
    return {k: v for k, v in case.items() if k not in names}
