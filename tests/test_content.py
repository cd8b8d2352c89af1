"""Bytes for what an object is: told apart by code and settings, the same in another process."""

import subprocess
import sys
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch

from ase_ws.content import content, short_hash


def told(value, *, deep=True):
    return short_hash(content(value, deep=deep))


@dataclass
class Settings:
    a: float


@dataclass
class Others:
    a: float


class Held:
    __slots__ = ("a", "ring")

    def __init__(self, a):
        self.a, self.ring = a, self

    def method(self):
        return self.a


class Names:
    def __init__(self):
        self.names = {"one", "two", "three", "four"}
        self.function = lambda x: x in {"five", "six", "seven"}


def enclosing(a):
    return lambda x: a * x


PAIRS = [
    (lambda x: x + 1, lambda x: x + 2),
    (lambda x: x.cos(), lambda x: x.sin()),
    (enclosing(1), enclosing(2)),
    (partial(max, 1), partial(max, 2)),
    (max, min),
    (Held(1), Held(2)),
    (Held(1).method, Held(2).method),
    (Settings(1.0), Settings(2.0)),
    (Settings(1.0), Others(1.0)),
    ({"a": {1, 2}}, {"a": {1, 3}}),
    (np.zeros(3), np.zeros(4)),
    (torch.zeros(2), torch.ones(2)),
    (torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)),
    (torch.nn.Dropout(0.1), torch.nn.Dropout(0.2)),
    (Held(torch.zeros(2, dtype=torch.bfloat16)), Held(torch.ones(2, dtype=torch.bfloat16))),
    ([1, [2]], [[1], 2]),
    (Names, Held),
]


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_what_differs_is_told_apart(one, other):
    assert told(one) == told(one)
    assert told(one) != told(other)


def test_equal_settings_are_the_same():
    assert told(Held(1)) == told(Held(1))
    assert told(enclosing(1)) == told(enclosing(1))
    assert told({"a": 1, "b": 2}) == told({"b": 2, "a": 1})


def test_only_asked_for_does_it_look_into_objects():
    assert told(Held(1), deep=False) == told(Held(2), deep=False)
    assert told(Settings(1.0), deep=False) != told(Settings(2.0), deep=False)


def test_another_process_says_the_same():
    """Sets have another order there, and objects other addresses."""
    program = "from test_content import *; print(told(Names()), told(enclosing(2)), told(Held))"
    seen = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=__file__.rsplit("/", 1)[0],
            env={**__import__("os").environ, "PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(seen) == 1
