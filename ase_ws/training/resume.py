"""The folder of a run: made anew, or gone on with as it was set up."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ase_ws.errors import UserError
from ase_ws.files.writing import atomic_path
from ase_ws.potentials.files import read_header
from ase_ws.training.config import FinetuneConfig
from ase_ws.training.config_files import load_config

#: What a run leaves in its folder.
FILES = ("model.safetensors", "metrics.csv", "config.yaml", "last.ckpt")
#: Settings that may differ when a run goes on: how far and where, but not what is trained. Of
#: files, the content counts.
FREE = (
    "data.train",
    "data.valid",
    "replay.train",
    "model.base",
    "optimizer.max_steps",
    "optimizer.valid_interval",
    "optimizer.patience",
    "optimizer.parts",
    "threads",
    "device",
    "log",
)

#: Where a checkpoint keeps the fingerprints of its inputs.
_INPUTS = "inputs"

#: What torch raises on damaged files, and what looking into another file than a checkpoint does.
_UNREADABLE = (
    RuntimeError,
    LookupError,
    TypeError,
    AttributeError,
    EOFError,
    ValueError,
    pickle.UnpicklingError,
)


def checkpoint_of(out: Path, config: FinetuneConfig, inputs: Mapping[str, str]) -> dict[str, Any]:
    """Read the checkpoint that the run may go on from.

    `inputs` are the fingerprints of frames and base model, which must be those of the run.

    Raises
    ------
    UserError
        There is none, it is damaged, the run was set up otherwise than `config` or made from other
        inputs, or it is beyond `optimizer.max_steps`.
    """
    checkpoint = out / "last.ckpt"
    if not checkpoint.is_file():
        raise UserError(
            f"{out}: nothing to resume (no last.ckpt; gauss-newton leaves none); start without "
            "--resume"
        )
    content = read_checkpoint(checkpoint)
    step, before = content["step"], content[_INPUTS]
    # Without the file this says so: nobody could tell how the run was set up.
    _require_same(out, load_config(out / "config.yaml"), config)
    for name in {**inputs, **before}:
        if before.get(name, "") != inputs.get(name, ""):
            raise UserError(
                f"{out}: the {name} have changed since the run began (what they are, whatever the "
                "name of the file): put back what it began with, or start anew in another folder"
            )
    if step > (config.optimizer.max_steps or step):
        raise UserError(
            f"{out}: the run is at step {step} already, beyond optimizer.max_steps = "
            f"{config.optimizer.max_steps}: ask for more steps, or start anew in another folder"
        )
    return content


def write_checkpoint(path: Path, inputs: Mapping[str, str], content: Mapping[str, Any]) -> None:
    """Write where a run stands, whole or not at all."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        torch.save({**content, _INPUTS: dict(inputs)}, file)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read where a run stood; nothing in the file is executed.

    Raises
    ------
    UserError
        It is damaged, or of an earlier version.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, dict):
            raise TypeError(f"it holds a {type(content).__name__}")
        if "pytorch-lightning_version" not in content:
            content["step"], content[_INPUTS] = int(content["step"]), dict(content[_INPUTS])
    except _UNREADABLE as error:
        detail = " ".join(str(error).split())
        raise UserError(
            f"{path}: cannot be read ({detail:.100}); start anew with --overwrite"
        ) from error
    if "pytorch-lightning_version" in content:
        raise UserError(
            f"{path}: of an earlier version of ase_ws, whose runs cannot be gone on with: start "
            "anew from the model that was kept (--model)"
        )
    return content


def _require_same(out: Path, before: FinetuneConfig, now: FinetuneConfig) -> None:
    """Refuse what a run that goes on would not heed, and its files would claim."""
    old, new = (_flat(c.model_dump(mode="json")) for c in (before, now))
    for name in {**new, **old}:
        value = new.get(name)
        # Several validation sets have names of their own.
        free = name in FREE or name.startswith("data.valid.")
        # A second stage begins at a part of the steps.
        fixed = name == "optimizer.max_steps" and now.optimizer.second_stage is not None
        if (fixed or not free) and old.get(name) != value:
            raise UserError(
                f"{out}: the run had {name} = {old.get(name)!r}, now it is {value!r}: resume as it "
                "was set up, or start anew in another folder"
            )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def earlier_command(out: Path) -> str | None:
    """Give the command that the run in this folder was made with so far, where it is on file."""
    model = out / "model.safetensors"
    if not model.is_file():
        return None
    notes = read_header(model).get("provenance", {}).get("notes", {})
    return notes.get("command") if isinstance(notes, dict) else None
