"""A frozen potential that the weak losses take differences to, and what it said before."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from ase_ws.losses.copies import Copy, as_it_is, evaluate_copies
from ase_ws.typing import GraphBatch, Potential, Prediction


class Reference:
    """A frozen potential. What it says of a copy that has keys is computed once and kept.

    Parameters
    ----------
    potential : Potential
        Never changed; no gradient flows through it.

    Notes
    -----
    The memory belongs to one data set: `GraphBatch.frame_ids` must mean the same frame throughout,
    which is checked by the positions.
    """

    def __init__(self, potential: Potential):
        self.potential = potential
        self._known: dict[Hashable, tuple[Tensor, Tensor | None]] = {}
        self._positions: dict[Hashable, Tensor] = {}

    @property
    def r_max(self) -> float:
        """Cutoff of the potential, Å."""
        return self.potential.r_max

    def __call__(self, batch: GraphBatch, copies: Sequence[Copy], skin: float) -> list[Prediction]:
        """Energies, and forces where they are wanted, of each copy; without gradients."""
        self._check_frames(batch)
        missing = [k for k, copy in enumerate(copies) if not self._knows(copy)]
        new: dict[int, Prediction] = {}
        if missing:
            wanted = [copies[k] for k in missing]
            with torch.no_grad():
                found = evaluate_copies(self.potential, batch, wanted, skin, create_graph=False)
            new = dict(zip(missing, found, strict=True))
            for k, prediction in new.items():
                self._keep(copies[k], prediction, batch)
        return [new[k] if k in new else self._recall(c) for k, c in enumerate(copies)]

    def _knows(self, copy: Copy) -> bool:
        if copy.keys is None or any(key not in self._known for key in copy.keys):
            return False
        return not copy.forces or all(self._known[key][1] is not None for key in copy.keys)

    def _recall(self, copy: Copy) -> Prediction:
        values = [self._known[key] for key in copy.keys or ()]
        forces = [f for _, f in values if f is not None]
        return Prediction(
            torch.stack([energy for energy, _ in values]),
            torch.cat(forces) if copy.forces else None,
        )

    def _keep(self, copy: Copy, prediction: Prediction, batch: GraphBatch) -> None:
        if copy.keys is None:
            return
        sizes = batch.n_atoms.tolist()
        nothing = [None] * len(sizes)
        forces = nothing if prediction.forces is None else prediction.forces.split(sizes)
        for key, energy, force in zip(copy.keys, prediction.energy, forces, strict=True):
            # Energies wanted again must not cost the forces that are known.
            known = self._known.get(key, (None, None))[1]
            self._known[key] = (energy, known if force is None else force)

    def _check_frames(self, batch: GraphBatch) -> None:
        """Refuse a batch whose frame ids have meant other frames before."""
        if batch.frame_ids is None:
            return
        parts = batch.positions.detach().split(batch.n_atoms.tolist())
        for frame, positions in zip(batch.frame_ids.tolist(), parts, strict=True):
            known = self._positions.setdefault(frame, positions)
            if known is not positions and not torch.equal(known, positions):
                raise ValueError(
                    f"frame {frame} has other positions than before: a Reference serves one data "
                    "set; make another for the other"
                )


def difference(prediction: Prediction, base: Prediction) -> Prediction:
    """Energy and forces less those of the reference; forces where both have them."""
    energy = prediction.energy - base.energy
    if prediction.forces is None or base.forces is None:
        return Prediction(energy)
    return Prediction(energy, prediction.forces - base.forces)


def less_reference(
    reference: Potential | Reference,
    batch: GraphBatch,
    start: Prediction,
    copies: Sequence[Copy],
    predictions: Sequence[Prediction],
    skin: float,
) -> tuple[Prediction, list[Prediction]]:
    """Take the reference's values off the predictions at r (where it has forces) and at the copies.

    One call of the reference serves all of them.
    """
    if not isinstance(reference, Reference):
        # Without memory of earlier calls.
        reference = Reference(reference)
    here = [as_it_is(batch)] if start.forces is not None else []
    base = reference(batch, [*here, *copies], skin)
    at_copies = [difference(p, b) for p, b in zip(predictions, base[len(here) :], strict=True)]
    return (difference(start, base[0]) if here else start), at_copies
