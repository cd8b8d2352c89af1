"""Evaluates losses of displaced copies together: small batches in one call, large ones in pieces.

The one way from a loss to its value: copies are drawn, evaluated, held against the reference where
there is one, and judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ase_ws.graphs import pieces
from ase_ws.losses.copies import JOINED_ATOMS, Copy, evaluate_copies
from ase_ws.losses.reference import Reference, less_reference
from ase_ws.losses.term import Needs, skin_of
from ase_ws.typing import GraphBatch, Potential, Prediction

if TYPE_CHECKING:
    from ase_ws.losses.weak import WeakLoss

#: Atoms in a piece of a batch that is too large to join: few enough to hold less memory than the
#: prediction at r does, enough to be bound by arithmetic.
PIECE_ATOMS = 1000


def weak_values(
    losses: Mapping[str, WeakLoss],
    prediction: Prediction,
    potential: Potential,
    batch: GraphBatch,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Evaluate the weak losses, the displaced copies of all of them in one call of the potential.

    Beyond `JOINED_ATOMS` atoms joining gains no time and costs memory: then one loss after the
    other, piece of the batch by piece, each letting go of its memory before the next.

    Parameters
    ----------
    losses : mapping of str to WeakLoss
    prediction : Prediction
        Of `potential` at the batch itself.
    potential : Potential
    batch : GraphBatch
    generator : torch.Generator
        Of the displacements.

    Returns
    -------
    dict of str to Tensor, ()
    """
    if not losses:
        return {}
    skin = max(skin_of(loss) for loss in losses.values())
    plans = {
        name: loss.copies(potential, batch, prediction, generator) for name, loss in losses.items()
    }
    n_copies = sum(map(len, plans.values()))
    if n_copies * len(batch.positions) <= JOINED_ATOMS:
        return _joined_values(losses, plans, prediction, potential, batch, skin)
    return {
        name: _value_in_pieces(loss, plans[name], prediction, potential, batch, skin)
        for name, loss in losses.items()
    }


def _value_in_pieces(
    loss: WeakLoss,
    copies: Sequence[Copy],
    prediction: Prediction,
    potential: Potential,
    batch: GraphBatch,
    skin: float,
) -> Tensor:
    """Value of a loss on a batch too large to join, piece by piece."""
    here = [x for x in (prediction.energy, prediction.forces) if x is not None and x.requires_grad]

    def values(doubles: list[Tensor]) -> Iterator[Tensor]:
        stand_ins = {id(x): double for x, double in zip(here, doubles, strict=True)}
        start = Prediction(
            stand_ins.get(id(prediction.energy), prediction.energy),
            stand_ins.get(id(prediction.forces), prediction.forces),
        )
        for part, mine, at_r in _parts(batch, copies, start):
            (value,) = _joined_values({"": loss}, {"": mine}, at_r, potential, part, skin).values()
            yield value * (part.n_graphs / batch.n_graphs)

    return sum_in_pieces(potential, here, values)


def _parts(
    batch: GraphBatch, copies: Sequence[Copy], start: Prediction
) -> Iterator[tuple[GraphBatch, list[Copy], Prediction]]:
    """Cut a batch, its copies and its prediction into pieces of at most `PIECE_ATOMS`."""
    most = max(1, PIECE_ATOMS // max(1, len(copies)))
    bare = replace(batch, labels=None)
    for graphs, atoms, part in pieces(bare, most):
        yield (
            part,
            [
                Copy(c.displacement[atoms], c.forces, None if c.keys is None else c.keys[graphs])
                for c in copies
            ],
            Prediction(start.energy[graphs], None if start.forces is None else start.forces[atoms]),
        )


def _joined_values(
    losses: Mapping[str, WeakLoss],
    plans: Mapping[str, list[Copy]],
    prediction: Prediction,
    potential: Potential,
    batch: GraphBatch,
    skin: float,
) -> dict[str, Tensor]:
    """Evaluate all copies together, then every loss."""
    plans = {name: plans[name] for name in losses}
    predictions = iter(
        evaluate_copies(potential, batch, [c for plan in plans.values() for c in plan], skin)
    )
    found = {name: [next(predictions) for _ in plan] for name, plan in plans.items()}
    return {
        name: value
        for reference in {id(r): r for r in map(_reference, losses.values())}.values()
        for name, value in _values_less(
            reference,
            {name: loss for name, loss in losses.items() if _reference(loss) is reference},
            plans,
            found,
            prediction,
            batch,
            skin,
        ).items()
    }


def _reference(loss: WeakLoss) -> Potential | Reference | None:
    """Give the potential that a loss takes differences to, if it has one."""
    return getattr(loss, "reference", None)


def _values_less(
    reference: Potential | Reference | None,
    losses: Mapping[str, WeakLoss],
    plans: Mapping[str, list[Copy]],
    found: Mapping[str, list[Prediction]],
    start: Prediction,
    batch: GraphBatch,
    skin: float,
) -> dict[str, Tensor]:
    """Values of the losses that share a reference, which is called once for all of them."""
    if reference is not None:
        copies = [copy for name in losses for copy in plans[name]]
        at_copies = [prediction for name in losses for prediction in found[name]]
        if not any(Needs.of(loss, batch).forces for loss in losses.values()):
            # Nobody looks at r itself: the reference need not either.
            start = start._replace(forces=None)
        start, differences = less_reference(reference, batch, start, copies, at_copies, skin)
        rest = iter(differences)
        found = {name: [next(rest) for _ in plans[name]] for name in losses}
    return {name: loss.of(batch, start, plans[name], found[name]) for name, loss in losses.items()}


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
