"""What a fine-tuning run can be told. Every field has a default; None means "choose for me"."""

from __future__ import annotations

import os
from typing import Literal

import yaml
from pydantic import Field

from ase_ws.files.writing import write_text
from ase_ws.training.settings import (
    DataConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    ReplayConfig,
    WeakConfig,
)
from ase_ws.training.settings.section import Section

#: With fewer validation energies than this, and no forces, the best of a run's validations is
#: mostly the luckiest.
FEW_ENERGIES = 50
#: From this number of structures with labelled forces on, the gradient takes half the weight: with
#: 100, 450 and 950 of them that gave about the same energies and better forces, with 50 of them
#: neither (`tests/benchmarks/RESULTS.md`).
MANY_FORCES = 100
#: The weights that count with each kind of weak losses.
WEIGHTS = {
    "none": (),
    "pitc": ("pitc_weight",),
    "pisc": ("pisc_weight",),
    "both": ("pitc_weight", "pisc_weight"),
    "gradient": ("gradient_weight",),
}


class FinetuneConfig(Section):
    """Everything that decides a run, besides where it is written to."""

    data: DataConfig = Field(default_factory=DataConfig)
    replay: ReplayConfig = Field(default_factory=ReplayConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    loss: LossConfig = Field(default_factory=LossConfig)
    weak: WeakConfig = Field(default_factory=WeakConfig)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    seed: int = Field(default=0, ge=0)
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1, ...")
    dtype: Literal["float32", "float64"] = "float32"
    threads: int | None = Field(
        default=None, gt=0, description="CPU threads; default 1 where batches are small"
    )
    log: list[Literal["tensorboard", "wandb"]] = Field(
        default=[], description="where the rows of metrics.csv go, too: tensorboard, wandb"
    )

    def resolved(
        self,
        *,
        has_forces: bool,
        has_stress: bool = False,
        n_with_forces: int = 0,
        conservative: bool = True,
        n_valid: int = FEW_ENERGIES,
        closed_form: bool = False,
    ) -> FinetuneConfig:
        """Replace every "choose for me" by a number.

        Parameters
        ----------
        has_forces : bool
            Whether any training frame brings force labels that are used.
        has_stress : bool
            Whether any has a stress.
        n_with_forces : int
            How many have forces.
        conservative : bool
            Whether the potential that is trained has forces -dE/dr.
        n_valid : int
            Number of validation frames.
        closed_form : bool
            Whether Gauss-Newton can solve the problem, and there are enough energies for it.

        Raises
        ------
        UserError
            Settings that contradict each other.
        """
        # That is made of this class.
        from ase_ws.training.defaults import settle

        new = self.model_copy(deep=True)
        settle(
            new,
            has_forces=has_forces,
            has_stress=has_stress,
            n_with_forces=n_with_forces,
            conservative=conservative,
            n_valid=n_valid,
            closed_form=closed_form,
        )
        return new

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write as YAML that `--config` takes again."""
        write_text(path, yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False))
