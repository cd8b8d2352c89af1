"""What is needed to build a MACE again, and whether weights can be of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)
from torch import Tensor

from ase_ws.errors import UserError
from ase_ws.potentials.architecture import Architecture
from ase_ws.potentials.weights import check_total

_INTERACTIONS = Literal[
    "RealAgnosticInteractionBlock",
    "RealAgnosticResidualInteractionBlock",
    "RealAgnosticDensityInteractionBlock",
    "RealAgnosticDensityResidualInteractionBlock",
    "RealAgnosticAttResidualInteractionBlock",
    "RealAgnosticResidualNonLinearInteractionBlock",
]

#: All of them.
INTERACTIONS: tuple[str, ...] = get_args(_INTERACTIONS)
#: The interaction whose radial network has a size of its own.
ATTENTION = "RealAgnosticAttResidualInteractionBlock"

# Bounds far above any network that is of use: what is beyond them was not meant, and building it
# would take gigabytes or days.
_Width = Annotated[int, Field(gt=0, le=100_000)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_MAX_DEGREE = 11  # e3nn has rotations up to here
_MAX_TERMS = 64
_MAX_CORRELATION = 16
_MAX_COUPLINGS = 1_000_000


def check_irreps(value: str) -> str:
    """Return the irreps if they are written as "32x0e+32x1o": multiplicity, degree, parity."""
    if re.fullmatch(r"[1-9]\d*x\d+[eo](\s*\+\s*[1-9]\d*x\d+[eo])*", value) is None:
        raise ValueError(f"irreps must look like '32x0e+32x1o': '{value:.40}'")
    return value


def irreps_terms(value: str) -> Iterator[tuple[int, int, str]]:
    """Multiplicity, degree and parity of each term."""
    for multiplicity, degree, parity in re.findall(r"(\d+)x(\d+)([eo])", value):
        yield int(multiplicity), int(degree), parity


_SELDOM = ("embedding_specs", "use_embedding_readout")


class Embedding(BaseModel):
    """How upstream embeds the total charge or the spin multiplicity of a structure."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["categorical", "continuous"]
    per: Literal["graph"]
    emb_dim: int = Field(gt=0, le=10_000)
    in_dim: Literal[1] = 1
    num_classes: int = Field(default=1, gt=0, le=100_000)
    offset: int = 0
    use_bias: bool = True


