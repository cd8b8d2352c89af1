"""What a loss term is asked for beside its value, and what it need not say."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from typing_extensions import Self

from ase_ws.losses.displacements import Displacements
from ase_ws.typing import GraphBatch, Labels, LossTerm, Prediction


@dataclass(frozen=True)
class Needs:
    """What a term needs of a batch and its prediction; see `ase_ws.typing.LossTerm`."""

    forces: bool
    stress: bool

    @classmethod
    def of(cls, term: LossTerm, batch: GraphBatch) -> Needs:
        """Ask the term; one that does not say gets forces, and no stress."""
        forces, stress = getattr(term, "needs_forces", None), getattr(term, "needs_stress", None)
        return cls(
            True if forces is None else bool(forces(batch)),
            False if stress is None else bool(stress(batch)),
        )


def skin_of(term: LossTerm) -> float:
    """How far beyond `r_max` the edges of a batch must reach for this term, Å."""
    return float(getattr(term, "skin", 0.0))


def has_copies(term: LossTerm) -> bool:
    """Whether a term leaves its displaced copies to others to evaluate, as `WeakLoss` does."""
    return all(callable(getattr(term, name, None)) for name in ("copies", "of"))


def ramped(term: LossTerm, part: float) -> LossTerm:
    """Give the term as it is with `part` (0 to 1) of its ramp behind it."""
    at = getattr(term, "at", None)
    return term if at is None or part >= 1 else at(part)


class DisplacedTerm:
    """Mixin of losses with displaced copies: their sampler, their skin, and how ε rises."""

    epsilon: float
    shape: Any
    cap: float
    pool: int = 0
    seed: int = 0

    @property
    def displacements(self) -> Displacements:
        """The sampler of displaced copies."""
        return Displacements(self.epsilon, self.shape, self.cap, self.pool, self.seed)

    @property
    def skin(self) -> float:
        """How far beyond `r_max` the edges of a batch must reach, Å."""
        return 2 * self.displacements.longest

    def needs_forces(self, batch: GraphBatch) -> bool:
        """Tell whether forces at r are needed: none, where all copies are displaced."""
        return False

    def at(self, part: float) -> Self:
        """Give the loss with ε risen from a tenth of its value by this part of the way."""
        risen: dict[str, Any] = {"epsilon": self.epsilon * (0.1 + 0.9 * part)}
        if self.pool:
            # Values kept for another ε are of no use, so the pool rests while ε grows.
            risen["pool"] = 0
        return replace(self, **risen)  # pyright: ignore[reportArgumentType]


def labels_of(batch: GraphBatch) -> Labels:
    """Give the labels of a batch that must have them."""
    if batch.labels is None:
        raise ValueError("a loss against labels needs a batch with labels")
    return batch.labels


def nothing(prediction: Prediction) -> Any:
    """Exactly zero, with zero gradients: what a batch without the label contributes."""
    return 0.0 * prediction.energy.sum()
