"""Fine-tune a potential on labelled frames, with or without the weak losses."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from ase_ws._version import __version__
from ase_ws.content import content, short_hash
from ase_ws.devices import resolve_device, resolve_dtype, sensible_threads, threads
from ase_ws.errors import UserError
from ase_ws.files.folders import make_clear, require_free, require_writable
from ase_ws.frames import FrameSource
from ase_ws.losses import TotalLoss, WeightedTerm
from ase_ws.potentials.base import PotentialModule
from ase_ws.potentials.files import is_own, load_potential, read_header
from ase_ws.training.batches import Batches, graphs_of, reproducible
from ase_ws.training.config import FinetuneConfig
from ase_ws.training.config_files import load_config, validated_config
from ase_ws.training.data import ValidSource
from ase_ws.training.gauss_newton import Step, gauss_newton
from ase_ws.training.history import COLUMNS, History
from ase_ws.training.levels import Level
from ase_ws.training.loggers import make_loggers
from ase_ws.training.loop import Loop, Progress
from ase_ws.training.prepare import Plan, prepare
from ase_ws.training.processes import Processes, joined
from ase_ws.training.resume import FILES, checkpoint_of, earlier_command
from ase_ws.training.streams import Stream
from ase_ws.training.terms import build_losses, supervised_terms, with_terms
from ase_ws.training.validation import ValidationSet, validate


@dataclass(repr=False)
class FinetuneResult:
    """What a run gives back.

    Attributes
    ----------
    potential : PotentialModule
        The model that was kept, averaged weights: the best by the validation loss, or that of the
        last step (see `optimizer.select`).
    history : list of dict
        One row per validation, as in `metrics.csv`; the first is the model before training.
    path : Path
        The folder that was written.
    kept_step : int or None
        The step of the model that was kept.
    """

    potential: PotentialModule
    history: list[dict[str, Any]]
    path: Path
    kept_step: int | None = None

    def __repr__(self) -> str:
        """Where it stands and what was kept, without network and history."""
        return f"<FinetuneResult {self.path}: model of step {self.kept_step}>"


def finetune(
    train: FrameSource | None = None,
    valid: ValidSource | None = None,
    *,
    model: str | os.PathLike[str] | PotentialModule | None = None,
    config: FinetuneConfig | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str],
    terms: Sequence[WeightedTerm] = (),
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    notes: Mapping[str, Any] | None = None,
    announce: Callable[[str], None] | None = None,
) -> FinetuneResult:
    """Fine-tune a potential, or train a small MACE from scratch.

    Parameters
    ----------
    train : path, or sequence of path, of Atoms, or of Frame
        Default: `config.data.train`.
    valid : likewise, optional
        Default: `config.data.valid`, else a part of the training frames is held out. A dict has
        several sets by their names.
    model : path or PotentialModule, optional
        The base model; default `config.model.base`; neither: from scratch.
    config : FinetuneConfig, dict, or path of a YAML file, optional
    out : path
        Folder for `model.safetensors`, `metrics.csv`, `config.yaml`, `last.ckpt`.
    terms : sequence of WeightedTerm
        Loss terms of your own, added to those of `config`: a name, a weight, and anything that
        keeps `ase_ws.typing.LossTerm`. Each has its column `train_NAME` in `metrics.csv`. They are
        no part of `config.yaml`: a run that goes on must be given them again, the same by their
        code, by what they enclose and by what they hold.
    resume : bool
        Go on from `out/last.ckpt`, up to `optimizer.max_steps`.
    overwrite : bool
        Replace what an earlier run left in `out`.
    progress : callable, optional
        Called after every step with (step, max_steps, latest row of the history); in closed form
        within the iterations, too, with the part that is done.
    notes : mapping, optional
        JSON-able facts for the model file, such as the command.
    announce : callable, optional
        Called, before training, with lines about what was taken from the frames and what was not,
        and about each choice that was left to us and changes what is done.

    Returns
    -------
    FinetuneResult

    Raises
    ------
    UserError
        Bad input, before anything is written.
    """
    settings = _as_config(config)
    with joined(resolve_device(settings.device)) as processes:
        return _finetune(
            Path(out),
            settings,
            (train, valid, model),
            [terms] if isinstance(terms, WeightedTerm) else list(terms),
            processes,
            resume=resume,
            overwrite=overwrite,
            progress=progress if processes.first else None,
            notes=dict(notes or {}),
            announce=announce if processes.first else None,
        )


def _finetune(
    out: Path,
    config: FinetuneConfig,
    inputs: tuple[Any, Any, Any],
    terms: list[WeightedTerm],
    processes: Processes,
    *,
    resume: bool,
    overwrite: bool,
    progress: Progress | None,
    notes: dict[str, Any],
    announce: Callable[[str], None] | None,
) -> FinetuneResult:
    if resume:
        require_writable(out, folder=True)
    else:
        require_free(out, overwrite=overwrite, resume=f"ase-ws finetune --resume {out}")
    config = with_terms(config, terms)
    with reproducible(config.seed):
        plan = prepare(config, *inputs)
    config = plan.config
    losses, valid_losses = build_losses(config, plan.train, plan.base, terms)
    plan.inputs["loss terms"] = short_hash(content(terms, deep=True)) if terms else ""
    plan.choices.extend(
        f"loss term '{t.name}' never counts: weight or fraction is 0" for t in terms if not t.counts
    )
    # Before the folder is cleared: the base model may be the one that stands there.
    checkpoint: dict[str, Any] | None = None
    if resume:
        checkpoint = checkpoint_of(out, config, plan.inputs)
        if "command" in notes:
            notes["command"] = " && ".join(filter(None, [earlier_command(out), notes["command"]]))
    provenance = _provenance(plan, terms, notes)
    # Frames that make no graph are found before anything is written, too.
    sets = [one for level in plan.levels for one in _validation_sets(level, plan)]
    closed = config.optimizer.kind == "gauss-newton"
    streams = [] if closed else [_stream(level, plan, losses) for level in plan.levels]
    _check_sizes(streams, processes)
    columns = [f"train_{term.name}" for term in terms]
    columns += [f"train_{s.name}_loss" for s in streams if s.name]
    columns += [column for one in sets for column in one.columns]
    _check_columns(columns)
    if announce is not None:
        for line in (*plan.summary, *plan.choices):
            announce(line)
    # All have looked at the folder before the first one changes it.
    processes.wait()
    if processes.first:
        if not resume:
            make_clear(out, FILES)
        config.write(out / "config.yaml")
    n_atoms = sum(len(f.numbers) for f in plan.train) / len(plan.train)
    number = config.threads or sensible_threads(n_atoms * (config.optimizer.batch_size or 1))
    with ExitStack() as stack:
        stack.enter_context(reproducible(config.seed))
        stack.enter_context(threads(number))
        names = config.log if processes.first else ()
        loggers = make_loggers(names, out, config.model_dump(mode="json"), stack)
        select = config.optimizer.select or "best"
        history = History(out, provenance, select, columns, loggers, write=processes.first)
        if closed:
            if processes.first:
                _solve(plan, sets, valid_losses[0], history, progress)
        else:
            loop = Loop(
                plan.potential,
                config,
                streams,
                sets,
                valid_losses,
                history,
                checkpoint=out / "last.ckpt",
                inputs=plan.inputs,
                processes=processes,
            )
            if checkpoint is not None:
                loop.load(checkpoint)
            loop.run(0 if checkpoint is None else checkpoint["step"], progress)
    processes.wait()
    return _result(out, history)


def _stream(level: Level, plan: Plan, losses: list[TotalLoss]) -> Stream:
    """Make the stream of a level; weak terms are of the run's own frames alone."""
    config, potential = plan.config, plan.potential
    own = level is plan.levels[0]
    if not own:
        has_forces = any(f.forces is not None for f in level.train)
        # Forces that the base model gives count, also where the run's own frames have none.
        update = {"forces_weight": config.loss.forces_weight or 1.0}
        settings = config.loss.model_copy(update=update if level.replayed else {})
        losses = [TotalLoss(supervised_terms(settings, has_forces=has_forces))]
        potential = potential.of_head(level.head)
    skin = losses[0].skin if potential.skin_safe else 0.0
    graphs = graphs_of(level.train, potential.r_max + skin, resolve_dtype(config.dtype))
    size = level.batch_size or config.optimizer.batch_size or 1
    batches = Batches(graphs, size, config.seed)
    return Stream(potential, losses, batches, level.train, level.name, level.weight)


