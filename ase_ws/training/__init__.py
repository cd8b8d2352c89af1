"""Training: from labelled frames and a base model to a model file."""

from ase_ws.training.config import FinetuneConfig
from ase_ws.training.evaluate import evaluate_potential
from ase_ws.training.finetune import FinetuneResult, finetune

__all__ = ["FinetuneConfig", "FinetuneResult", "evaluate_potential", "finetune"]
