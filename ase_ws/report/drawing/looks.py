"""One colour, line and marker for each model, the same in every figure and table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any


@dataclass(frozen=True)
class Look:
    """How a model is drawn."""

    colour: str
    dash: tuple[float, ...]
    """Lengths on and off, in line widths; empty for a full line."""
    marker: str

    @property
    def linestyle(self) -> Any:
        """The dash as Matplotlib writes it."""
        return (0, self.dash) if self.dash else "-"


# Okabe and Ito's colours (safe for the colour-blind), those with a contrast of at least 3:1 on
# white and on near-black alike, so that a cloud of pixels needs no second version. See
# https://jfly.uni-koeln.de/color/.
GREY = Look("#80868f", (1.2, 1.6), "s")
"""For what the others are compared with."""
_BLUE = Look("#0a7abf", (), "o")
_VERMILION = Look("#d55e00", (5.0, 1.8), "^")
_OTHERS = (
    Look("#009e73", (4.0, 1.5, 1.0, 1.5), "D"),
    Look("#b8679a", (2.5, 1.2), "v"),
    Look("#a07c00", (7.0, 2.0), "P"),
)
_BY_KEY = {"base": GREY, "supervised": _BLUE, "weak": _VERMILION}


def looks(keys: Sequence[str]) -> list[Look]:
    """Give each model its look: the well-known keys have their own, others take what is left."""
    spare = cycle([*_OTHERS, *(look for key, look in _BY_KEY.items() if key not in keys)])
    return [_BY_KEY.get(key) or next(spare) for key in keys]


def series(n: int) -> list[Look]:
    """Give `n` looks, different from each other as far as eyes can tell them apart.

    Grey comes last of the first six; further ones repeat the colours with another dash.
    """
    colours = (_BLUE, _VERMILION, *_OTHERS, GREY)
    rounds = ((), (1.0, 1.0), (6.0, 2.0, 1.2, 2.0))
    return [
        colours[i]
        if i < len(colours)
        else replace(colours[i % len(colours)], dash=rounds[(i // len(colours)) % len(rounds)])
        for i in range(n)
    ]
