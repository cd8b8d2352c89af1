"""What is minimised."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ase_ws.training.settings.section import Section


class LossConfig(Section):
    """Weights of the supervised terms: squares in eV/atom, eV/Å, eV/Å³. Never renormalised.

    Frames bring weights of their own as mace-torch names them: config_weight, config_energy_weight,
    config_forces_weight, config_stress_weight.
    """

    energy_weight: float | None = Field(default=None, ge=0)
    forces_weight: float | None = Field(default=None, ge=0)
    stress_weight: float | None = Field(
        default=None, ge=0, description="default 10 where frames have stress, 0 for direct forces"
    )
    second: dict[Literal["energy", "forces", "stress"], float] = Field(
        default={},
        description="weights that are others in the second stage (optimizer.second_stage)",
    )
    metric: Literal["square", "absolute", "huber", "universal", "l1l2"] = Field(
        default="square",
        description="universal: Huber, of forces the less so the larger they are; l1l2: absolute "
        "values of energies, lengths of force errors (both as mace-torch has them)",
    )
    delta: float | None = Field(
        default=None,
        gt=0,
        description="where Huber's square ends; default 0.01 eV/atom, 0.1 eV/Å, 0.01 eV/Å³, and "
        "0.01 of each for universal",
    )


class WeakConfig(Section):
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
