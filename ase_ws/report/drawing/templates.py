"""Fill a template of this folder: HTML with its style inside, everything from outside escaped."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ase_ws.report.drawing import text


def render(name: str, context: Mapping[str, Any]) -> str:
    """Fill the template `name`; a variable that is not in `context` is an error."""
    return _environment().get_template(name).render(context)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("ase_ws", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": text.number,
        "seconds": text.seconds,
        "kelvin": text.kelvin,
    }
    return environment
