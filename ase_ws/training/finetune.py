"""Fine-tune a potential on labelled frames, with or without the weak losses."""

from __future__ import annotations

import copy
import logging
import os
import pickle
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping, WeightAveraging

from ase_ws._version import __version__
from ase_ws.devices import resolve_device, resolve_dtype, sensible_threads, threads
from ase_ws.errors import UserError
from ase_ws.folders import make_clear, require_free
from ase_ws.frames import (
    Frame,
    FrameSource,
    LabelKeys,
    check_elements,
    read_frames,
    split_frames,
)
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
from ase_ws.potentials.files import load_potential, read_header
from ase_ws.potentials.module import PotentialModule
from ase_ws.training.auto import choose_weak
from ase_ws.training.callbacks import (
    History,
    LastCheckpoint,
    Progress,
    StepProgress,
    warm_ema,
)
from ase_ws.training.config import FinetuneConfig, load_config, validated_config
from ase_ws.training.gauss_newton import DEFAULT_FROM, Step, gauss_newton, unsolvable
from ase_ws.training.module import FinetuneModule, train_loader, valid_loader
from ase_ws.training.start import (
    given_by_atoms,
    new_potential,
    refit_e0,
    separate_isolated_atoms,
    with_forces,
)

#: What a run leaves in its folder.
FILES = ("model.safetensors", "metrics.csv", "config.yaml", "last.ckpt")


@dataclass
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


def finetune(
    train: FrameSource | None = None,
    valid: FrameSource | None = None,
    *,
    model: str | os.PathLike[str] | PotentialModule | None = None,
    config: FinetuneConfig | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str],
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    notes: Mapping[str, Any] | None = None,
    announce: Callable[[str], None] | None = None,
) -> FinetuneResult:
    """Fine-tune a potential, or train a small MACE from scratch.

    Parameters
    ----------
    train : path, sequence of Atoms, or sequence of Frame
        Default: `config.data.train`.
    valid : likewise, optional
        Default: `config.data.valid`, else a part of the training frames is held out.
    model : path or PotentialModule, optional
        The base model; default `config.model.base`; neither: from scratch.
    config : FinetuneConfig, dict, or path of a YAML file, optional
    out : path
        Folder for `model.safetensors`, `metrics.csv`, `config.yaml`, `last.ckpt`.
    resume : bool
        Go on from `out/last.ckpt`, up to `optimizer.max_steps`.
    overwrite : bool
        Replace what an earlier run left in `out`.
    progress : callable, optional
        Called after every step with (step, max_steps, latest row of the history).
    notes : mapping, optional
        JSON-able facts for the model file, such as the command.
    announce : callable, optional
        Called, before training, with a line about each choice that was left to us and changes what
        is done.

    Returns
    -------
    FinetuneResult

    Raises
    ------
    UserError
        Bad input, before anything is written.
    """
    out = Path(out)
    config = _as_config(config)
    if train is None:
        train = config.data.train
    if train is None:
        raise UserError("no training frames: give --train FILE (or data.train in --config)")
    valid = valid if valid is not None else config.data.valid
    if model is None:
        model = config.model.base
    config = _record_inputs(config, train, valid, model)

    train_frames, valid_frames, isolated = _load_frames(config, train, valid)
    has_forces = any(f.forces is not None for f in train_frames)
    with _reproducible(config):
        potential, base = _starting_point(config, model, train_frames, isolated)
    asked = config
    free_e0 = config.data.e0s == "fit" and not given_by_atoms(train_frames, isolated)
    refusal = unsolvable(potential, train_frames, free_e0=free_e0)
    config = config.resolved(
        has_forces=has_forces,
        conservative=potential.conservative,
        n_valid=len(valid_frames),
        closed_form=refusal is None and len(train_frames) >= DEFAULT_FROM,
    )
    if config.optimizer.kind == "gauss-newton" and refusal is not None:
        raise UserError(refusal)
    if announce is not None:
        for line in _choices(asked, config):
            announce(line)
    check_elements(valid_frames, potential.atomic_numbers, config.model.base or "")
    loss, valid_loss = build_losses(config, train_frames, base)

    # Before the folder is cleared: the base model may be the one that stands there.
    provenance = _provenance(config, train_frames, valid_frames, model, notes)
    checkpoint = _prepare_folder(out, resume=resume, overwrite=overwrite)
    # Before the configuration is written: a damaged checkpoint must cost nothing.
    first_step = 0 if checkpoint is None else _global_step(checkpoint)
    config.write(out / "config.yaml")
    history = History(out, provenance, config.optimizer.select or "best")
    skin = loss.skin if potential.skin_safe else 0.0
    module = FinetuneModule(potential, loss, valid_loss, config)
    valid_batches = valid_loader(valid_frames, potential.r_max)
    n_atoms = sum(len(f.numbers) for f in train_frames) / len(train_frames)
    number = config.threads or sensible_threads(n_atoms * (config.optimizer.batch_size or 1))
    with _reproducible(config), _quiet_lightning(), threads(number):
        trainer = _trainer(config, out, history, progress)
        if config.optimizer.kind == "gauss-newton":
            with _keyboard_interrupt(trainer):
                _solve(trainer, module, train_frames, valid_batches, history, progress, free_e0)
            return _result(out, history)
        train_batches = train_loader(train_frames, potential.r_max + skin, config, first_step)
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


