"""What is needed to build a network again: plain data, checked when it is read from a file."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

_INTERACTIONS = Literal[
    "RealAgnosticInteractionBlock",
    "RealAgnosticResidualInteractionBlock",
    "RealAgnosticDensityInteractionBlock",
    "RealAgnosticDensityResidualInteractionBlock",
    "RealAgnosticAttResidualInteractionBlock",
    "RealAgnosticResidualNonLinearInteractionBlock",
]


def check_irreps(value: str) -> str:
    """Return the irreps if they are written as "32x0e+32x1o": multiplicity, degree, parity."""
    if re.fullmatch(r"[1-9]\d*x\d+[eo](\s*\+\s*[1-9]\d*x\d+[eo])*", value) is None:
        raise ValueError(f"irreps must look like '32x0e+32x1o': '{value:.40}'")
    return value


class Architecture(BaseModel):
    """What the description of any network holds. A subclass adds its size.

    `r_max` in Å; `dtype` is the precision of the weights.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    atomic_numbers: tuple[int, ...] = Field(min_length=1)
    r_max: float = Field(default=5.0, gt=0)
    dtype: Literal["float32", "float64"] = "float32"

    @field_validator("atomic_numbers")
    @classmethod
    def _elements_exist(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(not 1 <= z <= 118 for z in value) or len(set(value)) != len(value):
            raise ValueError(f"atomic numbers must be distinct and within 1 to 118: {value}")
        return value

    @property
    def size(self) -> str:
        """The network in a few words, for `ase-ws info`."""
        raise NotImplementedError


class MACEArchitecture(Architecture):
    """The arguments of upstream's `ScaleShiftMACE` as plain data.

    The defaults are the small model of this package: 32x0e+32x1o, two layers, 5 Å. Lengths in Å,
    `scale` and `shift` in eV (one value a head).
    """

    num_bessel: int = Field(default=8, gt=0)
    num_polynomial_cutoff: int = Field(default=5, gt=1)
    max_ell: int = Field(default=2, ge=0)
    interaction_first: _INTERACTIONS = "RealAgnosticInteractionBlock"
    interaction: _INTERACTIONS = "RealAgnosticResidualInteractionBlock"
    num_interactions: int = Field(default=2, gt=0)
    hidden_irreps: str = "32x0e+32x1o"
    MLP_irreps: str = "16x0e"
    correlation: int = Field(default=2, gt=0)
    gate: Literal["silu", "tanh", "abs", "none"] = "silu"
    readout: Literal["NonLinearReadoutBlock", "NonLinearBiasReadoutBlock"] = "NonLinearReadoutBlock"
    radial_type: Literal["bessel", "gaussian", "chebyshev"] = "bessel"
    radial_MLP: tuple[int, ...] = (64, 64, 64)
    distance_transform: Literal["None", "Agnesi", "Soft"] = "None"
    pair_repulsion: bool = False
    apply_cutoff: bool = True
    use_reduced_cg: bool = True
    use_so3: bool = False
    use_agnostic_product: bool = False
    use_last_readout_only: bool = False
    keep_last_layer_irreps: bool = False
    use_edge_irreps_first: bool = False
    edge_irreps: str | None = None
    heads: tuple[str, ...] = ("Default",)
    avg_num_neighbors: float = Field(gt=0)
    scale: tuple[float, ...] = (1.0,)
    shift: tuple[float, ...] = (0.0,)

    @field_validator("hidden_irreps", "MLP_irreps", "edge_irreps")
    @classmethod
    def _irreps_are_read(cls, value: str | None) -> str | None:
        return value if value is None else check_irreps(value)

    @property
    def size(self) -> str:
        """The network in a few words."""
        return f"MACE, {self.num_interactions} layers, {self.hidden_irreps}"
