"""Which loss terms a run is trained with: those of its settings, and the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ase_ws.errors import UserError
from ase_ws.frames import Frame
from ase_ws.losses import (
    CurlLoss,
    EnergyLoss,
    ForcesLoss,
    GradientLoss,
    NoisyNodesLoss,
    PISCLoss,
    PITCLoss,
    Reference,
    StressLoss,
    TaylorLabelLoss,
    TotalLoss,
    WeightedTerm,
)
from ase_ws.potentials.base import PotentialModule
from ase_ws.training.callbacks import COLUMNS
from ase_ws.training.config import FinetuneConfig


def with_terms(config: FinetuneConfig, terms: Sequence[WeightedTerm]) -> FinetuneConfig:
    """Check the user's own terms; with any there are gradient steps to take."""
    own = {column.removeprefix("train_") for column in COLUMNS}
    for term in terms:
        if not (isinstance(term, WeightedTerm) and callable(term.loss)):
            raise UserError(
                "terms: expected ase_ws.losses.WeightedTerm(name, weight, loss) with a loss that "
                f"can be called, not {term!r:.80}"
            )
        if term.name in own:
            raise UserError(f"terms: the name '{term.name}' is taken: give the term another")
        own.add(term.name)
    if terms and config.optimizer.kind == "gauss-newton":
        raise UserError(
            "terms: optimizer.kind=gauss-newton solves for the energies alone and would ignore "
            f"'{terms[0].name}': use optimizer.kind=adam"
        )
    if terms:
        config.optimizer.kind = "adam"
    return config


def build_losses(
    config: FinetuneConfig,
    frames: list[Frame],
    base: PotentialModule | None,
    terms: Sequence[WeightedTerm] = (),
) -> tuple[TotalLoss, TotalLoss]:
    """Build the training loss and the supervised loss that models are chosen by.

    Parameters
    ----------
    config : FinetuneConfig
        Resolved.
    frames : list of Frame
        Training frames: a force term is only there if some frame has forces.
    base : PotentialModule or None
        Frozen reference of the weak terms.
    terms : sequence of WeightedTerm
        The user's own, of the training loss only.
    """
    loss, weak = config.loss, config.weak
    has_forces = any(f.forces is not None for f in frames)
    supervised = [
        WeightedTerm("energy", loss.energy_weight or 0.0, EnergyLoss(loss.metric)),
        WeightedTerm(
            "forces", (loss.forces_weight or 0.0) if has_forces else 0.0, ForcesLoss(loss.metric)
        ),
        WeightedTerm("stress", loss.stress_weight or 0.0, StressLoss()),
    ]
    # One memory for both terms.
    reference = Reference(base.lean()) if base is not None and weak.reference == "base" else None
    sampling: dict[str, Any] = {
        "epsilon": weak.epsilon or 0.05,
        "metric": weak.metric,
        "shape": weak.shape,
        "cap": weak.cap,
        # Without a reference nothing is kept, and new displacements cost the same.
        "pool": weak.pool if reference is not None else 0,
        "seed": config.seed,
    }
    shared: dict[str, Any] = {
        **sampling,
        "order": weak.order or 1,
        "reference": reference,
        "detach_target": weak.detach_target,
        "detach_forces": weak.detach_forces,
        "direction": weak.direction,
    }
    when: dict[str, float] = {
        "weight_ramp": weak.weight_ramp,
        "epsilon_ramp": weak.epsilon_ramp,
        "fraction": weak.fraction,
    }
    weak_terms = [
        WeightedTerm("curl", weak.curl_weight, CurlLoss(**sampling), **when),
        WeightedTerm(
            "gradient",
            weak.gradient_weight or 0.0,
            GradientLoss(
                sampling["epsilon"],
                weak.metric,
                shape=weak.shape,
                cap=weak.cap,
                detach_forces=weak.detach_forces,
                at_labels=weak.at_labels or 0.0,
            ),
            **when,
        ),
        WeightedTerm("taylor", weak.taylor_weight, TaylorLabelLoss(**sampling), **when),
        WeightedTerm("noisy_nodes", weak.noisy_nodes_weight, NoisyNodesLoss(**sampling), **when),
        WeightedTerm("pitc", weak.pitc_weight or 0.0, PITCLoss(**shared), **when),
        WeightedTerm("pisc", weak.pisc_weight or 0.0, PISCLoss(**shared), **when),
    ]
    return TotalLoss([*supervised, *weak_terms, *terms]), TotalLoss(supervised)
