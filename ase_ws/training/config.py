"""What a fine-tuning run can be told. Every field has a default; None means "choose for me"."""

from __future__ import annotations

import math
import os
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator

from ase_ws.files.writing import write_text
from ase_ws.potentials.mace.architecture import INTERACTIONS, check_irreps

#: With fewer validation energies than this, and no forces, the best of a run's validations is
#: mostly the luckiest.
FEW_ENERGIES = 50
#: From this number of structures with labelled forces on, the gradient takes half the weight: with
#: 100, 450 and 950 of them that gave about the same energies and better forces, with 50 of them
#: neither (`tests/benchmarks/RESULTS.md`).
MANY_FORCES = 100
#: Of Gauss-Newton, at most.
ITERATIONS = 5


#: The weights that count with each kind of weak losses.
WEIGHTS = {
    "none": (),
    "pitc": ("pitc_weight",),
    "pisc": ("pisc_weight",),
    "both": ("pitc_weight", "pisc_weight"),
    "gradient": ("gradient_weight",),
}


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_assignment=True)


class DataConfig(_Section):
    """Which files, and which keys hold the labels."""

    train: str | list[str] | None = Field(
        default=None,
        description="training frames: any file that ASE reads, HDF5 or LMDB, a pattern, or a list",
    )
    valid: str | list[str] | None = Field(
        default=None, description="validation frames; default: a part of train"
    )
    valid_fraction: float = Field(
        default=0.1, gt=0, lt=1, description="held out where valid is not given"
    )
    labels: Literal["energy", "energy+forces"] = Field(
        default="energy+forces", description="'energy' ignores forces even where a frame has them"
    )
    energy_key: str = "energy"
    forces_key: str | None = Field(
        default=None, description="default: of the energies' level, REF_forces beside REF_energy"
    )
    stress_key: str | None = Field(
        default=None,
        description="default as forces_key; a virial in eV where the key says 'virial'",
    )
    head: str | None = Field(
        default=None,
        description="of frames that say of which head they are, those to take; default model.head",
    )
    config_type_weights: dict[str, float] = Field(
        default={},
        description="weight of all frames of a config_type, times those that frames bring",
    )
    e0s: Literal["fit", "atoms", "keep"] | dict[str, float] = Field(
        default="fit",
        description="energies of the atoms in eV by symbol; or fit: isolated atoms of the training "
        "file where there are all and they suit the base model, else least squares in float64; "
        "atoms: insist on them; keep: those of the base model",
    )

    @field_validator("config_type_weights")
    @classmethod
    def _weights_are_numbers(cls, value: dict[str, float]) -> dict[str, float]:
        for name, weight in value.items():
            if not 0.0 <= weight < math.inf:
                raise ValueError(f"weight of '{name:.40}' is {weight}: expected 0 or more")
        return value


class ModelConfig(_Section):
    """The potential: a base to start from, or the size of a new one."""

    base: str | None = Field(
        default=None, description="model file to start from; none: from scratch"
    )
    head: str | None = Field(default=None, description="head of a multi-head base model")
    forces: Literal["conservative", "direct"] | None = Field(
        default=None,
        description="conservative: -dE/dr; direct: a readout of its own (fast, energy is not "
        "conserved); default: as the base model, conservative from scratch",
    )
    kind: Literal["mace", "painn"] = Field(
        default="mace",
        description='new models only; painn needs the extra: pip install "ase-ws[painn]"',
    )
    r_max: float = Field(default=5.0, gt=0, description="cutoff in Å, new models only")
    hidden_irreps: str = "32x0e+32x1o"
    num_interactions: int = Field(default=2, gt=0)
    max_ell: int = Field(default=2, ge=0)
    correlation: int = Field(default=2, gt=0)
    num_bessel: int = Field(default=8, gt=0)
    MLP_irreps: str = "16x0e"
    radial_MLP: tuple[int, ...] = Field(default=(64, 64, 64), description="of a new MACE")
    interaction: str = Field(
        default="RealAgnosticResidualInteractionBlock",
        description="block of a new MACE, all layers but the first, as mace-torch calls it",
    )
    interaction_first: str = Field(
        default="RealAgnosticInteractionBlock", description="likewise, of the first"
    )
    distance_transform: Literal["None", "Agnesi", "Soft"] = Field(
        default="None", description="of a new MACE's radial functions"
    )
    pair_repulsion: bool = Field(default=False, description="ZBL, new MACE only")
    freeze: list[str] = Field(
        default=[],
        description="weights that stay: names of the network, or patterns (interactions.0.*)",
    )
    channels: int = Field(
        default=64, gt=0, description="scalars, and vectors, of each atom, painn only"
    )

    @field_validator("interaction", "interaction_first")
    @classmethod
    def _block_is_known(cls, value: str) -> str:
        name = value if value.endswith("InteractionBlock") else f"{value}InteractionBlock"
        if name not in INTERACTIONS:
            raise ValueError(f"no interaction '{value:.40}': one of {', '.join(INTERACTIONS)}")
        return name

    @field_validator("hidden_irreps", "MLP_irreps")
    @classmethod
    def _irreps_are_read(cls, value: str) -> str:
        return check_irreps(value)


