"""The sections of a configuration, a file each."""

from ase_ws.training.settings.data import DataConfig, ReplayConfig
from ase_ws.training.settings.losses import LossConfig, WeakConfig
from ase_ws.training.settings.model import ModelConfig
from ase_ws.training.settings.optimizer import OptimizerConfig

__all__ = [
    "DataConfig",
    "LossConfig",
    "ModelConfig",
    "OptimizerConfig",
    "ReplayConfig",
    "WeakConfig",
]
