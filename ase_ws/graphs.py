"""From structures to graphs: neighbour lists, batching, sums over structures."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ase_ws.errors import UserError
from ase_ws.pairs import check_periodicity, edges, images_of
from ase_ws.typing import GraphBatch, Labels

#: float32 has steps of 3e-5 Å there (Å); measured, two molecules 520 Å apart have forces that are
#: 0.3 meV/Å off, 3,500 Å apart 2 meV/Å.
FAR = 500.0


def near_origin(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Wrap into the cell where it is periodic, and put the centre at the origin, (n_atoms, 3), Å.

    The same structure to a potential. float32 has steps of 8e-6 Å at 100 Å from the origin: what
    is to be rounded goes through here before.
    """
    inside = positions - images_of(positions, cell, pbc) @ cell
    return inside - inside.mean(axis=0)


@cache
def tell_far() -> None:
    """Warn once in a process, not at every list."""
    warnings.warn(
        f"atoms are more than {FAR:g} Å from the centre of their structure, where float32 places "
        "them to 3e-5 Å and forces are off by meV/Å: use float64",
        stacklevel=3,
    )


#: Total charge (e) and spin multiplicity of what says nothing of them.
NEUTRAL = (0.0, 1.0)


def state_of(info: Mapping[str, Any]) -> tuple[float, float]:
    """Give the total charge (e) and the spin multiplicity that `atoms.info` has.

    As upstream's `MACECalculator` reads them: `charge`, 0 where it is absent, and `spin`, 1 where
    it is absent. NaN is what is no number: models that take it refuse it, the others do not care.
    """
    found = []
    for key, default in zip(("charge", "spin"), NEUTRAL, strict=True):
        value = info.get(key, default)
        plain = isinstance(value, int | float | np.integer | np.floating)
        # This very NaN: a tuple that holds it is equal to another that does.
        found.append(float(value) if plain and math.isfinite(value) else math.nan)
    return found[0], found[1]


def graph(
    numbers: np.ndarray,
    positions: np.ndarray,
    cell: np.ndarray,
    pbc: np.ndarray,
    *,
    cutoff: float,
    labels: Labels | None = None,
    frame_id: int | None = None,
    state: tuple[float, float] = NEUTRAL,
    dtype: torch.dtype = torch.float64,
) -> GraphBatch:
    """One structure as a `GraphBatch` in float64, with every pair up to `cutoff` (Å).

    `state` is its charge and multiplicity, see `state_of`.
    `dtype` is the precision that it will be evaluated in: where that is less, the positions are
    those of `near_origin`.
    """
    # Copies: the graph must not follow when the caller moves the atoms.
    positions = np.array(positions, dtype=float)
    cell = np.array(cell, dtype=float)
    pbc = np.array(pbc, dtype=bool)
    if not np.isfinite(positions).all() or not np.isfinite(cell).all():
        # A NaN compares false with every cutoff: the model would see atoms without neighbours
        # and answer with a finite energy.
        raise UserError("positions or cell hold NaN or infinity: expected finite numbers in Å")
    if dtype != torch.float64:
        check_periodicity(cell, pbc)
        positions = near_origin(positions, cell, pbc)
        if abs(positions).max() > FAR:
            tell_far()
    edge_index, shifts = edges(positions, cell, pbc, cutoff)
    return GraphBatch(
        positions=torch.from_numpy(positions),
        numbers=torch.as_tensor(np.asarray(numbers), dtype=torch.int64),
        edge_index=torch.from_numpy(edge_index),
        shifts=torch.from_numpy(shifts),
        cell=torch.from_numpy(cell)[None],
        pbc=torch.from_numpy(pbc)[None],
        batch=torch.zeros(len(positions), dtype=torch.int64),
        n_graphs=1,
        cutoff=cutoff,
        labels=labels,
        frame_ids=None if frame_id is None else torch.tensor([frame_id]),
        state=torch.tensor([state], dtype=torch.float64),
    )


def collate(graphs: Sequence[GraphBatch]) -> GraphBatch:
    """Join graphs into one disconnected graph; labels are kept where all have them."""
    sizes = torch.tensor([len(g.positions) for g in graphs])
    offsets = torch.cumsum(sizes, 0) - sizes
    counts = torch.tensor([g.n_graphs for g in graphs])
    graph_offsets = torch.cumsum(counts, 0) - counts
    labels = [g.labels for g in graphs if g.labels is not None]
    ids = [g.frame_ids for g in graphs if g.frame_ids is not None]
    states = [g.state for g in graphs if g.state is not None]
    return GraphBatch(
        positions=torch.cat([g.positions for g in graphs]),
        numbers=torch.cat([g.numbers for g in graphs]),
        edge_index=torch.cat(
            [g.edge_index + int(o) for g, o in zip(graphs, offsets, strict=True)], dim=1
        ),
        shifts=torch.cat([g.shifts for g in graphs]),
        cell=torch.cat([g.cell for g in graphs]),
        pbc=torch.cat([g.pbc for g in graphs]),
        batch=torch.cat([g.batch + int(o) for g, o in zip(graphs, graph_offsets, strict=True)]),
        n_graphs=int(counts.sum()),
        cutoff=min(g.cutoff for g in graphs),
        labels=_collate_labels(labels) if len(labels) == len(graphs) else None,
        frame_ids=torch.cat(ids) if len(ids) == len(graphs) else None,
        state=torch.cat(states) if len(states) == len(graphs) else None,
    )


