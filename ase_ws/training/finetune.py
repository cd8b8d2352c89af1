"""Fine-tune a potential on labelled frames, with or without the weak losses."""

from __future__ import annotations

import copy
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping, WeightAveraging

from ase_ws._version import __version__
from ase_ws.devices import resolve_device, sensible_threads, threads
from ase_ws.errors import UserError
from ase_ws.files.folders import make_clear, require_free, require_writable
from ase_ws.frames import Frame, FrameSource
from ase_ws.losses import (
    CurlLoss,
    EnergyLoss,
    ForcesLoss,
    GradientLoss,
    NoisyNodesLoss,
    PISCLoss,
    PITCLoss,
    Reference,
    StressLoss,
    TaylorLabelLoss,
    TotalLoss,
    WeightedTerm,
)
from ase_ws.potentials.base import PotentialModule
from ase_ws.potentials.files import is_own, load_potential, read_header
from ase_ws.training.callbacks import (
    COLUMNS,
    History,
    LastCheckpoint,
    Progress,
    StepProgress,
    warm_ema,
)
from ase_ws.training.config import FinetuneConfig, load_config, validated_config
from ase_ws.training.gauss_newton import Step, gauss_newton
from ase_ws.training.module import FinetuneModule, train_loader, valid_loader
from ase_ws.training.prepare import Plan, prepare
from ase_ws.training.resume import FILES, checkpoint_of, earlier_command


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
        no part of `config.yaml`: a run that goes on must be given them again.
    resume : bool
        Go on from `out/last.ckpt`, up to `optimizer.max_steps`.
    overwrite : bool
        Replace what an earlier run left in `out`.
    progress : callable, optional
        Called after every step with (step, max_steps, latest row of the history).
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
    config = _with_terms(_as_config(config), terms)
    with _reproducible(config):
        plan = prepare(config, train, valid, model)
    config, potential = plan.config, plan.potential
    loss, valid_loss = build_losses(config, plan.train, plan.base, terms)
    plan.inputs["terms"] = ", ".join(f"{term.name} x {term.weight:g}" for term in terms)

    # Before the folder is cleared: the base model may be the one that stands there.
    notes = dict(notes or {})
    checkpoint, first_step = None, 0
    if resume:
        checkpoint, first_step = checkpoint_of(out, config, plan.inputs)
        if "command" in notes:
            notes["command"] = " && ".join(filter(None, [earlier_command(out), notes["command"]]))
    provenance = _provenance(plan, notes)
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
    with _reproducible(config), _quiet_lightning(), threads(number):
        trainer = _trainer(config, out, history, progress)
        if train_batches is None:
            with _keyboard_interrupt(trainer):
                _solve(trainer, module, plan, valid_batches, history, progress)
            return _result(out, history)
        if checkpoint is None:
            # The first row is the model before training: with a base model it may stay the best.
            trainer.validate(module, valid_batches, verbose=False)
        with _keyboard_interrupt(trainer):
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
    dtype, device = module.potential.dtype, resolve_device(module.config.device)
    most = module.config.optimizer.iterations

    def report(step: Step, potential: PotentialModule) -> None:
        module.potential = copy.deepcopy(potential).to(dtype).to(device)
        history.at = step.number, step.last
        trainer.validate(module, valid, verbose=False)
        if progress is not None:
            progress(most if step.last else step.number, most, history.rows[-1])

    history.at = 0, False
    trainer.validate(module, valid, verbose=False)
    # Lightning leaves a model that it validated on the CPU.
    gauss_newton(
        module.potential.to(device),
        plan.train,
        free_e0=plan.references.source == "fit",
        iterations=most,
        report=report,
    )


def _as_config(
    config: FinetuneConfig | Mapping[str, Any] | str | os.PathLike[str] | None,
) -> FinetuneConfig:
    if isinstance(config, FinetuneConfig):
        return config.model_copy(deep=True)
    if config is None or isinstance(config, Mapping):
        return validated_config(config or {})
    return load_config(config)


def _with_terms(config: FinetuneConfig, terms: Sequence[WeightedTerm]) -> FinetuneConfig:
    """Check the user's own terms; with any there are gradient steps to take."""
    own = {column.removeprefix("train_") for column in COLUMNS}
    for term in terms:
        if not isinstance(term, WeightedTerm):
            raise UserError(
                f"terms: expected ase_ws.losses.WeightedTerm(name, weight, loss), not {term!r:.80}"
            )
        if term.name in own:
            raise UserError(f"terms: the name '{term.name}' is taken: give the term another")
        own.add(term.name)
    if terms and config.optimizer.kind == "gauss-newton":
        raise UserError(
            "terms: optimizer.kind=gauss-newton solves for the energies alone and would ignore "
            f"'{terms[0].name}': use optimizer.kind=adam"
        )
    if terms:
        config.optimizer.kind = "adam"
    return config


