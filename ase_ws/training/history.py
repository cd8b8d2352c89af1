"""The rows of a run, and the model that it keeps."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ase_ws.files.writing import write_text
from ase_ws.potentials.base import PotentialModule
from ase_ws.potentials.files import save_potential
from ase_ws.training.loggers import Logger

#: A last model with more than this times the validation loss of the start (twice its error) is not
#: kept; below that, a few validation energies are no judge.
RUINED = 4.0
#: Less than this part of the loss is no improvement to wait for (as torch has it for plateaus).
IMPROVED = 1e-4

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
    "stress_rmse_mev_per_angstrom3",
    "force_consistency_rmse_mev_per_angstrom",
)


class History:
    """Keeps one row per validation, writes `metrics.csv`, and saves the model to keep.

    That is the best by the validation loss so far; with `select` "last" the one of the last step
    takes its place at the end, unless its validation loss is above `RUINED` times the start's.

    Parameters
    ----------
    folder : Path
    provenance : dict
        Goes into the model file.
    select : {"best", "last"}
    more : sequence of str
        Columns beside `COLUMNS`.
    loggers : sequence of Logger
        Told of every row.
    write : bool
        False in all but the first of several processes.
    """

    def __init__(
        self,
        folder: Path,
        provenance: dict[str, Any],
        select: Literal["best", "last"] = "best",
        more: Sequence[str] = (),
        loggers: Sequence[Logger] = (),
        *,
        write: bool = True,
    ):
        self.folder = folder
        self.provenance = provenance
        self.select = select
        self.columns = (*COLUMNS, *more)
        self.loggers = loggers
        self.kept_step: int | None = None
        self.rows: list[dict[str, Any]] = []
        self.best = float("inf")
        #: Validations since the last improvement, and the loss that is to be improved on.
        self.stale, self.mark = 0, float("inf")
        #: The first loss of the stage.
        self.first: float | None = None
        self._write = write
        self._seconds = 0.0
        self._started = time.perf_counter()

    @property
    def latest(self) -> dict[str, Any]:
        """The last row; empty before there is one."""
        return self.rows[-1] if self.rows else {}

    def state(self) -> dict[str, Any]:
        """Give what a resumed run needs to go on."""
        return {
            "rows": self.rows,
            "best": self.best,
            "stale": self.stale,
            "mark": self.mark,
            "first": self.first,
            "kept_step": self.kept_step,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.rows, self.best = list(state["rows"]), state["best"]
        self.stale, self.mark = state["stale"], state["mark"]
        self.kept_step, self.first = state["kept_step"], state["first"]
        self._seconds = self.rows[-1]["seconds"] if self.rows else 0.0

    def start_clock(self) -> None:
        """Let the seconds of the run begin here."""
        self._started = time.perf_counter()

    def judge_anew(self) -> None:
        """Forget the best loss: from here on the loss is another."""
        self.best, self.stale, self.mark = float("inf"), 0, float("inf")
        self.first = None

    def add(
        self,
        potential: PotentialModule,
        metrics: Mapping[str, Any],
        *,
        step: int,
        ended: bool = False,
        rate: float | None = None,
        losses: Mapping[str, float] | None = None,
    ) -> None:
        """Add a row; save the model if it is the one to keep so far.

        Parameters
        ----------
        potential : PotentialModule
            With the weights that were validated.
        metrics : mapping
            Of the validation.
        step : int
        ended : bool
            Whether it is the last step.
        rate : float, optional
            Learning rate.
        losses : mapping, optional
            Means of the training losses since the last row, by column.
        """
        row = dict.fromkeys(self.columns)
        found = {**metrics, **(losses or {}), "step": step, "learning_rate": rate}
        row.update({name: value for name, value in found.items() if name in row})
        row["seconds"] = round(self._seconds + time.perf_counter() - self._started, 3)
        self.rows.append(row)
        if self._write:
            self._write_rows()
            for logger in self.loggers:
                logger.log(row)
        # NaN is not below anything, so a broken model is never saved.
        loss = float(metrics["valid_loss"])
        self.first = loss if self.first is None else self.first
        ends = self.select == "last" and ended
        if loss < self.best or (ends and loss <= RUINED * self.first):
            self.best = min(self.best, loss)
            self.kept_step = step
            if self._write:
                self.save(potential)
        improved = loss < self.mark * (1 - IMPROVED)
        self.stale, self.mark = (0, loss) if improved else (self.stale + 1, self.mark)

    def _write_rows(self) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns)
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.folder / "metrics.csv", text.getvalue())

    def save(self, potential: PotentialModule) -> None:
        """Write the model, with what the last row says of it."""
        row = self.latest
        errors = {k: row[k] for k in COLUMNS if k.endswith(("atom", "angstrom"))}
        save_potential(
            potential,
            self.folder / "model.safetensors",
            {**self.provenance, "step": row["step"], "validation": errors},
        )
