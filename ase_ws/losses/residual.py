"""What is left of an energy difference when the work along the path is taken off, and its ρ."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from ase_ws.graphs import sum_by_graph
from ase_ws.typing import GraphBatch, Prediction

Metric = Literal["square", "absolute", "huber"]


def path_residual(
    end: Prediction, start: Prediction, step: Tensor, batch: GraphBatch, order: int
) -> Tensor:
    """Energy that is left when the work along a short straight path is taken off.

    R = E(end) − [E(start) − Σ_i step_i · F_i], with F = F(start) at first order and the mean of
    F(start) and F(end) (the trapezoid) at second. Zero for a conservative potential but for the
    truncation error: ½ stepᵀ H step at first order, O(step³) at second.

    Parameters
    ----------
    end, start : Prediction
        With forces at `start`, and at `end` for second order.
    step : Tensor, (n_atoms, 3), Å
        From start to end.
    batch : GraphBatch
    order : {1, 2}

    Returns
    -------
    Tensor, (n_graphs,), eV
    """
    forces = forces_of(start)
    if order == 2:
        forces = 0.5 * (forces + forces_of(end))
    work = sum_by_graph((step * forces).sum(dim=1), batch)
    return end.energy - (start.energy - work)


def forces_of(prediction: Prediction) -> Tensor:
    """Give the forces of a prediction that must have them."""
    if prediction.forces is None:
        raise ValueError("the weak losses need a prediction with forces")
    return prediction.forces


def check_metric(metric: str) -> None:
    """Raise ValueError for a name that `penalty` does not know."""
    if metric not in get_args(Metric):
        raise ValueError(f"metric must be one of {get_args(Metric)}: '{metric}'")


def penalty(residual: Tensor, metric: Metric, delta: Tensor | float) -> Tensor:
    """Apply ρ elementwise.

    Parameters
    ----------
    residual : Tensor
    metric : {"square", "absolute", "huber"}
        ρ(R) = R², |R|, or Huber's: R² for |R| <= δ and δ(2|R| − δ) beyond, which joins smoothly
        (twice the textbook form, so that it equals "square" near zero).
    delta : float, or Tensor that broadcasts
        δ of the Huber form, in the unit of the residual.
    """
    if metric == "square":
        return residual**2
    size = residual.abs()
    if metric == "absolute":
        return size
    if metric != "huber":
        raise ValueError(f"metric must be 'square', 'absolute' or 'huber': '{metric}'")
    inside = size.clamp(max=delta)  # pyright: ignore[reportArgumentType, reportCallIssue]
    return inside * (2 * size - inside)
