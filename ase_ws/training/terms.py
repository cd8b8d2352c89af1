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
from ase_ws.training.config import FinetuneConfig
from ase_ws.training.history import COLUMNS
from ase_ws.training.settings import LossConfig


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


#: δ of Huber's form, by label and for the universal one.
_DELTA = {"energy": 0.01, "forces": 0.1, "stress": 0.01}
_UNIVERSAL_DELTA = 0.01


def supervised_terms(
    settings: LossConfig, *, has_forces: bool, second: bool = False
) -> list[WeightedTerm]:
    """Give the terms of the labels, in the second stage with its weights."""
    weights = {
        "energy": settings.energy_weight or 0.0,
        "forces": settings.forces_weight or 0.0,
        "stress": settings.stress_weight or 0.0,
        **(settings.second if second else {}),
    }
    if not has_forces:
        weights["forces"] = 0.0
    losses = {"energy": EnergyLoss, "forces": ForcesLoss, "stress": StressLoss}
    universal = settings.metric == "universal"
    return [
        WeightedTerm(
            name,
            weights[name],
            losses[name](
                settings.metric,
                settings.delta or (_UNIVERSAL_DELTA if universal else _DELTA[name]),
            ),
        )
        for name in losses
    ]


def build_losses(
    config: FinetuneConfig,
    frames: list[Frame],
    base: PotentialModule | None,
    terms: Sequence[WeightedTerm] = (),
) -> tuple[list[TotalLoss], list[TotalLoss]]:
    """Build the training loss and the supervised loss that models are chosen by, of each stage.

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
    weak_terms = _weak_terms(config, base)
    has_forces = any(f.forces is not None for f in frames)
    losses: list[TotalLoss] = []
    valid_losses: list[TotalLoss] = []
    for second in (False, True)[: 1 if config.optimizer.second_stage is None else 2]:
        supervised = supervised_terms(config.loss, has_forces=has_forces, second=second)
        losses.append(TotalLoss([*supervised, *weak_terms, *terms]))
        valid_losses.append(TotalLoss(supervised))
    return losses, valid_losses


def _weak_terms(config: FinetuneConfig, base: PotentialModule | None) -> list[WeightedTerm]:
    weak = config.weak
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
    return [
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