class MACEArchitecture(Architecture):
    """The arguments of upstream's `ScaleShiftMACE` as plain data.

    The defaults are the small model of this package: 32x0e+32x1o, two layers, 5 Å. Lengths in Å,
    `scale` and `shift` in eV (one value a head). `correlation` is one number, or one a layer.
    """

    num_bessel: int = Field(default=8, gt=0, le=10_000)
    num_polynomial_cutoff: int = Field(default=5, gt=1, le=1_000)
    max_ell: int = Field(default=2, ge=0, le=_MAX_DEGREE)
    interaction_first: _INTERACTIONS = "RealAgnosticInteractionBlock"
    interaction: _INTERACTIONS = "RealAgnosticResidualInteractionBlock"
    num_interactions: int = Field(default=2, gt=0, le=64)
    hidden_irreps: str = "32x0e+32x1o"
    MLP_irreps: str = "16x0e"
    correlation: int | tuple[int, ...] = 2
    gate: Literal["silu", "tanh", "abs", "none"] = "silu"
    readout: Literal["NonLinearReadoutBlock", "NonLinearBiasReadoutBlock"] = "NonLinearReadoutBlock"
    radial_type: Literal["bessel", "gaussian", "chebyshev"] = "bessel"
    radial_MLP: tuple[_Width, ...] = Field(default=(64, 64, 64), max_length=64)
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
    heads: tuple[str, ...] = Field(default=("Default",), min_length=1, max_length=1_000)
    avg_num_neighbors: float = Field(gt=0, allow_inf_nan=False)
    scale: tuple[_Finite, ...] = (1.0,)
    shift: tuple[_Finite, ...] = (0.0,)
    embedding_specs: dict[Literal["total_charge", "total_spin"], Embedding] | None = None
    use_embedding_readout: bool = False

    @model_serializer(mode="wrap")
    def _as_ever(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what most networks have not: earlier versions read their files."""
        return {
            name: value
            for name, value in serialise(self).items()
            if name not in _SELDOM or value not in (None, False)
        }

    @field_validator("hidden_irreps", "MLP_irreps", "edge_irreps")
    @classmethod
    def _irreps_are_read(cls, value: str | None) -> str | None:
        if value is None:
            return None
        terms = list(irreps_terms(check_irreps(value[:10_000])))
        if len(terms) > _MAX_TERMS or any(
            n > 100_000 or degree > _MAX_DEGREE for n, degree, _ in terms
        ):
            raise ValueError(
                f"irreps of more than {_MAX_TERMS} terms, 100,000 channels or degree "
                f"{_MAX_DEGREE}: '{value:.40}'"
            )
        return value

    @field_validator("correlation")
    @classmethod
    def _factors_are_few(cls, value: int | tuple[int, ...]) -> int | tuple[int, ...]:
        each = (value,) if isinstance(value, int) else value
        if not all(1 <= factors <= _MAX_CORRELATION for factors in each):
            raise ValueError(f"correlation must be within 1 to {_MAX_CORRELATION}")
        return value

    @model_validator(mode="after")
    def _can_be_built(self) -> MACEArchitecture:
        if len(set(self.heads)) < len(self.heads) or not all(self.heads):
            raise ValueError(f"heads must have distinct names: {list(self.heads)!s:.100}")
        if {len(self.scale), len(self.shift)} != {len(self.heads)}:
            raise ValueError(
                f"scale and shift must have one value for each of the {len(self.heads)} heads"
            )
        if len(self.correlations) != self.num_interactions:
            raise ValueError(
                f"correlation must be one number, or one for each of the {self.num_interactions} "
                "layers"
            )
        if (self.max_ell + 1) ** (2 * max(self.correlations)) > _MAX_COUPLINGS:
            raise ValueError(
                f"max_ell {self.max_ell} with correlation {self.correlation} has too many couplings"
            )
        if not self.scalars:
            raise ValueError(f"hidden_irreps without scalars (0e): '{self.hidden_irreps:.40}'")
        return self

    @property
    def correlations(self) -> tuple[int, ...]:
        """Factors in the products of each layer."""
        if isinstance(self.correlation, int):
            return (self.correlation,) * self.num_interactions
        return self.correlation

    @property
    def scalars(self) -> int:
        """Invariant channels of a hidden layer."""
        return sum(n for n, *kind in irreps_terms(self.hidden_irreps) if kind == [0, "e"])

    @property
    def size(self) -> str:
        """The network in a few words."""
        return f"MACE, {self.num_interactions} layers, {self.hidden_irreps}"


_CONTRACTION = "products.{}.symmetric_contractions.contractions.0."


def check_sizes(a: MACEArchitecture, tensors: Mapping[str, Tensor]) -> None:
    """Refuse a description that asks for another network than the weights are of.

    Raises
    ------
    UserError
        Names the first number that cannot be.
    """
    radial = [1, a.num_bessel, *a.radial_MLP]
    outputs = len(a.heads) * sum(n for n, _, _ in irreps_terms(a.MLP_irreps))
    # A lower bound for each block: a wrong width shows, and what is built stays near what is there.
    for what, size in {
        "atomic_numbers": len(a.atomic_numbers) * a.scalars,
        "hidden_irreps": max(n * n for n, _, _ in irreps_terms(a.hidden_irreps)),
        "radial_MLP": max(m * n for m, n in pairwise(radial)),
        "MLP_irreps": a.scalars * outputs if a.num_interactions > 1 else 0,
        "embedding_specs": max(
            (
                spec.emb_dim * (spec.num_classes if spec.type == "categorical" else spec.emb_dim)
                for spec in (a.embedding_specs or {}).values()
            ),
            default=0,
        ),
        "edge_irreps": max((n for n, _, _ in irreps_terms(a.edge_irreps or "")), default=0),
    }.items():
        if not _unused(what, a):
            check_total(what, size, tensors)
    named = {
        "num_interactions": (a.num_interactions, _count(r"interactions\.(\d+)\.", tensors)),
        "correlation": (
            a.correlations,
            tuple(_factors(layer, tensors) for layer in range(a.num_interactions)),
        ),
        "max_ell": ((a.max_ell + 1) ** 2, _couplings(tensors)),
    }
    for what, (said, found) in named.items():
        if found is not None and said != found:
            raise UserError(f"the weights do not fit the architecture: {what} is another")


def _unused(what: str, a: MACEArchitecture) -> bool:
    """Whether no block is built from this."""
    return what == "radial_MLP" and {a.interaction, a.interaction_first} == {ATTENTION}


def _count(pattern: str, tensors: Mapping[str, Tensor]) -> int:
    return len({found[1] for name in tensors if (found := re.match(pattern, name))})


def _factors(layer: int, tensors: Mapping[str, Tensor]) -> int:
    """Factors in the longest product of a layer: all shorter ones have weights in a list."""
    return 1 + _count(re.escape(_CONTRACTION.format(layer)) + r"weights\.(\d+)$", tensors)


def _couplings(tensors: Mapping[str, Tensor]) -> int | None:
    """Components (l, m) that the first product takes; its coefficients may be absent."""
    matrix = tensors.get(_CONTRACTION.format(0) + "U_matrix_1")
    return None if matrix is None or matrix.dim() < 2 else matrix.shape[-2]
