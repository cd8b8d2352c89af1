"""Sums over pieces of a large batch that hold the memory of one piece at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from ase_ws.typing import Potential

#: Atoms in a piece of a batch that is too large to join: few enough to hold less memory than the
#: prediction at r does, enough to be bound by arithmetic.
PIECE_ATOMS = 1000


def sum_in_pieces(
    potential: Potential,
    here: Sequence[Tensor],
    values: Callable[[list[Tensor]], Iterable[Tensor]],
) -> Tensor:
    """Sum values whose gradients are taken one by one, so that the graph of each can go.

    The linear function Σ p·∂L/∂p of the weights p and of `here` has the gradients of L, and holds
    no more memory than the weights.

    Parameters
    ----------
    potential : Potential
        Whose weights the values depend on.
    here : sequence of Tensor
        Others that they depend on, and that need gradients.
    values : callable
        Takes stand-ins for `here`, and gives the values one after the other.

    Returns
    -------
    Tensor, ()
    """
    weights = list(potential.parameters()) if isinstance(potential, torch.nn.Module) else []
    weights = [p for p in weights if p.requires_grad]
    # The way from there to the weights is still needed by others.
    doubles = [x.detach().requires_grad_() for x in here]
    inputs = [*weights, *doubles]
    wanted = torch.is_grad_enabled() and bool(inputs)
    gradients = [torch.zeros_like(x) for x in inputs]
    found = []
    for value in values(doubles):
        found.append(value.detach())
        if wanted and value.requires_grad:
            new = torch.autograd.grad(value, inputs, allow_unused=True)
            gradients = [g if n is None else g + n for g, n in zip(gradients, new, strict=True)]
    total = torch.stack(found).sum()
    if not wanted:
        return total
    terms = [(x * g).sum() for x, g in zip([*weights, *here], gradients, strict=True)]
    linear = torch.stack([t.to(total.dtype) for t in terms]).sum()
    return total + linear - linear.detach()
