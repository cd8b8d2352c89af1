"""The Lightning trainer of a run, and what it does to a process, undone."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping, WeightAveraging

from ase_ws.devices import resolve_device
from ase_ws.training.callbacks import (
    History,
    LastCheckpoint,
    Progress,
    StepProgress,
    warm_ema,
)
from ase_ws.training.config import FinetuneConfig


def trainer_of(
    config: FinetuneConfig, out: Path, history: History, progress: Progress | None
) -> L.Trainer:
    """Make the trainer, with the history, the averaged weights and the checkpoint as callbacks."""
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
def keyboard_interrupt(trainer: L.Trainer) -> Iterator[None]:
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
def reproducible(config: FinetuneConfig) -> Iterator[None]:
    """Seed torch for the run and give the caller's random state back afterwards."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(config.seed)
        yield


@contextmanager
def quiet_lightning() -> Iterator[None]:
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
