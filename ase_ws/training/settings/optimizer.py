"""How the weights are found."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, field_validator

from ase_ws.training.settings.section import Section

#: Of Gauss-Newton, at most.
ITERATIONS = 5


class OptimizerConfig(Section):
    """How the weights are found."""

    kind: Literal["adam", "schedule-free", "gauss-newton"] | None = Field(
        default=None,
        description="gauss-newton: a closed form for energies alone, without learning rate, steps "
        "or luck; default where a conservative base model is tuned on 50 energies or more, "
        "without forces or weak losses and with no setting of adam given; else adam; "
        "schedule-free: Adam at a constant rate, with an average of its own",
    )
    learning_rate: float | None = Field(default=None, gt=0)
    max_steps: int | None = Field(default=None, gt=0)
    iterations: int = Field(default=ITERATIONS, gt=0, description="of gauss-newton, at most")
    batch_size: int | None = Field(
        default=None, gt=0, description="structures a step; default 5, for direct forces 20"
    )
    parts: int = Field(
        default=1,
        gt=0,
        description="parts that a step's structures are evaluated in, one after the other: less "
        "memory, the gradients add up",
    )
    weight_decay: float = Field(default=0.0, ge=0)
    rates: dict[str, float] = Field(
        default={},
        description="factors of the learning rate by names of the network or patterns "
        "(readouts: 10, interactions.0.*: 0.1)",
    )
    schedule: (
        Literal["trapezoid", "cosine", "exponential", "step", "constant", "plateau"] | None
    ) = Field(
        default=None,
        description="of the learning rate: trapezoid keeps it for 70 % of the steps, then goes "
        "down straight; step: a tenth at half, a hundredth at four fifths; all but constant and "
        "plateau (half the rate where validations stop improving) end at a hundredth; default "
        "trapezoid for forces -dE/dr with labels, else cosine",
    )
    plateau: int = Field(
        default=10, gt=0, description="validations without improvement that make a plateau"
    )
    second_stage: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="part of the steps after which the weights of loss.second count, at a constant "
        "rate; models are judged anew from there on",
    )
    second_rate: float = Field(
        default=0.1, gt=0, description="of the learning rate, in the second stage"
    )
    gradient_clip: float | None = Field(
        default=None,
        gt=0,
        description="largest norm of the gradient; default 0.1 for forces -dE/dr with labels, "
        "where nearly every step meets it, else 10",
    )
    ema_decay: float = Field(
        default=0.99, ge=0, lt=1, description="0 switches the average off; none if schedule-free"
    )
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

    @field_validator("rates")
    @classmethod
    def _factors_are_positive(cls, value: dict[str, float]) -> dict[str, float]:
        for name, factor in value.items():
            if not 0.0 < factor < math.inf:
                raise ValueError(f"rate of '{name:.40}' is {factor}: expected a factor above 0")
        return value

    @property
    def tuned(self) -> bool:
        """Whether any setting of adam differs from what is shipped."""
        untouched = OptimizerConfig(kind=self.kind, iterations=self.iterations, select=self.select)
        return self != untouched

    def in_second_stage(self, step: int) -> bool:
        """Tell whether a step, counted from 0, belongs to the second stage."""
        last = self.max_steps or 1
        return self.second_stage is not None and step >= round(self.second_stage * last)
