"""The potential that is trained."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from ase_ws.potentials.mace.architecture import INTERACTIONS, check_irreps
from ase_ws.training.settings.section import Section


class ModelConfig(Section):
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
    lora_rank: int | None = Field(
        default=None,
        gt=0,
        description="train matrices of this rank beside the weights (LoRA), all else stays; they "
        "are merged in what is written",
    )
    lora_alpha: float | None = Field(
        default=None, gt=0, description="their scale is alpha / rank; default alpha = rank"
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
