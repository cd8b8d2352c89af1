"""What is trained, on which frames, with which settings: everything but the training."""

from __future__ import annotations

import copy
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ase.data import atomic_numbers

from ase_ws.devices import resolve_device, resolve_dtype
from ase_ws.errors import UserError
from ase_ws.frames import (
    Frame,
    FrameSource,
    check_elements,
    content_hash,
    name_of,
    paths_of,
)
from ase_ws.potentials.base import PotentialModule
from ase_ws.potentials.files import HeadWarning, load_potential
from ase_ws.training.auto import choose_weak
from ase_ws.training.config import FinetuneConfig
from ase_ws.training.data import Data, ValidSource, load_data, require_weighted
from ase_ws.training.gauss_newton import DEFAULT_FROM, DEFAULT_TO, unsolvable
from ase_ws.training.levels import REPLAY, Level, heads_of, replay_level
from ase_ws.training.loggers import require_library
from ase_ws.training.low_rank import trained_matrices
from ase_ws.training.parts import freeze
from ase_ws.training.start import (
    ReferenceEnergies,
    energy_scale,
    fitted_references,
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
    levels : list of Level
        Frames, and the heads of `potential` that they train; the first is that of the run.
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
    levels: list[Level]
    potential: PotentialModule
    base: PotentialModule | None
    references: ReferenceEnergies
    model: str | os.PathLike[str] | PotentialModule | None
    summary: list[str]
    choices: list[str]
    inputs: dict[str, str]

    @property
    def train(self) -> list[Frame]:
        """Training frames of the run."""
        return self.levels[0].train

    @property
    def valid(self) -> list[Frame]:
        """Validation frames of the run, of all sets."""
        return [frame for frames in self.levels[0].valid.values() for frame in frames]


def prepare(
    config: FinetuneConfig,
    train: FrameSource | None = None,
    valid: ValidSource | None = None,
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
    _check_settings(asked, given)
    r_max, taken = (asked.model.r_max, ()) if given is None else (given.r_max, given.takes)
    heads = asked.data.heads or [None]
    data = [load_data(asked, train, valid, r_max, taken, head) for head in heads]
    train_frames = data[0].train
    every = [frame for one in data for frame in one.train]
    require_weighted(asked, every, name_of(train, "the training frames"))
    valid_frames = [frame for frames in data[0].valid.values() for frame in frames]
    isolated = _given_atoms(asked.data.e0s) or data[0].isolated
    inputs = {
        "training frames": content_hash(every),
        "validation frames": content_hash(
            [f for one in data for frames in one.valid.values() for f in frames]
        ),
        "validation sets": repr(sorted(name for one in data for name in one.valid if name)),
        "isolated atoms": repr(sorted(isolated.items())),
        "base model": "" if given is None else given.fingerprint(),
    }
    n_with_forces = sum(f.forces is not None for f in every)
    has_forces = n_with_forces > 0
    as_given = None if given is None else copy.deepcopy(given)
    potential, base, references = _starting_point(asked, given, data, isolated)
    levels = [
        Level(
            (head or "") if k else "",
            head or potential.head,
            one.train,
            _named_by(one.valid, head, k),
        )
        for k, (head, one) in enumerate(zip(heads, data, strict=True))
    ]
    summary = [*_left_out(given, potential), *(line for one in data for line in one.summary)]
    if asked.replay.train is not None:
        assert as_given is not None
        assert base is not None
        level, lines = replay_level(asked, as_given, base)
        levels.append(level)
        summary += lines
        inputs["frames that are replayed"] = content_hash([*level.train, *level.valid[REPLAY]])
    n_frozen = freeze(potential, asked.model.freeze)
    if asked.model.lora_rank:
        trained_matrices(potential)
    refusal = unsolvable(potential, train_frames, free_e0=references.source == "fit")
    # Those that were given: what is held out of them counts.
    n_given = len(train_frames) + (len(valid_frames) if valid is None else 0)
    resolved = asked.resolved(
        has_forces=has_forces,
        has_stress=any(f.stress is not None for f in every),
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
        levels=levels,
        potential=potential,
        base=base,
        references=references,
        model=model,
        summary=[*_head(given), *_frozen(potential, n_frozen), *summary],
        choices=list(choices),
        inputs=inputs,
    )


def _named_by(
    sets: dict[str, list[Frame]], head: str | None, number: int
) -> dict[str, list[Frame]]:
    """Call the sets of further heads by these."""
    if not number:
        return sets
    return {f"{head}_{name}" if name else str(head): frames for name, frames in sets.items()}


def _check_settings(config: FinetuneConfig, given: PotentialModule | None) -> None:
    """Refuse what cannot be trained together, or needs a library that is not there.

    Raises
    ------
    UserError
    """
    several = len(config.data.heads) > 1 or config.replay.head is not None
    direct = config.model.forces == "direct" or (given is not None and not given.conservative)
    if several and direct:
        raise UserError("several heads need forces -dE/dr: direct forces have one readout")
    if config.replay.train is not None and given is None:
        raise UserError("replay.train is what a base model knows: give --model BASE")
    if config.replay.head is not None and config.replay.train is None:
        raise UserError("replay.head without frames: give replay.train, or leave it out")
    if config.data.heads and config.data.head:
        raise UserError("data.head takes one level and data.heads several: give one of them")
    if config.model.lora_rank and config.optimizer.rates:
        raise UserError("model.lora_rank has one learning rate: leave optimizer.rates out")
    for name in config.log:
        require_library(name, f"log: {name}")
    if config.optimizer.kind == "schedule-free":
        require_library("schedulefree", "optimizer.kind=schedule-free")


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
    config: FinetuneConfig, train: FrameSource, valid: ValidSource | None, model: Any
) -> FinetuneConfig:
    """Note paths in the configuration, so that the written one can be run again."""
    new = config.model_copy(deep=True)
    for name, source in (("train", train), ("valid", valid)):
        if isinstance(source, Mapping):
            named = {key: _paths(value) for key, value in source.items()}
            # One that was given in memory cannot be named.
            new.data.valid = {k: v for k, v in named.items() if v is not None} or None
        elif (paths := _paths(source)) is not None:
            setattr(new.data, name, paths)
    if isinstance(model, str | os.PathLike):
        new.model.base = str(model)
    elif model is not None:
        new.model.base = "(in memory)"
    return new


def _paths(source: FrameSource | None) -> str | list[str] | None:
    paths = paths_of(source)
    return paths[0] if paths is not None and len(paths) == 1 else paths


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
        given = copy.deepcopy(model)
        # Of its own labels, not of these.
        given.posterior = None
        return given.to(resolve_dtype(config.dtype)).to(device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HeadWarning)  # said in the summary
        given = load_potential(model, dtype=config.dtype, device=device, head=head)
    given.posterior = None
    return given


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


def _left_out(given: PotentialModule | None, potential: PotentialModule) -> Iterator[str]:
    lost = () if given is None else sorted({*given.heads} - {*potential.heads})
    if lost:
        yield f"heads of the base model that are not trained are left out: {', '.join(lost)}"


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
    data: list[Data],
    isolated: dict[int, float],
) -> tuple[PotentialModule, PotentialModule | None, ReferenceEnergies]:
    """Give the potential to train, the frozen base model at the same E0, and whence these come.

    From scratch there is no base model. With several heads `data` has those of each.
    """
    frames = data[0].train
    insist = config.data.e0s == "atoms" or isinstance(config.data.e0s, dict)
    heads = heads_of(config, given)
    if given is None:
        by_atoms = given_by_atoms(frames, isolated, insist=insist)
        references = (
            ReferenceEnergies("atoms", remark=_about_lone_atoms(frames, isolated))
            if by_atoms
            else fitted_references(frames, isolated)
        )
        # Energies of other levels say nothing of this one.
        others = [replace(f, energy=None) for one in data[1:] for f in one.train]
        potential = new_potential(config, [*frames, *others], isolated)
        potential = (
            potential.with_heads(dict.fromkeys(heads, potential.head)) if heads else potential
        )
        potential = potential.to(resolve_device(config.device))
        _refit_others(potential, config, data, insist=insist)
        return potential, None, references
    if config.model.kind == "painn" and given.kind != "painn":
        raise UserError(
            f"model.kind=painn is for new models, and the base model is a {given.kind}: leave "
            "it out, or train from scratch without --model"
        )
    elements = [frame for one in data for frame in one.train]
    check_elements(elements, given.atomic_numbers, config.model.base or "")
    potential = given.with_heads(heads) if heads else given
    if config.data.heads:
        potential = potential.of_head(config.data.heads[0])
    references = ReferenceEnergies("kept")
    if config.data.e0s != "keep":
        references = refit_e0(potential, frames, isolated, insist=insist)
        _refit_others(potential, config, data, insist=insist)
    base = copy.deepcopy(potential).requires_grad_(False)
    return with_forces(potential, config, frames).train(), base, references


def _refit_others(
    potential: PotentialModule, config: FinetuneConfig, data: list[Data], *, insist: bool
) -> None:
    """Move the reference energies of further heads to the level of their frames."""
    for head, one in zip(config.data.heads[1:], data[1:], strict=True):
        refit_e0(potential.of_head(head), one.train, one.isolated, insist=insist)
