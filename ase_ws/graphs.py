"""From structures to graphs: neighbour lists, batching, sums over structures."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from matscipy.neighbours import neighbour_list
from torch import Tensor

from ase_ws.errors import UserError
from ase_ws.typing import GraphBatch, Labels

#: float32 has steps of 3e-5 Å there (Å); measured, two molecules 520 Å apart have forces that are
#: 0.3 meV/Å off, 3,500 Å apart 2 meV/Å.
FAR = 500.0
#: Bins of a neighbour list from which on it is told nothing of vacuum.
MOST_BINS = 1e5
#: A lattice vector shorter than this (Å) is none.
SHORTEST_VECTOR = 1e-3
#: More pairs than this in one structure are a mistake in its cell (2 GiB for the list alone).
MOST_EDGES = 5e7


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
    if not np.any(pbc):
        return _pairs(positions, cell, pbc, cutoff)
    images = _images(positions, cell, pbc)
    edge_index, shifts = _pairs(positions - images @ cell, cell, pbc, cutoff)
    return edge_index, shifts + images[edge_index[0]] - images[edge_index[1]]


def _pairs(
    inside: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of atoms that are inside the cell."""
    box, origin = _tight_box(inside, cell, pbc)
    _require_room(len(inside), box, pbc, cutoff)
    # With much vacuum it warns that it may be slow, which is seconds at worst.
    vacuum = abs(np.linalg.det(box)) > MOST_BINS * cutoff**3
    with warnings.catch_warnings() if vacuum else nullcontext():
        if vacuum:
            warnings.filterwarnings("ignore", message="Ratio of simulation cell")
        i, j, shifts = neighbour_list(
            "ijS", cutoff=cutoff, positions=inside, cell=box, pbc=pbc, cell_origin=origin
        )
    return np.stack([i, j]).astype(np.int64), shifts.astype(np.float64)


def _images(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Whole lattice vectors from the home cell to each atom, (n_atoms, 3); 0 where not periodic.

    MD does not wrap positions, and a neighbour list takes the longer the farther out they are.
    """
    if not np.any(pbc):
        return np.zeros_like(positions)
    box = np.array(cell, dtype=float)
    box[~pbc] = _orthonormal_complement(box[pbc])
    return np.where(pbc, np.floor(np.linalg.solve(box.T, positions.T).T), 0.0)


def near_origin(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Wrap into the cell where it is periodic, and put the centre at the origin, (n_atoms, 3), Å.

    The same structure to a potential. float32 has steps of 8e-6 Å at 100 Å from the origin: what
    is to be rounded goes through here before.
    """
    inside = positions - _images(positions, cell, pbc) @ cell
    return inside - inside.mean(axis=0)


@cache
def tell_far() -> None:
    """Warn once in a process, not at every list."""
    warnings.warn(
        f"atoms are more than {FAR:g} Å from the centre of their structure, where float32 places "
        "them to 3e-5 Å and forces are off by meV/Å: use float64",
        stacklevel=3,
    )


def _require_room(n_atoms: int, box: np.ndarray, pbc: np.ndarray, cutoff: float) -> None:
    """Refuse cells that are so small that the list of pairs would not fit into memory."""
    if n_atoms**2 <= MOST_EDGES and not np.any(pbc):
        return
    volume = abs(float(np.linalg.det(box)))
    if n_atoms**2 * 4.2 * cutoff**3 <= MOST_EDGES * volume:
        return
    area = np.linalg.norm(np.cross(np.roll(box, -1, axis=0), np.roll(box, -2, axis=0)), axis=1)
    # Images in reach along each periodic direction; distances between the faces of the cell.
    reach = np.where(pbc, 1 + 2 * cutoff * area / max(volume, 1e-300), 1.0)
    # Written so that NaN is refused.
    if not n_atoms**2 * float(np.prod(reach)) <= MOST_EDGES:
        raise UserError(
            f"{n_atoms} atoms in a cell of {volume:.3g} Å³ have too many neighbours within "
            f"{cutoff:g} Å; expected lattice vectors in Å"
        )


def check_periodicity(cell: np.ndarray, pbc: np.ndarray) -> None:
    """Raise a `UserError` where a periodic direction has no lattice vector of its own."""
    periodic = np.asarray(cell)[pbc]
    short = not (np.linalg.norm(periodic, axis=1) > SHORTEST_VECTOR).all()
    if short or np.linalg.matrix_rank(periodic) < len(periodic):
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
    dtype: torch.dtype = torch.float64,
) -> GraphBatch:
    """One structure as a `GraphBatch` in float64, with every pair up to `cutoff` (Å).

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
