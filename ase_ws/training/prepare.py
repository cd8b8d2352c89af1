"""What is trained, on which frames, with which settings: everything but the training."""

from __future__ import annotations

import copy
import math
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ase.data import atomic_numbers

from ase_ws.devices import resolve_device, resolve_dtype
from ase_ws.errors import UserError
from ase_ws.frames import Frame, FrameSource, check_elements, content_hash, paths_of
from ase_ws.potentials.base import PotentialModule
from ase_ws.potentials.files import HeadWarning, load_potential
from ase_ws.training.auto import choose_weak
from ase_ws.training.config import FinetuneConfig
from ase_ws.training.data import load_data
from ase_ws.training.gauss_newton import DEFAULT_FROM, DEFAULT_TO, unsolvable
from ase_ws.training.start import (
    ReferenceEnergies,
    energy_scale,
    fitted_references,
    freeze,
    given_by_atoms,
    new_potential,
    refit_e0,
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
    summary : list of str
        What was taken from the frames, and what was not.
    choices : list of str
        A line about each choice that was left to us and changes what is done.
    inputs : dict of str to str
        Fingerprints of what a resumed run must have in common with the one before.
    """

    config: FinetuneConfig
    train: list[Frame]
    valid: list[Frame]
    potential: PotentialModule
    base: PotentialModule | None
    references: ReferenceEnergies
    model: str | os.PathLike[str] | PotentialModule | None
    summary: list[str]
    choices: list[str]
    inputs: dict[str, str]


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
    given = _base_model(asked, model)
    r_max, taken = (asked.model.r_max, ()) if given is None else (given.r_max, given.takes)
    data = load_data(asked, train, valid, r_max, taken)
    train_frames, valid_frames = data.train, data.valid
    isolated = _given_atoms(asked.data.e0s) or data.isolated
    inputs = {
        "training frames": content_hash(train_frames),
        "validation frames": content_hash(valid_frames),
        "isolated atoms": repr(sorted(isolated.items())),
        "base model": "" if given is None else given.fingerprint(),
    }
    n_with_forces = sum(f.forces is not None for f in train_frames)
    has_forces = n_with_forces > 0
    potential, base, references = _starting_point(asked, given, train_frames, isolated)
    n_frozen = freeze(potential, asked.model.freeze)
    refusal = unsolvable(potential, train_frames, free_e0=references.source == "fit")
    # Those that were given: what is held out of them counts.
    n_given = len(train_frames) + (len(valid_frames) if valid is None else 0)
    resolved = asked.resolved(
        has_forces=has_forces,
        has_stress=any(f.stress is not None for f in train_frames),
        n_with_forces=n_with_forces,
        conservative=potential.conservative,
        n_valid=len(valid_frames),
        closed_form=refusal is None and DEFAULT_FROM <= n_given <= DEFAULT_TO,
    )
    if resolved.optimizer.kind == "gauss-newton" and refusal is not None:
        raise UserError(refusal)
    check_elements(valid_frames, potential.atomic_numbers, asked.model.base or "")
    choices = _choices(
        asked, resolved, references, has_forces=has_forces, n_given=n_given, refusal=refusal
    )
    return Plan(
        config=resolved,
        train=train_frames,
        valid=valid_frames,
        potential=potential,
        base=base,
        references=references,
        model=model,
        summary=[*_head(given), *_frozen(potential, n_frozen), *data.summary],
        choices=list(choices),
        inputs=inputs,
    )


def _choices(
    asked: FinetuneConfig,
    config: FinetuneConfig,
    references: ReferenceEnergies,
    *,
    has_forces: bool,
    n_given: int,
    refusal: str | None,
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
    energies_only = config.model.base and conservative and not has_forces
    if energies_only and asked.optimizer.kind is None and not asked.optimizer.tuned:
        yield from _instead_of_the_closed_form(n_given, refusal)
    if asked.optimizer.select is None and config.optimizer.select == "last":
        yield (
            "few validation energies, which would choose by luck: the model of the last step will "
            "be kept (optimizer.select)"
        )


def _instead_of_the_closed_form(n_given: int, refusal: str | None) -> Iterator[str]:
    """Say why energies alone are not fitted in closed form, as they would be by default."""
    wish = "gradient steps (adam); --optimizer gauss-newton for the closed form"
    if refusal is not None:
        yield f"gradient steps (adam): {refusal}"
    elif n_given < DEFAULT_FROM:
        yield f"{n_given} energies, fewer than {DEFAULT_FROM}: {wish}"
    elif n_given > DEFAULT_TO:
        yield f"{n_given} energies, more than {DEFAULT_TO}: {wish}"


def _record_inputs(
    config: FinetuneConfig, train: FrameSource, valid: FrameSource | None, model: Any
) -> FinetuneConfig:
    """Note paths in the configuration, so that the written one can be run again."""
    new = config.model_copy(deep=True)
    for name, source in (("train", train), ("valid", valid)):
        paths = paths_of(source)
        if paths is not None:
            setattr(new.data, name, paths[0] if len(paths) == 1 else paths)
    if isinstance(model, str | os.PathLike):
        new.model.base = str(model)
    elif model is not None:
        new.model.base = "(in memory)"
    return new


def _base_model(
    config: FinetuneConfig, model: str | os.PathLike[str] | PotentialModule | None
) -> PotentialModule | None:
    """Load or copy the base model, as it was given; None from scratch."""
    device, head = resolve_device(config.device), config.model.head
    if model is None:
        if head is not None:
            raise UserError(f"head '{head}' is of a base model, and there is none: give --model")
        return None
    if isinstance(model, PotentialModule):
        if head not in (None, model.head):
            raise UserError(
                f"head '{head}': the base model is there with its head '{model.head}'; load it "
                "with load_potential(..., head=...)"
            )
        return copy.deepcopy(model).to(resolve_dtype(config.dtype)).to(device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HeadWarning)  # said in the summary
        return load_potential(model, dtype=config.dtype, device=device, head=head)


def _about_lone_atoms(frames: list[Frame], isolated: dict[int, float]) -> str:
    """Say that a new network adds the mean binding energy to each atom, also to a lone one."""
    binding = energy_scale(frames, isolated).shift
    return (
        f"a lone atom is off by the mean binding energy, {binding:.3g} eV, which a new network "
        "adds to every atom: compare structures with each other, not with their atoms"
    )


def _head(given: PotentialModule | None) -> Iterator[str]:
    if given is not None and len(given.heads) > 1:
        yield f"base model: head '{given.head}' of {', '.join(given.heads)} is trained"


def _frozen(potential: PotentialModule, n_frozen: int) -> Iterator[str]:
    if n_frozen:
        total = sum(w.numel() for w in potential.parameters())
        yield f"frozen: {n_frozen:,} of {total:,} weights"


def _given_atoms(e0s: str | dict[str, float]) -> dict[int, float]:
    """Give the energies of atoms that the settings name, by atomic number.

    Raises
    ------
    UserError
        A symbol that is none, an energy that is no number.
    """
    if isinstance(e0s, str):
        return {}
    unknown = [symbol for symbol in e0s if symbol not in atomic_numbers]
    if unknown:
        raise UserError(
            f"data.e0s: '{unknown[0]:.20}' is no element; expected symbols, as in H: -13.6"
        )
    for symbol, energy in e0s.items():
        if not math.isfinite(energy):
            raise UserError(f"data.e0s: {symbol} is {energy}; expected an energy in eV")
    return {atomic_numbers[symbol]: energy for symbol, energy in e0s.items()}


def _starting_point(
    config: FinetuneConfig,
    given: PotentialModule | None,
    frames: list[Frame],
    isolated: dict[int, float],
) -> tuple[PotentialModule, PotentialModule | None, ReferenceEnergies]:
    """Give the potential to train, the frozen base model at the same E0, and whence these come.

    From scratch there is no base model.
    """
    insist = config.data.e0s == "atoms" or isinstance(config.data.e0s, dict)
    if given is None:
        by_atoms = given_by_atoms(frames, isolated, insist=insist)
        references = (
            ReferenceEnergies("atoms", remark=_about_lone_atoms(frames, isolated))
            if by_atoms
            else fitted_references(frames, isolated)
        )
        potential = new_potential(config, frames, isolated).to(resolve_device(config.device))
        return potential, None, references
    potential, base = given, copy.deepcopy(given)
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
