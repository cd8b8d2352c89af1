"""Displaced copies of a batch, and how a potential evaluates many of them at once."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ase_ws.graphs import collate, rebuilt
from ase_ws.typing import GraphBatch, Potential, Prediction

#: Copies go through the potential together up to this many atoms. Small batches are bound by the
#: number of calls, large ones by the arithmetic, which joining does not reduce.
JOINED_ATOMS = 2000


@dataclass(frozen=True, eq=False)
class Copy:
    """A batch with its atoms moved.

    Attributes
    ----------
    displacement : Tensor, (n_atoms, 3), Å
    forces : bool
        Whether forces are wanted there, or the energy alone.
    keys : tuple of hashable, (n_graphs,), or None
        Two structures with the same key are the same structure with the same displacement.
    """

    displacement: Tensor
    forces: bool
    keys: tuple[Hashable, ...] | None = None


def evaluate_copies(
    potential: Potential,
    batch: GraphBatch,
    copies: Sequence[Copy],
    skin: float,
    *,
    create_graph: bool = True,
) -> list[Prediction]:
    """Evaluate a potential at displaced copies, those of a kind joined in one call.

    The copies keep the edges of the batch, which is exact where they reach `r_max + skin`; for a
    potential that is not `skin_safe` new lists are built.

    Parameters
    ----------
    potential : Potential
    batch : GraphBatch
    copies : sequence of Copy
    skin : float, Å
        Twice the longest displacement.
    create_graph : bool
        Keep forces differentiable.

    Returns
    -------
    list of Prediction
        One for each copy, with forces where they are wanted.

    Raises
    ------
    ValueError
        The batch's edges do not reach `r_max + skin`.
    """
    bare = replace(batch, labels=None, frame_ids=None)
    out: list[Prediction | None] = [None] * len(copies)
    for forces in (False, True):
        wanted = [k for k, copy in enumerate(copies) if copy.forces is forces]
        at_once = max(1, JOINED_ATOMS // len(batch.positions))
        for start in range(0, len(wanted), at_once):
            mine = wanted[start : start + at_once]
            moved = collate([bare.displaced(copies[k].displacement) for k in mine])
            prediction = potential(
                edges_for(potential, moved, skin),
                forces=forces,
                create_graph=forces and create_graph,
            )
            for k, part in zip(mine, _split(prediction, batch), strict=True):
                out[k] = part
    return [prediction for prediction in out if prediction is not None]


def edges_for(potential: Potential, batch: GraphBatch, skin: float) -> GraphBatch:
    """Keep the edges where that is exact, else build those that this potential needs."""
    if not potential.skin_safe:
        return rebuilt(batch, potential.r_max)
    if batch.cutoff < potential.r_max + skin - 1e-6:
        raise ValueError(
            f"the graph's edges reach {batch.cutoff:.3f} Å; displaced copies need "
            f"r_max + skin = {potential.r_max + skin:.3f} Å: build it with that cutoff"
        )
    return batch


def _split(prediction: Prediction, batch: GraphBatch) -> list[Prediction]:
    """Take a prediction for several copies of the batch apart."""
    energies = prediction.energy.split(batch.n_graphs)
    if prediction.forces is None:
        return [Prediction(energy) for energy in energies]
    forces = prediction.forces.split(len(batch.positions))
    return [Prediction(e, f) for e, f in zip(energies, forces, strict=True)]


def as_it_is(batch: GraphBatch) -> Copy:
    """Give the batch itself as a copy, with forces."""
    keys = None if batch.frame_ids is None else tuple(batch.frame_ids.tolist())
    return Copy(torch.zeros_like(batch.positions), forces=True, keys=keys)
