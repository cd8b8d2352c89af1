"""The defaults that depend on the model and its labels: every "choose for me" becomes a number.

They were measured (`ase_ws/losses/README.md`): PITC and PISC take the residual of the difference to
the frozen base model where there is one, at first order with ε = 0.15 Å and weight 0.001; a
conservative model from scratch gains from no weak loss; direct forces take the trapezoid at full
strength, or the gradient. Weights, rate, schedule and clip with labelled forces:
`tests/benchmarks/parity.py`.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from ase_ws.errors import UserError
from ase_ws.training.auto import choose_weak
from ase_ws.training.config import FEW_ENERGIES, MANY_FORCES, WEIGHTS, FinetuneConfig
from ase_ws.training.settings import WeakConfig


def settle(
    new: FinetuneConfig,
    *,
    has_forces: bool,
    has_stress: bool,
    n_with_forces: int,
    conservative: bool,
    n_valid: int,
    closed_form: bool,
) -> None:
    """Settle what was left open, in place; see `FinetuneConfig.resolved`."""
    tuned = new.model.base is not None
    new.model.forces = "conservative" if conservative else "direct"
    _settle_weak(new, has_forces=has_forces, n_with_forces=n_with_forces, conservative=conservative)
    weak = new.weak
    both = has_forces and conservative
    _default(new.loss, "energy_weight", 1.0 if both else 100.0)
    _default(new.loss, "forces_weight", 1.0 if has_forces else 0.0)
    # As for MACE-MP-0: a stress counts ten times as much as a force of as many eV.
    _default(new.loss, "stress_weight", 10.0 if has_stress and conservative else 0.0)
    squares = new.loss.metric == "square" and new.loss.stress_weight == 0
    energies_only = tuned and conservative and not has_forces and squares and not weak.active
    if new.optimizer.kind == "gauss-newton" and not energies_only:
        raise UserError(
            "optimizer.kind=gauss-newton is for energies alone: it needs a base model with "
            "forces -dE/dr, --labels energy, the square metric, no stress and no weak losses"
        )
    separate = new.replay.head is not None or len(new.data.heads) > 1 or new.model.lora_rank
    if new.optimizer.kind == "gauss-newton" and separate:
        raise UserError(
            "optimizer.kind=gauss-newton moves one head and all of its weights: no several heads, "
            "and no model.lora_rank"
        )
    closed = energies_only and closed_form and not new.optimizer.tuned and not separate
    _default(new.optimizer, "kind", "gauss-newton" if closed else "adam")
    if new.optimizer.kind == "gauss-newton":
        _default(new.optimizer, "select", "last")
        return
    _settle_steps(new, has_forces=has_forces, conservative=conservative, n_valid=n_valid)


def _settle_weak(
    new: FinetuneConfig, *, has_forces: bool, n_with_forces: int, conservative: bool
) -> None:
    """Settle the weak losses."""
    tuned = new.model.base is not None
    weak = new.weak
    if weak.kind == "auto":
        weak.kind = choose_weak(conservative=conservative, has_forces=has_forces).kind
    if weak.reference == "base" and weak.kind == "gradient":
        raise UserError(
            "weak.reference=base is for pitc and pisc: leave it out with --weak gradient"
        )
    if weak.reference is None:
        weak.reference = "base" if tuned and conservative else "none"
    if weak.reference == "base" and not tuned:
        raise UserError("weak.reference=base needs a base model: give --model BASE")
    on_difference = weak.reference == "base"
    _default(weak, "order", 1 if conservative else 2)
    counting = WEIGHTS[weak.kind]
    n_with_forces = max(n_with_forces, int(has_forces))
    _settle_gradient(weak, conservative=conservative, n_with_forces=n_with_forces)
    gradient_only = bool(weak.gradient_weight) and weak.kind in ("none", "gradient")
    _default(weak, "epsilon", 0.15 if on_difference else 0.03 if gradient_only else 0.05)
    strength = (0.001 if on_difference else 0.01) if conservative else 30.0
    for name in WEIGHTS["both"]:
        _default(weak, name, strength if name in counting else 0.0)
        if getattr(weak, name) and name not in counting:
            kinds = [kind for kind, names in WEIGHTS.items() if name in names]
            raise UserError(
                f"weak.{name} counts with --weak {' or '.join(kinds)} only, and the kind is "
                f"'{weak.kind}': leave it out, or change the kind"
            )


def _settle_steps(
    new: FinetuneConfig, *, has_forces: bool, conservative: bool, n_valid: int
) -> None:
    """Settle how gradient steps are taken."""
    tuned, both = new.model.base is not None, has_forces and conservative
    if new.optimizer.kind == "schedule-free":
        if new.optimizer.schedule not in (None, "constant"):
            raise UserError(
                "optimizer.kind=schedule-free has no schedule: leave optimizer.schedule out"
            )
        new.optimizer.schedule, new.optimizer.ema_decay = "constant", 0.0
    if new.optimizer.second_stage is None and new.loss.second:
        raise UserError(
            "loss.second counts in the second stage: say when it begins (optimizer.second_stage)"
        )
    # Noise of the displacements: what is drawn together averages it.
    _default(new.optimizer, "batch_size", 5 if conservative else 20)
    _default(new.optimizer, "schedule", "trapezoid" if both else "cosine")
    _default(new.optimizer, "gradient_clip", 0.1 if both else 10.0)
    _default(new.optimizer, "warmup_steps", 5 if new.optimizer.schedule == "trapezoid" else 20)
    _default(new.optimizer, "learning_rate", _rate(new, tuned=tuned, both=both))
    _default(new.optimizer, "max_steps", 1000 if tuned else 2000)
    assert new.optimizer.max_steps is not None
    _default(new.optimizer, "valid_interval", max(10, new.optimizer.max_steps // 40))
    assert new.optimizer.valid_interval is not None
    new.optimizer.valid_interval = min(new.optimizer.valid_interval, new.optimizer.max_steps)
    if new.optimizer.select == "last" and new.optimizer.patience is not None:
        raise UserError(
            "optimizer.select=last keeps the model of the last step, which optimizer.patience "
            "does not reach: give one of them"
        )
    luck = not has_forces and n_valid < FEW_ENERGIES and new.optimizer.patience is None
    _default(new.optimizer, "select", "last" if luck else "best")


def _rate(config: FinetuneConfig, *, tuned: bool, both: bool) -> float:
    """Give the learning rate where it was left open."""
    if tuned:
        return 1e-2 if both else 1e-3
    return 2e-2 if both and config.model.kind == "mace" else 1e-2


def _settle_gradient(weak: WeakConfig, *, conservative: bool, n_with_forces: int) -> None:
    """Give the gradient its weight and its part at labels, where they were left open."""
    wanted = "gradient_weight" in WEIGHTS[weak.kind]
    full = 0.6 if n_with_forces < MANY_FORCES else 0.3
    _default(weak, "gradient_weight", full if wanted else 0.0)
    if weak.at_labels and not weak.gradient_weight:
        raise UserError("weak.at_labels is a part of --weak gradient: leave it out")
    _default(weak, "at_labels", 0.75 if weak.gradient_weight and n_with_forces else 0.0)
    if weak.gradient_weight and conservative:
        raise UserError(
            "--weak gradient (weak.gradient_weight) ties direct forces to -dE/dr, and these "
            "forces are -dE/dr already: add --forces direct, or say --weak none"
        )


def _default(section: BaseModel, name: str, value: Any) -> None:
    if getattr(section, name) is None:
        setattr(section, name, value)