class LossConfig(_Section):
    """Weights of the supervised terms: squares in eV/atom, eV/Å, eV/Å³. Never renormalised.

    Frames bring weights of their own as mace-torch names them: config_weight, config_energy_weight,
    config_forces_weight, config_stress_weight.
    """

    energy_weight: float | None = Field(default=None, ge=0)
    forces_weight: float | None = Field(default=None, ge=0)
    stress_weight: float | None = Field(
        default=None, ge=0, description="default 10 where frames have stress, 0 for direct forces"
    )
    metric: Literal["square", "absolute", "huber"] = "square"


class WeakConfig(_Section):
    """The weak terms: PITC, PISC, the gradient, and the two methods they are compared with."""

    kind: Literal["none", "pitc", "pisc", "both", "gradient", "auto"] = Field(
        default="none",
        description="gradient: direct forces against -dE/dr, the limit of PITC for small "
        "displacements in all directions; auto: what was measured to pay for this model and labels",
    )
    order: Literal[1, 2] | None = Field(
        default=None,
        description="1: the paper's; 2: the trapezoid; default 1 for forces -dE/dr, 2 for direct",
    )
    epsilon: float | None = Field(default=None, gt=0, description="displacement scale in Å")
    pitc_weight: float | None = Field(default=None, ge=0)
    pisc_weight: float | None = Field(default=None, ge=0)
    curl_weight: float = Field(
        default=0.0, ge=0, description="direct forces only: work round small parallelograms"
    )
    gradient_weight: float | None = Field(
        default=None, ge=0, description="direct forces only: forces against -dE/dr"
    )
    at_labels: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="of the gradient: part of the structures with labelled forces that are taken "
        "where they are, with -dE/dr against the label",
    )
    taylor_weight: float = Field(
        default=0.0, ge=0, description="energies of displaced copies from labelled forces"
    )
    noisy_nodes_weight: float = Field(
        default=0.0, ge=0, description="energies of displaced copies equal to the label"
    )
    metric: Literal["square", "absolute", "huber"] = "square"
    shape: Literal["cube", "ball", "gaussian"] = "cube"
    direction: Literal["random", "adversarial"] = Field(
        default="random",
        description="adversarial: along the force error, or uphill in the residual",
    )
    cap: float = Field(
        default=0.3, gt=0, le=1, description="largest move, in nearest-neighbour distances"
    )
    reference: Literal["base", "none"] | None = Field(
        default=None, description="base: residual of the difference to the frozen base model"
    )
    detach_target: bool = False
    detach_forces: bool = False
    weight_ramp: float = Field(
        default=0.0, ge=0, le=1, description="part of the training over which weights rise from 0"
    )
    epsilon_ramp: float = Field(
        default=0.0, ge=0, le=1, description="part of the training over which epsilon rises"
    )
    fraction: float = Field(
        default=1.0, gt=0, le=1, description="part of the steps that evaluate the weak terms"
    )
    pool: int = Field(
        default=16,
        ge=0,
        description="displacements kept for each frame where there is a reference, whose values "
        "there are computed once; 0: new ones at every step",
    )

    @property
    def active(self) -> bool:
        """Whether any of them counts."""
        others = (self.curl_weight, self.gradient_weight, self.taylor_weight)
        return self.kind != "none" or any(others) or self.noisy_nodes_weight > 0


class OptimizerConfig(_Section):
    """How the weights are found."""

    kind: Literal["adam", "gauss-newton"] | None = Field(
        default=None,
        description="gauss-newton: a closed form for energies alone, without learning rate, steps "
        "or luck; default where a conservative base model is tuned on 50 energies or more, "
        "without forces or weak losses and with no setting of adam given; else adam",
    )
    learning_rate: float | None = Field(default=None, gt=0)
    max_steps: int | None = Field(default=None, gt=0)
    iterations: int = Field(default=ITERATIONS, gt=0, description="of gauss-newton, at most")
    batch_size: int | None = Field(
        default=None, gt=0, description="structures a step; default 5, for direct forces 20"
    )
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: Literal["trapezoid", "cosine", "exponential", "constant"] | None = Field(
        default=None,
        description="of the learning rate: trapezoid keeps it for 70 % of the steps, then goes "
        "down straight; all but constant end at a hundredth; default trapezoid for forces -dE/dr "
        "with labels, else cosine",
    )
    gradient_clip: float | None = Field(
        default=None,
        gt=0,
        description="largest norm of the gradient; default 0.1 for forces -dE/dr with labels, "
        "where nearly every step meets it, else 10",
    )
    ema_decay: float = Field(default=0.99, ge=0, lt=1, description="0 switches the average off")
    warmup_steps: int | None = Field(
        default=None, ge=0, description="default 5 with the trapezoid, else 20"
    )
    valid_interval: int | None = Field(default=None, gt=0, description="steps between validations")
    patience: int | None = Field(
        default=None, gt=0, description="stop after this many validations without improvement"
    )
    select: Literal["best", "last"] | None = Field(
        default=None,
        description="model to keep: the best by validation, or that of the last step (unless its "
        "error is twice that of the start); default last where fewer than 50 energies without "
        "forces validate, whose choice is luck; else best",
    )

    @property
    def tuned(self) -> bool:
        """Whether any setting of adam differs from what is shipped."""
        untouched = OptimizerConfig(kind=self.kind, iterations=self.iterations, select=self.select)
        return self != untouched


class FinetuneConfig(_Section):
    """Everything that decides a run, besides where it is written to."""

    data: DataConfig = Field(default_factory=DataConfig)
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
