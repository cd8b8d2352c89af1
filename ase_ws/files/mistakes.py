"""What is wrong with a setting, in words for its user."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError


def first_mistake(error: ValidationError, model: type[BaseModel]) -> tuple[str, str]:
    """Give the first wrong field, and what is wrong with it.

    Parameters
    ----------
    error : ValidationError
    model : type of BaseModel
        What was validated: a name that it does not know is answered with the nearest that it does.

    Returns
    -------
    field : str
        Dotted; empty where no single field is wrong.
    message : str
    """
    first: dict[str, Any] = dict(error.errors()[0])
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return field, f"no such setting; {_instead(field, model)}"
    message = first["msg"].removeprefix("Value error, ")
    if not field or first["type"] == "missing":
        return field, message
    return field, f"{message} (got {first['input']!r:.60})"


def reason(error: Exception, model: type[BaseModel]) -> str:
    """Give what an error says in one line: of a failed validation the first wrong field."""
    if isinstance(error, ValidationError):
        field, message = first_mistake(error, model)
        return f"{field:.80}: {message}" if field else message
    return " ".join(str(error).split())


def _instead(field: str, model: type[BaseModel]) -> str:
    """Name the setting that may have been meant, else those that there are beside it."""
    known = list(_names(model))
    section, _, leaf = field.rpartition(".")
    beside = [name.rpartition(".")[2] for name in known if name.rpartition(".")[0] == section]
    for name in known:
        if name.rpartition(".")[2] == leaf:
            return f"did you mean '{name}'?"
    for near in difflib.get_close_matches(leaf, beside, n=1, cutoff=0.7):
        return f"did you mean '{section}.{near}'?" if section else f"did you mean '{near}'?"
    return "there are " + ", ".join(beside)


def _names(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """All settings and sections, dotted."""
    for name, field in model.model_fields.items():
        yield prefix + name
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _names(kind, f"{prefix}{name}.")
