"""The folder of a run: made anew, or gone on with as it was set up."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ase_ws.errors import UserError
from ase_ws.potentials.files import read_header
from ase_ws.training.config import FinetuneConfig
from ase_ws.training.config_files import load_config
from ase_ws.training.module import INPUTS

#: What a run leaves in its folder.
FILES = ("model.safetensors", "metrics.csv", "config.yaml", "last.ckpt")
#: Settings that may differ when a run goes on: how far and where, but not what is trained. Of
#: files, the content counts.
FREE = (
    "data.train",
    "data.valid",
    "model.base",
    "optimizer.max_steps",
    "optimizer.valid_interval",
    "optimizer.patience",
    "threads",
    "device",
)

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


def checkpoint_of(out: Path, config: FinetuneConfig, inputs: Mapping[str, str]) -> tuple[Path, int]:
    """Give the checkpoint to go on from, and its step.

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
    step, before = _step_and_inputs(checkpoint)
    # Without the file this says so: nobody could tell how the run was set up.
    _require_same(out, load_config(out / "config.yaml"), config)
    for name, fingerprint in inputs.items():
        # Checkpoints of earlier versions know of no terms.
        if before.get(name, "") != fingerprint:
            raise UserError(
                f"{out}: the {name} have changed since the run began (what they are, whatever the "
                "name of the file): put back what it began with, or start anew in another folder"
            )
    if step > (config.optimizer.max_steps or step):
        raise UserError(
            f"{out}: the run is at step {step} already, beyond optimizer.max_steps = "
            f"{config.optimizer.max_steps}: ask for more steps, or start anew in another folder"
        )
    return checkpoint, step


def _step_and_inputs(checkpoint: Path) -> tuple[int, dict[str, str]]:
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
        if not isinstance(content, dict):
            raise TypeError(f"it holds a {type(content).__name__}")
        return int(content["global_step"]), dict(content[INPUTS])
    except _UNREADABLE as error:
        detail = " ".join(str(error).split())
        raise UserError(
            f"{checkpoint}: cannot be read ({detail:.100}); start anew with --overwrite"
        ) from error


def _require_same(out: Path, before: FinetuneConfig, now: FinetuneConfig) -> None:
    """Refuse what a run that goes on would not heed, and its files would claim."""
    old, new = (_flat(c.model_dump(mode="json")) for c in (before, now))
    for name, value in new.items():
        if name not in FREE and old.get(name) != value:
            raise UserError(
                f"{out}: the run had {name} = {old.get(name)!r}, now it is {value!r}: resume as it "
                "was set up, or start anew in another folder"
            )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
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
