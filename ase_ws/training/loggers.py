"""Where the rows of a run go beside `metrics.csv`: TensorBoard, Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from ase_ws.errors import UserError


class Logger(Protocol):
    """Takes the rows of a run."""

    def log(self, row: Mapping[str, Any]) -> None:
        """Take a row of `metrics.csv`."""
        ...


class TensorBoardLogger:
    """Writes event files to `folder/tensorboard`; `tensorboard --logdir` shows them."""

    def __init__(self, folder: Path, stack: ExitStack):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"))
        stack.callback(self._writer.close)

    def log(self, row: Mapping[str, Any]) -> None:
        """Take a row."""
        for name, value in _numbers(row).items():
            self._writer.add_scalar(name, value, row["step"])
        self._writer.flush()


class WandbLogger:
    """Sends rows to Weights & Biases, as its environment variables say (`WANDB_MODE`...)."""

    def __init__(self, folder: Path, config: Mapping[str, Any], stack: ExitStack):
        import wandb

        self._run: Any = wandb.init(
            project="ase_ws", name=folder.name, dir=str(folder), config=dict(config)
        )
        stack.callback(self._run.finish)

    def log(self, row: Mapping[str, Any]) -> None:
        """Take a row."""
        self._run.log(_numbers(row), step=row["step"])


def require_library(name: str, setting: str) -> None:
    """Raise a `UserError` that says what to install for a setting, where it is not there."""
    if find_spec(name) is None:
        raise UserError(f"{setting} needs the library: pip install {name}")


def make_loggers(
    names: Sequence[str], folder: Path, config: Mapping[str, Any], stack: ExitStack
) -> list[Logger]:
    """Make the loggers of these names; `stack` closes them."""
    made: list[Logger] = []
    for name in names:
        if name == "tensorboard":
            made.append(TensorBoardLogger(folder, stack))
        else:
            made.append(WandbLogger(folder, config, stack))
    return made


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {k: float(v) for k, v in row.items() if k != "step" and v is not None}
