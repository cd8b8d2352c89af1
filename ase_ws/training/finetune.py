"""Fine-tune a potential on labelled frames, with or without the weak losses."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import lightning as L
import torch

from ase_ws._version import __version__
from ase_ws.content import content, short_hash
from ase_ws.devices import resolve_device, sensible_threads, threads
from ase_ws.files.folders import make_clear, require_free, require_writable
from ase_ws.frames import FrameSource
from ase_ws.losses import WeightedTerm
from ase_ws.potentials.base import PotentialModule
from ase_ws.potentials.files import is_own, load_potential, read_header
from ase_ws.training.callbacks import History, Progress
from ase_ws.training.config import FinetuneConfig
from ase_ws.training.config_files import load_config, validated_config
from ase_ws.training.gauss_newton import Step, gauss_newton
from ase_ws.training.module import FinetuneModule, train_loader, valid_loader
from ase_ws.training.prepare import Plan, prepare
from ase_ws.training.resume import FILES, checkpoint_of, earlier_command
from ase_ws.training.terms import build_losses, with_terms
from ase_ws.training.trainer import (
    keyboard_interrupt,
    quiet_lightning,
    reproducible,
    trainer_of,
)


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
    valid: FrameSource | None = None,
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
        Default: `config.data.valid`, else a part of the training frames is held out.
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
    out = Path(out)
    if resume:
        require_writable(out, folder=True)
    else:
        require_free(out, overwrite=overwrite, resume=f"ase-ws finetune --resume {out}")
    terms = [terms] if isinstance(terms, WeightedTerm) else list(terms)
    config = with_terms(_as_config(config), terms)
    with reproducible(config):
        plan = prepare(config, train, valid, model)
    config, potential = plan.config, plan.potential
    loss, valid_loss = build_losses(config, plan.train, plan.base, terms)
    plan.inputs["loss terms"] = short_hash(content(terms, deep=True)) if terms else ""
    plan.choices.extend(
        f"loss term '{t.name}' never counts: weight or fraction is 0" for t in terms if not t.counts
    )

    # Before the folder is cleared: the base model may be the one that stands there.
    notes = dict(notes or {})
    checkpoint, first_step = None, 0
    if resume:
        checkpoint, first_step = checkpoint_of(out, config, plan.inputs)
        if "command" in notes:
            notes["command"] = " && ".join(filter(None, [earlier_command(out), notes["command"]]))
    provenance = _provenance(plan, terms, notes)
    # Frames that make no graph are found before anything is written, too.
    skin = loss.skin if potential.skin_safe else 0.0
    valid_batches = valid_loader(plan.valid, potential.r_max, potential.dtype)
    train_batches = (
        train_loader(plan.train, potential.r_max + skin, config, first_step)
        if config.optimizer.kind == "adam"
        else None
    )
    if announce is not None:
        for line in (*plan.summary, *plan.choices):
            announce(line)
    if not resume:
        make_clear(out, FILES)
    config.write(out / "config.yaml")
    select = config.optimizer.select or "best"
    history = History(out, provenance, select, [f"train_{term.name}" for term in terms])
    module = FinetuneModule(
        potential, loss, valid_loss, config, frames=plan.train, inputs=plan.inputs
    )
    n_atoms = sum(len(f.numbers) for f in plan.train) / len(plan.train)
    number = config.threads or sensible_threads(n_atoms * (config.optimizer.batch_size or 1))
    with reproducible(config), quiet_lightning(), threads(number):
        trainer = trainer_of(config, out, history, progress)
        if train_batches is None:
            with keyboard_interrupt(trainer):
                _solve(trainer, module, plan, valid_batches, history, progress)
            return _result(out, history)
        if checkpoint is None:
            # The first row is the model before training: with a base model it may stay the best.
            trainer.validate(module, valid_batches, verbose=False)
        with keyboard_interrupt(trainer):
            trainer.fit(
                module, train_batches, valid_batches, ckpt_path=checkpoint, weights_only=True
            )
        if history.rows[-1]["step"] < trainer.global_step:
            # Steps after the last regular validation count too.
            trainer.validate(module, valid_batches, verbose=False)
    return _result(out, history)


def _result(out: Path, history: History) -> FinetuneResult:
    kept = load_potential(out / "model.safetensors")
    return FinetuneResult(kept, history.rows, out, history.kept_step)


def _solve(
    trainer: L.Trainer,
    module: FinetuneModule,
    plan: Plan,
    valid: Any,
    history: History,
    progress: Progress | None,
) -> None:
    """Fine-tune in closed form; one row of the history, and a validation, for each iteration."""
    device = resolve_device(module.config.device)
    most = module.config.optimizer.iterations

    def report(step: Step, potential: PotentialModule) -> None:
        # In place: the form that evaluates it is kept.
        module.potential.to(device)
        with torch.no_grad():
            for mine, new in zip(
                module.potential.parameters(), potential.parameters(), strict=True
            ):
                mine.copy_(new)
        module.potential.e0 = potential.e0
        history.at = step.number, step.last
        trainer.validate(module, valid, verbose=False)
        if progress is not None:
            progress(most if step.last else step.number, most, history.rows[-1])

    def within(number: int, part: float) -> None:
        if progress is not None:
            progress(number - 1 + 0.99 * part, most, history.rows[-1])

    history.at = 0, False
    trainer.validate(module, valid, verbose=False)
    # Lightning leaves a model that it validated on the CPU.
    gauss_newton(
        module.potential.to(device),
        plan.train,
        free_e0=plan.references.source == "fit",
        iterations=most,
        report=report,
        progress=within,
    )


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