def build_losses(
    config: FinetuneConfig,
    frames: list[Frame],
    base: PotentialModule | None,
    terms: Sequence[WeightedTerm] = (),
) -> tuple[TotalLoss, TotalLoss]:
    """Build the training loss and the supervised loss that models are chosen by.

    Parameters
    ----------
    config : FinetuneConfig
        Resolved.
    frames : list of Frame
        Training frames: a force term is only there if some frame has forces.
    base : PotentialModule or None
        Frozen reference of the weak terms.
    terms : sequence of WeightedTerm
        The user's own, of the training loss only.
    """
    loss, weak = config.loss, config.weak
    has_forces = any(f.forces is not None for f in frames)
    supervised = [
        WeightedTerm("energy", loss.energy_weight or 0.0, EnergyLoss(loss.metric)),
        WeightedTerm(
            "forces", (loss.forces_weight or 0.0) if has_forces else 0.0, ForcesLoss(loss.metric)
        ),
        WeightedTerm("stress", loss.stress_weight, StressLoss()),
    ]
    # One memory for both terms.
    reference = Reference(base) if base is not None and weak.reference == "base" else None
    sampling: dict[str, Any] = {
        "epsilon": weak.epsilon or 0.05,
        "metric": weak.metric,
        "shape": weak.shape,
        "cap": weak.cap,
        # Without a reference nothing is kept, and new displacements cost the same.
        "pool": weak.pool if reference is not None else 0,
        "seed": config.seed,
    }
    shared: dict[str, Any] = {
        **sampling,
        "order": weak.order or 1,
        "reference": reference,
        "detach_target": weak.detach_target,
        "detach_forces": weak.detach_forces,
        "direction": weak.direction,
    }
    when: dict[str, float] = {
        "weight_ramp": weak.weight_ramp,
        "epsilon_ramp": weak.epsilon_ramp,
        "fraction": weak.fraction,
    }
    weak_terms = [
        WeightedTerm("curl", weak.curl_weight, CurlLoss(**sampling), **when),
        WeightedTerm(
            "gradient",
            weak.gradient_weight or 0.0,
            GradientLoss(
                sampling["epsilon"],
                weak.metric,
                shape=weak.shape,
                cap=weak.cap,
                detach_forces=weak.detach_forces,
                at_labels=weak.at_labels or 0.0,
            ),
            **when,
        ),
        WeightedTerm("taylor", weak.taylor_weight, TaylorLabelLoss(**sampling), **when),
        WeightedTerm("noisy_nodes", weak.noisy_nodes_weight, NoisyNodesLoss(**sampling), **when),
        WeightedTerm("pitc", weak.pitc_weight or 0.0, PITCLoss(**shared), **when),
        WeightedTerm("pisc", weak.pisc_weight or 0.0, PISCLoss(**shared), **when),
    ]
    return TotalLoss([*supervised, *weak_terms, *terms]), TotalLoss(supervised)


def _trainer(
    config: FinetuneConfig, out: Path, history: History, progress: Progress | None
) -> L.Trainer:
    settings = config.optimizer
    callbacks: list[L.Callback] = [history]
    if settings.ema_decay > 0:
        average = warm_ema(settings.ema_decay)
        callbacks.append(WeightAveraging(use_buffers=False, multi_avg_fn=average))
    if progress is not None:
        callbacks.append(StepProgress(progress, history))
    if settings.patience is not None:
        callbacks.append(_Patience(history, settings.patience))
    callbacks.append(LastCheckpoint(out / "last.ckpt"))
    device = resolve_device(config.device)
    return L.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=[device.index or 0] if device.type == "cuda" else 1,
        max_steps=settings.max_steps or -1,
        gradient_clip_val=settings.gradient_clip,
        val_check_interval=settings.valid_interval,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        inference_mode=False,
        callbacks=callbacks,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=str(out),
        enable_checkpointing=False,
    )


class _Patience(EarlyStopping):
    """Lightning's early stopping, watching the history's validation loss."""

    def __init__(self, history: History, patience: int):
        super().__init__(monitor="valid_loss", patience=patience, mode="min", strict=False)
        self._history = history

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at the latest row."""
        if self._history.rows and not trainer.sanity_checking:
            value = torch.tensor(self._history.rows[-1]["valid_loss"])
            trainer.callback_metrics["valid_loss"] = value
        super().on_validation_end(trainer, pl_module)


@contextmanager
def _keyboard_interrupt(trainer: L.Trainer) -> Iterator[None]:
    """Turn Lightning's answer to Ctrl-C (ignore the signal for good, exit with 1) into Python's."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
    finally:
        if in_main_thread:
            signal.signal(signal.SIGINT, handler)


@contextmanager
def _reproducible(config: FinetuneConfig) -> Iterator[None]:
    """Seed torch for the run and give the caller's random state back afterwards."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(config.seed)
        yield


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Silence notices that say nothing about this run (hardware, data-loader workers)."""
    names = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning.*")
            warnings.filterwarnings("ignore", module="torch.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _provenance(plan: Plan, notes: Mapping[str, Any]) -> dict[str, Any]:
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
        "terms": plan.inputs["terms"],
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