def _collate_labels(labels: Sequence[Labels]) -> Labels:
    weights = [label.weights for label in labels if label.weights is not None]
    return Labels(
        weights=torch.cat(weights) if len(weights) == len(labels) else None,
        **{
            name: torch.cat([getattr(label, name) for label in labels])
            for name in ("energy", "has_energy", "forces", "has_forces", "stress", "has_stress")
        },
    )


def pieces(batch: GraphBatch, most_atoms: int) -> Iterator[tuple[slice, slice, GraphBatch]]:
    """Cut a batch into runs of whole structures.

    Parameters
    ----------
    batch : GraphBatch
        Without labels.
    most_atoms : int
        In a piece; a larger structure is a piece of its own.

    Yields
    ------
    graphs, atoms : slice
        Where the piece stands in the batch.
    piece : GraphBatch
    """
    ends = torch.cumsum(batch.n_atoms, 0).tolist()
    edge_graph = batch.batch[batch.edge_index[0]]
    first, start = 0, 0
    for k, end in enumerate(ends):
        if k + 1 < len(ends) and ends[k + 1] - start <= most_atoms:
            continue
        graphs, atoms = slice(first, k + 1), slice(start, end)
        kept = (edge_graph >= first) & (edge_graph <= k)
        yield (
            graphs,
            atoms,
            GraphBatch(
                positions=batch.positions[atoms],
                numbers=batch.numbers[atoms],
                edge_index=batch.edge_index[:, kept] - start,
                shifts=batch.shifts[kept],
                cell=batch.cell[graphs],
                pbc=batch.pbc[graphs],
                batch=batch.batch[atoms] - first,
                n_graphs=k + 1 - first,
                cutoff=batch.cutoff,
                frame_ids=None if batch.frame_ids is None else batch.frame_ids[graphs],
                state=None if batch.state is None else batch.state[graphs],
            ),
        )
        first, start = k + 1, end


def sum_by_graph(values: Tensor, batch: GraphBatch) -> Tensor:
    """Sum per-atom values (n_atoms, ...) over the atoms of each structure: (n_graphs, ...)."""
    out = values.new_zeros((batch.n_graphs, *values.shape[1:]))
    return out.index_add(0, batch.batch, values)


def mean_by_graph(values: Tensor, batch: GraphBatch) -> Tensor:
    """Mean of per-atom values (n_atoms, ...) over the atoms of each structure."""
    total = sum_by_graph(values, batch)
    count = batch.n_atoms.to(values.dtype)
    return total / count.reshape(-1, *([1] * (values.dim() - 1)))


def edge_vectors(batch: GraphBatch) -> Tensor:
    """Vectors from centre to neighbour, (n_edges, 3), Å."""
    centre, neighbour = batch.edge_index
    offset = torch.einsum("ei,eij->ej", batch.shifts, batch.cell[batch.batch[centre]])
    return batch.positions[neighbour] - batch.positions[centre] + offset


def nearest_neighbour_distance(batch: GraphBatch) -> Tensor:
    """Distance of each atom to its nearest neighbour, (n_atoms,), Å; infinite for a lone atom."""
    lengths = edge_vectors(batch).detach().norm(dim=1)
    out = lengths.new_full((len(batch.positions),), torch.inf)
    return out.scatter_reduce(0, batch.edge_index[0], lengths, reduce="amin")


def closest_pair(batch: GraphBatch) -> tuple[float, int, int] | None:
    """Shortest edge: its length (Å) and its atoms; None where there is no edge."""
    if batch.edge_index.shape[1] == 0:
        return None
    length, edge = edge_vectors(batch).detach().norm(dim=1).min(dim=0)
    return float(length), int(batch.edge_index[0, edge]), int(batch.edge_index[1, edge])


def rebuilt(batch: GraphBatch, cutoff: float) -> GraphBatch:
    """Return the batch with edges built anew from its positions, up to `cutoff` (Å)."""
    parts = []
    for k in range(batch.n_graphs):
        mine = batch.batch == k
        edge_index, shifts = edges(
            batch.positions[mine].detach().cpu().double().numpy(),
            batch.cell[k].detach().cpu().double().numpy(),
            batch.pbc[k].cpu().numpy(),
            cutoff,
        )
        offset = int(torch.nonzero(mine)[0])
        parts.append((torch.from_numpy(edge_index) + offset, torch.from_numpy(shifts)))
    return replace(
        batch,
        edge_index=torch.cat([e for e, _ in parts], dim=1).to(batch.edge_index),
        shifts=torch.cat([s for _, s in parts]).to(batch.shifts),
        cutoff=cutoff,
    )