def _choices(asked: FinetuneConfig, config: FinetuneConfig) -> Iterator[str]:
    """Say what was picked where the choice was ours, in a line each."""
    if asked.weak.kind == "auto":
        weak = config.weak
        yield f"--weak auto: {choose_weak(conservative=config.model.forces == 'conservative').why}"
        if weak.kind != "none":
            parts = f"ε {weak.epsilon:g} Å, weight {weak.gradient_weight:g}"
            labels = f"; {weak.at_labels:.0%} of the labelled structures: -dE/dr against the label"
            yield f"  ({parts}{labels if weak.at_labels else ''})"
    if asked.optimizer.kind is None and config.optimizer.kind == "gauss-newton":
        yield (
            f"{DEFAULT_FROM} or more energies, no forces, from a base model: closed form "
            "(gauss-newton); --optimizer adam for gradient steps"
        )
    elif asked.optimizer.select is None and config.optimizer.select == "last":
        yield (
            "few validation energies, which would choose by luck: the model of the last step will "
            "be kept (optimizer.select)"
        )


def _result(out: Path, history: History) -> FinetuneResult:
    kept = load_potential(out / "model.safetensors")
    return FinetuneResult(kept, history.rows, out, history.kept_step)


def _solve(
    trainer: L.Trainer,
    module: FinetuneModule,
    frames: list[Frame],
    valid: Any,
    history: History,
    progress: Progress | None,
    free_e0: bool,
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
        module.potential.to(device), frames, free_e0=free_e0, iterations=most, report=report
    )


def _as_config(
    config: FinetuneConfig | Mapping[str, Any] | str | os.PathLike[str] | None,
) -> FinetuneConfig:
    if isinstance(config, FinetuneConfig):
        return config.model_copy(deep=True)
    if config is None or isinstance(config, Mapping):
        return validated_config(config or {})
    return load_config(config)


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
) -> tuple[PotentialModule, PotentialModule | None]:
    """Give the potential to train, and the frozen base model at the same E0 (None from scratch)."""
    device = resolve_device(config.device)
    if model is None:
        return new_potential(config, frames, isolated).to(device), None

    def load() -> PotentialModule:
        if isinstance(model, PotentialModule):
            return copy.deepcopy(model).to(resolve_dtype(config.dtype)).to(device)
        return load_potential(model, dtype=config.dtype, device=device, head=config.model.head)

    potential, base = load(), load()
    check_elements(frames, potential.atomic_numbers, config.model.base or "")
    if config.data.e0s == "fit":
        refit_e0(potential, frames, isolated)
        base.e0.copy_(potential.e0)
    return with_forces(potential, config, frames).train(), base.requires_grad_(False)


def build_losses(
    config: FinetuneConfig, frames: list[Frame], base: PotentialModule | None
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
    terms = [
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
    return TotalLoss([*supervised, *terms]), TotalLoss(supervised)


def _prepare_folder(out: Path, *, resume: bool, overwrite: bool) -> Path | None:
    """Make the folder; return the checkpoint to go on from, if any."""
    if not resume:
        require_free(out, overwrite=overwrite, resumable=True)
        make_clear(out, FILES)
        return None
    checkpoint = out / "last.ckpt"
    if not checkpoint.is_file():
        raise UserError(
            f"{out}: nothing to resume (no last.ckpt; gauss-newton leaves none); start without "
            "--resume"
        )
    return checkpoint


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


def _global_step(checkpoint: Path) -> int:
    try:
        return int(torch.load(checkpoint, map_location="cpu", weights_only=True)["global_step"])
    except (RuntimeError, KeyError, EOFError, ValueError, pickle.UnpicklingError) as error:
        detail = " ".join(str(error).split())
        raise UserError(
            f"{checkpoint}: cannot be read ({detail:.100}); start anew with --overwrite"
        ) from error


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


def _provenance(
    config: FinetuneConfig,
    train: list[Frame],
    valid: list[Frame],
    model: Any,
    notes: Mapping[str, Any] | None,
) -> dict[str, Any]:
    from ase.formula import Formula

    formulas = sorted({str(Formula.from_list(_symbols(f)).format("hill")) for f in train})
    base = None
    if isinstance(model, str | os.PathLike) and str(model).endswith(".safetensors"):
        base = read_header(model).get("provenance", {}).get("notes")
    return {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "ase_ws": __version__,
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "config": config.model_dump(mode="json"),
        "n_train": len(train),
        "n_valid": len(valid),
        "n_train_with_forces": sum(f.forces is not None for f in train),
        "largest_training_force_ev_per_angstrom": max(
            (float(abs(f.forces).max()) for f in train if f.forces is not None), default=None
        ),
        "trained_on": formulas[:50],
        "base_notes": base,
        "notes": dict(notes or {}),
    }


def _symbols(frame: Frame) -> list[str]:
    from ase.data import chemical_symbols

    return [chemical_symbols[z] for z in frame.numbers]
