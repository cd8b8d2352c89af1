"""A Matplotlib figure as inline SVG that takes the page's light or dark ink."""

from __future__ import annotations

import io
import re
from html import escape

from markupsafe import Markup
from matplotlib.figure import Figure

INK = "#1d2129"
SOFT_INK = "#5b6370"
GRID = "#dcdfe4"

# These colours belong to the page, not to the data: the style sheet sets them by theme.
_THEMED = {INK: "var(--ink)", SOFT_INK: "var(--soft)", GRID: "var(--grid)"}

_RASTER_DPI = 220
"""Of the parts drawn as pixels (clouds of points), sharp on a screen of twice the density."""

_PREAMBLE = re.compile(r"^.*?(?=<svg\b)", re.DOTALL)
_ROOT = re.compile(r"<svg\b[^>]*>")
_VIEW_BOX = re.compile(r'viewBox="([^"]*)"')
_UNWANTED = re.compile(r"<metadata>.*?</metadata>|<style\b.*?</style>", re.DOTALL)
_ID = re.compile(r'\bid="([^"]*)"')


def inline_svg(figure: Figure, alt: str, prefix: str) -> Markup:
    """Draw a figure as an `<svg>` element for an HTML page.

    Parameters
    ----------
    figure : Figure
        Drawn with `INK`, `SOFT_INK` and `GRID` where the page's theme should decide.
    alt : str
        What the figure shows, in words, for those who cannot see it.
    prefix : str
        Unique on the page: element names in SVG are global to the document.

    Returns
    -------
    Markup
        Safe to put into the page: `alt` is escaped, all else was made by Matplotlib.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", dpi=_RASTER_DPI, metadata={"Date": None})
    svg = _UNWANTED.sub("", _PREAMBLE.sub("", buffer.getvalue(), count=1))
    svg = _ROOT.sub(lambda match: _root(match.group(), alt), svg, count=1)
    svg = _unique_ids(svg, prefix).replace("xlink:href=", "href=")
    for colour, variable in _THEMED.items():
        svg = svg.replace(colour, variable)
    return Markup(svg)


def _root(tag: str, alt: str) -> str:
    match = _VIEW_BOX.search(tag)
    box = match.group(1) if match else ""
    # Matplotlib sets the line style with a style sheet that would reach the whole page.
    style = "stroke-linejoin:round;stroke-linecap:butt"
    return f'<svg viewBox="{box}" role="img" aria-label="{escape(alt)}" style="{style}">'


def _unique_ids(svg: str, prefix: str) -> str:
    """Give the names numbers: unique on the page, and the same for the same figure."""
    names = {name: f"{prefix}-{i}" for i, name in enumerate(dict.fromkeys(_ID.findall(svg)))}
    svg = _ID.sub(lambda match: f'id="{names[match.group(1)]}"', svg)
    return re.sub(
        r'(url\(#|href="#)([^)"]*)',
        lambda match: match.group(1) + names.get(match.group(2), match.group(2)),
        svg,
    )
