"""YAML as users write it: read safely, within bounds, and every mistake in one line."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ase_ws.errors import UserError

#: Bounds of a file: bytes, nesting, and values once aliases (`*name`) are written out. Settings
#: need a few hundred bytes, three levels and some ten thousand names of files at the very most.
MOST_BYTES, MOST_DEPTH, MOST_VALUES = 1_000_000, 20, 100_000

#: What PyYAML raises beside its own errors where a value is not what it looks like or is tagged
#: as: a date of the 99th month, a number of ten thousand digits, `!!bool abc`.
_MISREAD = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


def read_yaml(path: str | os.PathLike[str], *, what: str) -> Any:
    """Read a YAML file of plain data (UTF-8, or UTF-16 with its mark); nothing in it is executed.

    Parameters
    ----------
    path : path
    what : str
        What the file is, for the error where it is not there, such as "campaign file".

    Raises
    ------
    UserError
        No such file, not valid YAML, or beyond the bounds above.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such {what}; expected YAML")
    if path.stat().st_size > MOST_BYTES:
        raise UserError(f"{path}: larger than {MOST_BYTES // 10**6} MB; expected a {what}")
    return parse_yaml(path.read_bytes(), str(path))


def parse_yaml(content: str | bytes, source: str) -> Any:
    """Read plain data from YAML; `source` is named in the error.

    Raises
    ------
    UserError
        Not valid YAML, or beyond the bounds above.
    """
    try:
        _require_modest(content, source)
        tree = yaml.safe_load(content)
        _require_names(tree, source)
        return tree
    except UserError:
        raise
    except yaml.YAMLError as error:
        raise UserError(f"{source}: not valid YAML ({_line(error)})") from error
    except _MISREAD as error:
        raise UserError(
            f"{source}: a value cannot be read ({type(error).__name__}: {_line(error)}); put "
            "quotation marks round dates and long numbers that are meant as text, and leave out "
            "tags such as !!bool"
        ) from error


def _require_names(tree: Any, source: str, depth: int = 0) -> None:
    """Refuse keys that YAML takes for something else: NO and on are flags, 1 is a number."""
    if depth > MOST_DEPTH:
        # Only an alias of what it stands in goes so deep.
        raise UserError(f"{source}: nested deeper than {MOST_DEPTH} levels; expected settings")
    if isinstance(tree, dict):
        for key in tree:
            if not isinstance(key, str):
                raise UserError(
                    f"{source}: a name is read as {key!r:.40} ({type(key).__name__}); put "
                    "quotation marks round names such as NO, on or 1"
                )
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    for part in parts:
        _require_names(part, source, depth + 1)


def _line(error: Exception) -> str:
    return f"{' '.join(str(error).split()):.150}"


@dataclass
class _Open:
    """A mapping or list that has begun: its name for aliases, its size, and its keys so far."""

    anchor: str | None
    is_mapping: bool
    values: int = 1
    children: int = 0
    keys: set[str] = field(default_factory=set)


def _require_modest(content: str | bytes, source: str) -> None:
    """Look at the bare events, which need no recursion, before anything is built from them."""
    opened = [_Open(None, is_mapping=False)]
    sizes: dict[str | None, int] = {}
    for event in yaml.parse(content, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            opened.append(_Open(event.anchor, isinstance(event, yaml.MappingStartEvent)))
            if len(opened) > MOST_DEPTH:
                raise UserError(
                    f"{source}: nested deeper than {MOST_DEPTH} levels; expected settings"
                )
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            closed = opened.pop()
            sizes[closed.anchor] = size = closed.values
        elif isinstance(event, yaml.AliasEvent):
            size = sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            _require_new_key(opened[-1], event, source)
            sizes[event.anchor] = size = 1
        else:
            continue
        parent = opened[-1]
        parent.values += size
        parent.children += 1
        if parent.values > MOST_VALUES:
            raise UserError(f"{source}: more than {MOST_VALUES} values")


def _require_new_key(parent: _Open, event: yaml.ScalarEvent, source: str) -> None:
    # YAML would take the last of them without a word. Merges (<<) may come several times.
    if not parent.is_mapping or parent.children % 2 or event.value == "<<":
        return
    if event.value in parent.keys:
        line = event.start_mark.line + 1
        raise UserError(f"{source}, line {line}: '{event.value:.60}' is there twice; keep one")
    parent.keys.add(event.value)
