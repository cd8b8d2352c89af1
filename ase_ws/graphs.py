"""From structures to graphs: neighbour lists, batching, sums over structures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from matscipy.neighbours import neighbour_list
from torch import Tensor

from ase_ws.errors import UserError
from ase_ws.typing import GraphBatch, Labels


def edges(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float
) -> tuple[np.ndarray, np.ndarray]:
    """All pairs closer than `cutoff`, periodic images included.

    Directions without periodicity get a tight box round the atoms, so that the cost of the
    cell list does not grow with the vacuum or with the distance from the origin.

    Parameters
    ----------
    positions : ndarray, (n_atoms, 3), Å
    cell : ndarray, (3, 3), Å
    pbc : ndarray, (3,), bool
    cutoff : float, Å

    Returns
    -------
    edge_index : ndarray, (2, n_edges), int64
        Row 0 centres, row 1 neighbours.
    shifts : ndarray, (n_edges, 3), float64
        Whole cell vectors crossed; zero along non-periodic directions.
    """
    check_periodicity(cell, pbc)
    box, origin = _tight_box(positions, cell, pbc)
    i, j, shifts = neighbour_list(
        "ijS", cutoff=cutoff, positions=positions, cell=box, pbc=pbc, cell_origin=origin
    )
    return np.stack([i, j]).astype(np.int64), shifts.astype(np.float64)


def check_periodicity(cell: np.ndarray, pbc: np.ndarray) -> None:
    """Raise a `UserError` where a periodic direction has no lattice vector of its own."""
    if np.linalg.matrix_rank(cell[pbc]) < np.count_nonzero(pbc):
        raise UserError(
            f"periodic (pbc {np.asarray(pbc).tolist()}) along a lattice vector that is zero or "
            "depends on the others; set the cell, or pbc to False"
        )


def _tight_box(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Replace the lattice vectors of non-periodic directions by ones that just hold the atoms."""
    if np.all(pbc):
        return np.asarray(cell, dtype=float), np.zeros(3)
    box = np.array(cell, dtype=float)
    free = np.flatnonzero(~pbc)
    box[free] = _orthonormal_complement(box[pbc])
    fractional = np.linalg.solve(box.T, positions.T).T
    low = fractional.min(axis=0)
    # A margin keeps the outermost atoms strictly inside; a flat direction still has a thickness.
    extent = np.maximum(np.ptp(fractional, axis=0), 1.0) + 0.2
    origin = np.zeros(3)
    for k in free:
        origin += (low[k] - 0.1) * box[k]
    box[free] *= extent[free, None]
    return box, origin


def _orthonormal_complement(periodic: np.ndarray) -> np.ndarray:
    """Complete the given lattice vectors to a frame by unit vectors normal to them."""
    if len(periodic) == 0:
        return np.eye(3)
    _, _, v = np.linalg.svd(periodic)
    return v[len(periodic) :]


def graph(
    numbers: np.ndarray,
    positions: np.ndarray,
    cell: np.ndarray,
    pbc: np.ndarray,
    *,
    cutoff: float,
    labels: Labels | None = None,
    frame_id: int | None = None,
) -> GraphBatch:
    """One structure as a `GraphBatch` in float64, with every pair up to `cutoff` (Å)."""
    # Copies: the graph must not follow when the caller moves the atoms.
    positions = np.array(positions, dtype=float)
    cell = np.array(cell, dtype=float)
    pbc = np.array(pbc, dtype=bool)
    if not np.isfinite(positions).all() or not np.isfinite(cell).all():
        # A NaN compares false with every cutoff: the model would see atoms without neighbours
        # and answer with a finite energy.
        raise UserError("positions or cell hold NaN or infinity: expected finite numbers in Å")
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
    )


def collate(graphs: Sequence[GraphBatch]) -> GraphBatch:
    """Join graphs into one disconnected graph; labels are kept where all have them."""
    sizes = torch.tensor([len(g.positions) for g in graphs])
    offsets = torch.cumsum(sizes, 0) - sizes
    counts = torch.tensor([g.n_graphs for g in graphs])
    graph_offsets = torch.cumsum(counts, 0) - counts
    labels = [g.labels for g in graphs if g.labels is not None]
    ids = [g.frame_ids for g in graphs if g.frame_ids is not None]
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
    )


def _collate_labels(labels: Sequence[Labels]) -> Labels:
    return Labels(
        **{
            name: torch.cat([getattr(label, name) for label in labels])
            for name in ("energy", "has_energy", "forces", "has_forces", "stress", "has_stress")
        }
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