def _validation_sets(level: Level, plan: Plan) -> Iterator[ValidationSet]:
    own = level is plan.levels[0]
    potential = plan.potential if own else plan.potential.of_head(level.head)
    for name, frames in level.valid.items():
        yield ValidationSet(name, potential, frames, own, level.weight)


def _check_sizes(streams: Sequence[Stream], processes: Processes) -> None:
    for stream in streams:
        size = stream.batches.size
        if size < processes.size:
            what = f" of {stream.name}" if stream.name else ""
            raise UserError(
                f"{size} structures{what} a step and {processes.size} processes: each needs one; "
                "give larger batches, or fewer processes"
            )


def _check_columns(columns: Sequence[str]) -> None:
    for name in columns:
        if columns.count(name) > 1 or name in COLUMNS:
            raise UserError(
                f"two columns of metrics.csv would be called '{name}': give the validation set, "
                "the head or the loss term another name"
            )


def _result(out: Path, history: History) -> FinetuneResult:
    kept = load_potential(out / "model.safetensors")
    return FinetuneResult(kept, history.rows, out, history.kept_step)


def _solve(
    plan: Plan,
    sets: list[ValidationSet],
    loss: TotalLoss,
    history: History,
    progress: Progress | None,
) -> None:
    """Fine-tune in closed form; one row of the history, and a validation, for each iteration."""
    mine = plan.potential
    most = plan.config.optimizer.iterations
    frames = [frame for level in plan.levels for frame in level.weighted()]

    def report(step: Step, potential: PotentialModule) -> None:
        # In place: the form that evaluates it is kept.
        with torch.no_grad():
            for weight, new in zip(mine.parameters(), potential.parameters(), strict=True):
                weight.copy_(new)
        mine.e0 = potential.e0
        history.add(mine, validate(sets, loss), step=step.number, ended=step.last)
        if progress is not None:
            progress(most if step.last else step.number, most, history.latest)

    def within(number: int, part: float) -> None:
        if progress is not None:
            progress(number - 1 + 0.99 * part, most, history.latest)

    history.add(mine, validate(sets, loss), step=0)
    solved = gauss_newton(
        mine,
        frames,
        free_e0=plan.references.source == "fit",
        iterations=most,
        report=report,
        progress=within,
        posterior=plan.train,
    )
    if history.kept_step == history.latest["step"]:
        mine.posterior = solved.posterior
        history.save(mine)


