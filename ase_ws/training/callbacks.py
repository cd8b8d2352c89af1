"""What happens beside the training steps: history, the best model, progress."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only

from ase_ws.files.writing import atomic_path, write_text
from ase_ws.potentials.files import save_potential
from ase_ws.training.module import FinetuneModule

Progress = Callable[[float, int, dict[str, Any]], None]

#: A last model with more than this times the validation loss of the start (twice its error) is not
#: kept; below that, a few validation energies are no judge.
RUINED = 4.0

COLUMNS: tuple[str, ...] = (
    "step",
    "seconds",
    "learning_rate",
    "train_loss",
    "train_energy",
    "train_forces",
    "train_stress",
    "train_pitc",
    "train_pisc",
    "train_curl",
    "train_gradient",
    "train_taylor",
    "train_noisy_nodes",
    "valid_loss",
    "energy_rmse_mev_per_atom",
    "energy_mae_mev_per_atom",
    "forces_rmse_mev_per_angstrom",
    "forces_mae_mev_per_angstrom",
    "force_consistency_rmse_mev_per_angstrom",
)


class History(L.Callback):
    """Keeps one row per validation, writes `metrics.csv`, and saves the model to keep.

    That is the best by the validation loss so far; with `select` "last" the one of the last step
    takes its place at the end, unless its validation loss is above `RUINED` times the start's.

    It must come before the weight average in the list of callbacks: then it sees, at the end of a
    validation, the averaged weights that were validated.

    Parameters
    ----------
    folder : Path
    provenance : dict
        Goes into the model file.
    select : {"best", "last"}
    more : sequence of str
        Columns beside `COLUMNS`.
    """

    def __init__(
        self,
        folder: Path,
        provenance: dict[str, Any],
        select: Literal["best", "last"] = "best",
        more: Sequence[str] = (),
    ):
        self.folder = folder
        self.provenance = provenance
        self.select = select
        self.columns = (*COLUMNS, *more)
        self.kept_step: int | None = None
        #: Where there is no trainer to count steps: the step, and whether it is the last.
        self.at: tuple[int, bool] | None = None
        self.rows: list[dict[str, Any]] = []
        self.best = float("inf")
        self._seconds = 0.0
        self._started = time.perf_counter()
        self._sums: dict[str, float] = {}
        self._count = 0

    def state_dict(self) -> dict[str, Any]:
        """Keep what a resumed run needs to go on."""
        return {"rows": self.rows, "best": self.best, "kept_step": self.kept_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.rows = list(state_dict["rows"])
        self.best = state_dict["best"]
        # Absent from checkpoints of earlier versions.
        self.kept_step = state_dict.get("kept_step")
        self._seconds = self.rows[-1]["seconds"] if self.rows else 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock; a new run starts its history with the untrained model."""
        self._started = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Add up the training losses since the last validation."""
        for name, value in trainer.callback_metrics.items():
            if name.startswith("train_"):
                self._sums[name] = self._sums.get(name, 0.0) + float(value)
        self._count += 1

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add a row; save the model if it is the one to keep so far."""
        assert isinstance(pl_module, FinetuneModule)
        metrics = pl_module.validation_metrics()
        row = dict.fromkeys(self.columns)
        row.update({k: v for k, v in metrics.items() if k in row})
        ended = trainer.global_step >= trainer.max_steps > 0
        row["step"], ended = self.at or (trainer.global_step, ended)
        row["seconds"] = round(self._seconds + time.perf_counter() - self._started, 3)
        if trainer.optimizers:
            row["learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        if self._count:
            row.update({k: v / self._count for k, v in self._sums.items() if k in row})
        self._sums, self._count = {}, 0
        self.rows.append(row)
        self._write()
        valid_loss = metrics["valid_loss"]
        # NaN is not below anything, so a broken model is never saved.
        if valid_loss is None:
            return
        ends = self.select == "last" and ended
        if valid_loss < self.best or (ends and valid_loss <= RUINED * self.rows[0]["valid_loss"]):
            self.best = min(self.best, valid_loss)
            self.kept_step = row["step"]
            self._save(pl_module, row)

    @rank_zero_only
    def _write(self) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns)
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.folder / "metrics.csv", text.getvalue())

    @rank_zero_only
    def _save(self, module: FinetuneModule, row: dict[str, Any]) -> None:
        errors = {k: row[k] for k in COLUMNS if k.endswith(("atom", "angstrom"))}
        save_potential(
            module.potential,
            self.folder / "model.safetensors",
            {**self.provenance, "step": row["step"], "validation": errors},
        )


def warm_ema(decay: float) -> Callable[[Any, Any, Any], None]:
    """Make the update of an exponential moving average of weights that forgets its start.

    w̄ ← d w̄ + (1 − d) w with d = min(decay, (1 + n) / (10 + n)) at the n-th update: a plain average
    with decay 0.99 would still hold a third of the untrained weights after a hundred steps.

    Parameters
    ----------
    decay : float
        Final decay, in [0, 1).

    Returns
    -------
    callable
        As `torch.optim.swa_utils.AveragedModel` takes it (`multi_avg_fn`).
    """

    @torch.no_grad()
    def update(averaged: Any, current: Any, n: Any) -> None:
        d = min(decay, (1 + int(n)) / (10 + int(n)))
        for mean, weight in zip(averaged, current, strict=True):
            mean.lerp_(weight, 1 - d)

    return update


class LastCheckpoint(L.Callback):
    """Writes, after every validation, all that a resumed run needs; whole or not at all.

    It must come after the weight average in the list of callbacks, which by then has given the
    training its own weights back.
    """

    def __init__(self, path: Path):
        self.path = path

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save, unless this validation stands outside the training."""
        if trainer.state.fn == "fit":
            self._save(trainer)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save the last step, even where no regular validation follows it."""
        if trainer.global_step == trainer.max_steps:
            self._save(trainer)

    def _save(self, trainer: L.Trainer) -> None:
        with atomic_path(self.path) as temporary:
            trainer.save_checkpoint(temporary)


class StepProgress(L.Callback):
    """Reports (step, max_steps, latest row of the history) to a function."""

    def __init__(self, report: Progress, history: History):
        self.report, self.history = report, history

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Report every step."""
        latest = self.history.rows[-1] if self.history.rows else {}
        self.report(trainer.global_step, trainer.max_steps, latest)
