"""The settings of a run, read from YAML, from `section.name=value`, and from Python."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ase_ws.errors import AnsweredError, UserError
from ase_ws.files.mistakes import first_mistake
from ase_ws.files.yaml import parse_yaml, read_yaml
from ase_ws.training.config import WEIGHTS, FinetuneConfig
from ase_ws.training.from_mace import is_of_mace, translated


def load_config(
    path: str | os.PathLike[str] | None = None,
    overrides: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> FinetuneConfig:
    """Merge a YAML file, dotted options of the command line, and `--set a.b=c`, in that order.

    Parameters
    ----------
    path : path, optional
    overrides : sequence of str
        Each "section.field=value", the value read as YAML.
    options : mapping, optional
        Dotted names to values; None means not given.

    Raises
    ------
    UserError
        Names the field, what it was and what was expected.
    """
    given = {name: value for name, value in (options or {}).items() if value is not None}
    for item in overrides:
        name, separator, value = item.partition("=")
        if not separator:
            raise UserError(f"--set {item}: expected section.field=value")
        given[name.strip()] = parse_yaml(value, f"--set {item}")
    tree = {} if path is None else _read_yaml(Path(path))
    if is_of_mace(tree):
        raise AnsweredError(
            f"{path}: settings of mace_run_train; what they mean here is printed: save it "
            "(> run.yaml), look at it, and give that to --config",
            translated(tree),
        )
    _keep_the_only_schedule(tree)
    _forget_strength_of_another_kind(tree, given.get("weak.kind"))
    for name, value in given.items():
        _set(tree, name, value)
    return validated_config(tree)


def _keep_the_only_schedule(tree: dict[str, Any]) -> None:
    """Let what a run of an earlier version wrote, which chose all but a schedule, mean the same."""
    optimizer = tree.get("optimizer")
    chosen = ("learning_rate", "gradient_clip", "warmup_steps")
    if isinstance(optimizer, dict) and all(optimizer.get(name) is not None for name in chosen):
        optimizer.setdefault("schedule", "cosine")


def _forget_strength_of_another_kind(tree: dict[str, Any], kind: str | None) -> None:
    """Drop what a file says of its own kind of weak losses where another is asked for.

    A run writes every number that it chose: those of `none` are zeros, those of `both` no good for
    `gradient`.
    """
    weak = tree.get("weak")
    if kind is None or not isinstance(weak, dict) or weak.get("kind", kind) == kind:
        return
    displaced = ("pitc", "pisc", "both")
    # These mean the same by the same numbers, but for a term that only one of them has.
    alike = kind in displaced and weak["kind"] in displaced
    absent = set(WEIGHTS["both"]).difference(WEIGHTS.get(kind, ()))
    for name in _STRENGTH:
        if not alike or name in absent or weak.get(name) == 0:
            weak.pop(name, None)


_STRENGTH = ("order", "epsilon", "reference", *WEIGHTS["both"], *WEIGHTS["gradient"], "at_labels")


def validated_config(tree: Mapping[str, Any]) -> FinetuneConfig:
    """Check a nested dict against `FinetuneConfig`; the error names the first wrong field."""
    try:
        return FinetuneConfig.model_validate(dict(tree))
    except ValidationError as error:
        field, message = first_mistake(error, FinetuneConfig)
        raise UserError(f"setting '{field}': {message}") from error


def _read_yaml(path: Path) -> dict[str, Any]:
    tree = read_yaml(path, what="configuration file")
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected sections such as 'data:' and 'model:'")
    # A section with nothing under it is the same as none.
    return {name: section for name, section in tree.items() if section is not None}


def _set(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, leaf = dotted.split(".")
    for name in parents:
        tree = tree.setdefault(name, {})
        if not isinstance(tree, dict):
            raise UserError(f"setting '{dotted}': '{name}' is not a section")
    tree[leaf] = value