def _as_config(
    config: FinetuneConfig | Mapping[str, Any] | str | os.PathLike[str] | None,
) -> FinetuneConfig:
    if isinstance(config, FinetuneConfig):
        return config.model_copy(deep=True)
    if config is None or isinstance(config, Mapping):
        return validated_config(config or {})
    return load_config(config)


def _provenance(
    plan: Plan, terms: Sequence[WeightedTerm], notes: Mapping[str, Any]
) -> dict[str, Any]:
    """Give what the model file says of how the model was made."""
    train, model = plan.train, plan.model
    formulas = sorted({frame.formula for frame in train})
    absent = plan.references.absent
    base = None
    if isinstance(model, str | os.PathLike) and is_own(model):
        base = read_header(model).get("provenance", {}).get("notes")
    return {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "ase_ws": __version__,
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "config": plan.config.model_dump(mode="json"),
        "terms": "; ".join(map(str, terms)),
        "n_train": len(train),
        "n_valid": len(plan.valid),
        "n_train_with_forces": sum(f.forces is not None for f in train),
        "largest_training_force_ev_per_angstrom": max(
            (float(abs(f.forces).max()) for f in train if f.forces is not None), default=None
        ),
        "trained_on": formulas[:50],
        "e0": {
            "source": plan.references.source,
            "separable": plan.references.separable,
            **({"not_among_the_labels": list(absent)} if absent else {}),
        },
        "base_notes": base,
        "notes": dict(notes),
    }
