"""What is trained, on which frames, with which settings: everything but the training."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from ase_ws.devices import resolve_device, resolve_dtype
from ase_ws.errors import UserError
from ase_ws.frames import (
    Frame,
    FrameSource,
    LabelKeys,
    check_elements,
    read_frames,
    split_frames,
)
from ase_ws.potentials.files import load_potential
from ase_ws.potentials.module import PotentialModule
from ase_ws.training.auto import choose_weak
from ase_ws.training.config import FinetuneConfig
from ase_ws.training.gauss_newton import DEFAULT_FROM, unsolvable
from ase_ws.training.start import (
    ReferenceEnergies,
    fitted_references,
    given_by_atoms,
    new_potential,
    refit_e0,
    separate_isolated_atoms,
    with_forces,
)


@dataclass(frozen=True)
class Plan:
    """A training that is ready to begin.

    Attributes
    ----------
    config : FinetuneConfig
        Resolved.
    train, valid : list of Frame
    potential : PotentialModule
        Where the training starts.
    base : PotentialModule or None
        The frozen base model, at the reference energies of `potential`; None from scratch.
    references : ReferenceEnergies
        Of both.
    model : path, PotentialModule or None
        The base model as it was given.
    choices : list of str
        A line about each choice that was left to us and changes what is done.
    """

    config: FinetuneConfig
    train: list[Frame]
    valid: list[Frame]
    potential: PotentialModule
    base: PotentialModule | None
    references: ReferenceEnergies
    model: str | os.PathLike[str] | PotentialModule | None
    choices: list[str]


def prepare(
    config: FinetuneConfig,
    train: FrameSource | None = None,
    valid: FrameSource | None = None,
    model: str | os.PathLike[str] | PotentialModule | None = None,
) -> Plan:
    """Read the frames, load or build the potential, and settle what was left open.

    Draws the weights of a new potential from torch's random state.

    Raises
    ------
    UserError
        Bad input.
    """
    train = config.data.train if train is None else train
    if train is None:
        raise UserError("no training frames: give --train FILE (or data.train in --config)")
    valid = config.data.valid if valid is None else valid
    model = config.model.base if model is None else model
    asked = _record_inputs(config, train, valid, model)
    train_frames, valid_frames, isolated = _load_frames(asked, train, valid)
    n_with_forces = sum(f.forces is not None for f in train_frames)
    has_forces = n_with_forces > 0
    potential, base, references = _starting_point(asked, model, train_frames, isolated)
    refusal = unsolvable(potential, train_frames, free_e0=references.source == "fit")
    # Those that were given: what is held out of them counts.
    n_given = len(train_frames) + (len(valid_frames) if valid is None else 0)
    resolved = asked.resolved(
        has_forces=has_forces,
        n_with_forces=n_with_forces,
        conservative=potential.conservative,
        n_valid=len(valid_frames),
        closed_form=refusal is None and n_given >= DEFAULT_FROM,
    )
    if resolved.optimizer.kind == "gauss-newton" and refusal is not None:
        raise UserError(refusal)
    check_elements(valid_frames, potential.atomic_numbers, asked.model.base or "")
    choices = _choices(asked, resolved, references, has_forces=has_forces, n_given=n_given)
    return Plan(
        resolved, train_frames, valid_frames, potential, base, references, model, list(choices)
    )


def _choices(
    asked: FinetuneConfig,
    config: FinetuneConfig,
    references: ReferenceEnergies,
    *,
    has_forces: bool,
    n_given: int,
) -> Iterator[str]:
    """Say what was picked where the choice was ours, in a line each."""
    conservative = config.model.forces == "conservative"
    if asked.weak.kind == "auto":
        weak = config.weak
        choice = choose_weak(conservative=conservative, has_forces=has_forces)
        yield f"--weak auto: {choice.why}"
        if weak.kind != "none":
            parts = f"ε {weak.epsilon:g} Å, weight {weak.gradient_weight:g}"
            labels = f"; {weak.at_labels:.0%} of the labelled structures: -dE/dr against the label"
            yield f"  ({parts}{labels if weak.at_labels else ''})"
    if references.remark:
        yield references.remark
    if asked.optimizer.kind is None and config.optimizer.kind == "gauss-newton":
        yield (
            f"{DEFAULT_FROM} or more energies, no forces, from a base model: closed form "
            "(gauss-newton); --optimizer adam for gradient steps"
        )
        return
    few = config.model.base and conservative and not has_forces and n_given < DEFAULT_FROM
    if few and asked.optimizer.kind is None:
        yield (
            f"{n_given} energies, fewer than {DEFAULT_FROM}: gradient steps (adam); --optimizer "
            "gauss-newton for the closed form"
        )
    if asked.optimizer.select is None and config.optimizer.select == "last":
        yield (
            "few validation energies, which would choose by luck: the model of the last step will "
            "be kept (optimizer.select)"
        )


def _record_inputs(
    config: FinetuneConfig, train: FrameSource, valid: FrameSource | None, model: Any
) -> FinetuneConfig:
    """Note paths in the configuration, so that the written one can be run again."""
    new = config.model_copy(deep=True)
    if isinstance(train, str | os.PathLike):
        new.data.train = str(train)
    if isinstance(valid, str | os.PathLike):
        new.data.valid = str(valid)
    if isinstance(model, str | os.PathLike):
        new.model.base = str(model)
    elif model is not None:
        new.model.base = "(in memory)"
    return new


def _load_frames(
    config: FinetuneConfig, train: FrameSource, valid: FrameSource | None
) -> tuple[list[Frame], list[Frame], dict[int, float]]:
    data = config.data
    keys = LabelKeys(data.energy_key, data.forces_key, data.stress_key)
    train_frames, isolated = separate_isolated_atoms(read_frames(train, keys))
    name = str(train) if isinstance(train, str | os.PathLike) else "the training frames"
    if not train_frames:
        raise UserError(f"{name}: only isolated atoms; expected structures to train on")
    if valid is None:
        train_frames, valid_frames = split_frames(train_frames, data.valid_fraction, config.seed)
        valid_name = name
    else:
        valid_frames, _ = separate_isolated_atoms(read_frames(valid, keys))
        valid_name = str(valid) if isinstance(valid, str | os.PathLike) else "the validation frames"
    if data.labels == "energy":
        train_frames = [_energy_only(f) for f in train_frames]
        valid_frames = [_energy_only(f) for f in valid_frames]
    _require_energies(train_frames, name, keys)
    _require_energies(valid_frames, valid_name, keys)
    return train_frames, valid_frames, isolated


def _energy_only(frame: Frame) -> Frame:
    return replace(frame, forces=None, stress=None)


def _require_energies(frames: list[Frame], name: str, keys: LabelKeys) -> None:
    if not frames:
        raise UserError(f"{name}: no frames for validation; expected at least one")
    if not any(f.energy is not None for f in frames):
        raise UserError(
            f"{name}: no frame has an energy under the key '{keys.energy}'; "
            "name the right one with --set data.energy_key=KEY"
        )
    for frame in frames:
        if frame.energy is None and frame.forces is None:
            raise UserError(f"{frame.source}: neither energy nor forces; remove the frame")


def _starting_point(
    config: FinetuneConfig,
    model: str | os.PathLike[str] | PotentialModule | None,
    frames: list[Frame],
    isolated: dict[int, float],
) -> tuple[PotentialModule, PotentialModule | None, ReferenceEnergies]:
    """Give the potential to train, the frozen base model at the same E0, and whence these come.

    From scratch there is no base model.
    """
    device = resolve_device(config.device)
    insist = config.data.e0s == "atoms"
    if model is None:
        given = given_by_atoms(frames, isolated, insist=insist)
        references = ReferenceEnergies("atoms") if given else fitted_references(frames, isolated)
        return new_potential(config, frames, isolated).to(device), None, references

    def load() -> PotentialModule:
        if isinstance(model, PotentialModule):
            return copy.deepcopy(model).to(resolve_dtype(config.dtype)).to(device)
        return load_potential(model, dtype=config.dtype, device=device, head=config.model.head)

    potential, base = load(), load()
    if config.model.kind == "painn" and potential.kind != "painn":
        raise UserError(
            f"model.kind=painn is for new models, and the base model is a {potential.kind}: leave "
            "it out, or train from scratch without --model"
        )
    check_elements(frames, potential.atomic_numbers, config.model.base or "")
    references = ReferenceEnergies("kept")
    if config.data.e0s != "keep":
        references = refit_e0(potential, frames, isolated, insist=insist)
        base.e0.copy_(potential.e0)
    return with_forces(potential, config, frames).train(), base.requires_grad_(False), references
