"""Panels of a page: drawn figures, each with a name of its own there."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

from markupsafe import Markup
from matplotlib.figure import Figure

from ase_ws.report.drawing.svg import inline_svg


@dataclass(frozen=True)
class Panel:
    """One drawn figure, or the words that stand where there is nothing to draw."""

    title: str
    svg: Markup | None
    empty: str = ""


@dataclass
class Drawer:
    """Draws figures with names that are unique on one page."""

    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def panel(self, title: str, figure: Figure, alt: str) -> Panel:
        """Draw one figure."""
        return Panel(title, inline_svg(figure, alt, f"fig{next(self._numbers)}"))
