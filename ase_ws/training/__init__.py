"""Training: from labelled frames and a base model to a model file."""

from ase_ws.side_effects import unchanged_environment

with unchanged_environment():
    import lightning  # noqa: F401 - sets a variable of torch's on its first import

from ase_ws.training.config import FinetuneConfig
from ase_ws.training.evaluate import evaluate_potential
from ase_ws.training.finetune import FinetuneResult, finetune

__all__ = ["FinetuneConfig", "FinetuneResult", "evaluate_potential", "finetune"]
