"""How a residual becomes a loss: square, absolute or Huber."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

Metric = Literal["square", "absolute", "huber"]


def check_metric(metric: str) -> None:
    """Raise ValueError for a name that `penalty` does not know."""
    if metric not in get_args(Metric):
        raise ValueError(f"metric must be one of {get_args(Metric)}: '{metric}'")


def penalty(residual: Tensor, metric: Metric, delta: float) -> Tensor:
    """Apply ρ elementwise.

    Parameters
    ----------
    residual : Tensor
    metric : {"square", "absolute", "huber"}
        ρ(R) = R², |R|, or Huber's: R² for |R| <= δ and δ(2|R| − δ) beyond, which joins smoothly
        (twice the textbook form, so that it equals "square" near zero).
    delta : float
        δ of the Huber form, in the unit of the residual.
    """
    if metric == "square":
        return residual**2
    size = residual.abs()
    if metric == "absolute":
        return size
    if metric != "huber":
        raise ValueError(f"metric must be 'square', 'absolute' or 'huber': '{metric}'")
    inside = size.clamp(max=delta)
    return inside * (2 * size - inside)
