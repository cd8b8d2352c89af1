"""Neighbour lists against brute force, batching, sums over structures."""

import itertools
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.neighborlist import neighbor_list

from ase_ws.errors import UserError
from ase_ws.frames import frame_from_atoms
from ase_ws.graphs import (
    collate,
    edge_vectors,
    edges,
    graph,
    mean_by_graph,
    nearest_neighbour_distance,
    pieces,
    rebuilt,
    sum_by_graph,
)


def brute_force(atoms, cutoff):
    """Every pair and image within the cutoff, as a set of (i, j, shift)."""
    # Images needed: the cutoff and the spread of the atoms, over the distance of lattice planes.
    reach = [0, 0, 0]
    if atoms.pbc.any():
        planes = atoms.cell.complete().reciprocal()
        spread = np.ptp(atoms.positions @ np.asarray(planes).T, axis=0)
        for k in np.flatnonzero(atoms.pbc):
            reach[k] = int(np.ceil(cutoff * np.linalg.norm(planes[k]) + spread[k])) + 1
    found = set()
    for shift in itertools.product(*(range(-n, n + 1) for n in reach)):
        vectors = atoms.positions[None] + np.dot(shift, atoms.cell) - atoms.positions[:, None]
        near = np.linalg.norm(vectors, axis=2) < cutoff
        if shift == (0, 0, 0):
            np.fill_diagonal(near, False)
        found.update((i, j, shift) for i, j in np.argwhere(near).tolist())
    return {(i, j, *shift) for i, j, shift in found}


def ours(atoms, cutoff):
    index, shifts = edges(atoms.positions, np.array(atoms.cell), atoms.pbc, cutoff)
    assert index.dtype == np.int64
    found = [(*pair, *map(int, s)) for pair, s in zip(index.T.tolist(), shifts, strict=True)]
    assert len(set(found)) == len(found)
    return set(found)


def wire():
    atoms = Atoms("C3", [[0.2, 0, 0], [1.4, 0.6, 0.1], [2.1, -5, 3]])
    atoms.set_cell([[2.9, 0.3, 0.2], [0, 0, 0], [0, 0, 0]])
    atoms.pbc = (True, False, False)
    return atoms


def skewed():
    atoms = Atoms("Si2", [[0.1, 0.2, 0.3], [1.2, 1.1, 1.7]], pbc=True)
    atoms.set_cell([[2.5, 0, 0], [2.2, 1.9, 0], [-1.8, 1.2, 2.4]])
    return atoms


def skewed_slab():
    atoms = skewed()
    atoms.set_cell([[2.5, 0, 0], [0.3, 0.2, 14.0], [2.2, 1.9, 0.4]])
    atoms.pbc = (True, False, True)
    return atoms


def left_handed():
    atoms = skewed()
    atoms.set_cell(np.array(atoms.cell)[[1, 0, 2]])
    return atoms


CASES = {
    "molecule": lambda: molecule("CH3CH2OH"),
    "molecule with a cell but no pbc": lambda: Atoms(
        "CO", [[0, 0, 0], [0, 0, 9.9]], cell=[2, 2, 3]
    ),
    "flat molecule": lambda: molecule("C6H6"),
    "linear molecule": lambda: molecule("CO2"),
    "lone atom": lambda: Atoms("H", [[3, 4, 5]]),
    "one atom a cell": lambda: bulk("Al"),
    "diamond": lambda: bulk("Si"),
    "tiny cell": lambda: Atoms("Al", cell=[1.1, 1.3, 1.2], pbc=True),
    "skewed": skewed,
    "left-handed": left_handed,
    "slab": lambda: fcc111("Al", (2, 1, 3), vacuum=6.0),
    "slab without a third vector": lambda: fcc111("Al", (1, 1, 2)),
    "skewed slab": skewed_slab,
    "wire": wire,
}


@pytest.mark.parametrize("outside", [False, True], ids=["inside", "outside"])
@pytest.mark.parametrize("name", CASES)
def test_edges_are_all_pairs_and_images(name, outside):
    atoms = CASES[name]()
    if outside:
        # Atoms far outside the cell, each by its own number of lattice vectors and more.
        rng = np.random.default_rng(1)
        steps = rng.integers(-2, 3, (len(atoms), 3)) * atoms.pbc
        atoms.positions += steps @ np.asarray(atoms.cell) + 7.3
    assert ours(atoms, 4.1) == brute_force(atoms, 4.1)


def test_edges_agree_with_ase():
    atoms = skewed_slab().repeat((2, 1, 1))
    atoms.rattle(0.2, seed=0)
    i, j, s = neighbor_list("ijS", atoms, 5.0)
    assert ours(atoms, 5.0) == set(zip(i.tolist(), j.tolist(), *s.T.tolist(), strict=True))


def test_a_molecule_far_away_has_the_same_edges():
    near = molecule("C6H6")
    far = near.copy()
    far.positions += [100.0, -80.0, 120.0]
    assert ours(far, 5.0) == ours(near, 5.0)


@pytest.mark.wall_clock
def test_a_molecule_far_away_takes_no_longer():
    near = molecule("C6H6")
    far = near.copy()
    far.positions += [100.0, -80.0, 120.0]

    def cost(atoms):
        times = []
        for _ in range(5):
            start = time.perf_counter()
            edges(atoms.positions, np.array(atoms.cell), atoms.pbc, 5.0)
            times.append(time.perf_counter() - start)
        return min(times)

    # Upstream's fake cell makes this a factor of 1,000.
    assert cost(far) < 10 * cost(near) + 1e-3


def test_edge_vectors_point_from_centre_to_neighbour(to_graph):
    atoms = skewed()
    atoms.positions[1] += 3 * np.asarray(atoms.cell)[0]
    batch = to_graph(atoms, 4.0)
    vectors = edge_vectors(batch).numpy()
    assert np.linalg.norm(vectors, axis=1).max() < 4.0
    i, j = batch.edge_index.numpy()
    expected = atoms.positions[j] - atoms.positions[i] + batch.shifts.numpy() @ np.array(atoms.cell)
    np.testing.assert_allclose(vectors, expected, atol=1e-12)
    np.testing.assert_allclose(
        np.sort(np.linalg.norm(vectors, axis=1)),
        np.sort(neighbor_list("d", atoms, 4.0)),
        atol=1e-12,
    )


def test_collate_joins_without_mixing(structures, to_graph):
    batch = to_graph(structures, 3.5)
    singles = [to_graph(a, 3.5) for a in structures]
    assert batch.n_graphs == len(structures)
    assert batch.n_atoms.tolist() == [len(a) for a in structures]
    assert batch.cell.shape == (len(structures), 3, 3)
    assert batch.pbc.tolist() == [a.pbc.tolist() for a in structures]
    # No edge crosses from one structure to another.
    assert torch.equal(batch.batch[batch.edge_index[0]], batch.batch[batch.edge_index[1]])
    owner = batch.batch[batch.edge_index[0]]
    for k, single in enumerate(singles):
        mine = batch.batch == k
        assert torch.equal(batch.positions[mine], single.positions)
        assert torch.equal(batch.numbers[mine], single.numbers)
        torch.testing.assert_close(edge_vectors(batch)[owner == k], edge_vectors(single))


def test_collate_keeps_the_smallest_cutoff_and_labels_only_if_all_have_them():
    labelled = frame_from_atoms(molecule("H2O")).graph(4.0, 7)
    bare = graph(np.array([1]), np.zeros((1, 3)), np.zeros((3, 3)), np.zeros(3), cutoff=3.0)
    joined = collate([labelled, bare])
    assert joined.cutoff == 3.0
    assert joined.labels is None
    assert joined.frame_ids is None
    again = collate([labelled, labelled])
    assert again.labels.energy.shape == (2,)
    assert again.labels.forces.shape == (6, 3)
    assert again.frame_ids.tolist() == [7, 7]


def test_collate_of_batches(structures, to_graph):
    parts = collate([to_graph(structures[:2], 3.5), to_graph(structures[2:], 3.5)])
    whole = to_graph(structures, 3.5)
    assert torch.equal(parts.batch, whole.batch)
    assert torch.equal(parts.edge_index, whole.edge_index)


def test_sums_and_means_over_structures(structures, to_graph):
    batch = to_graph(structures, 3.5)
    values = torch.arange(float(len(batch.positions)))[:, None] * torch.ones(2)
    parts = torch.split(values, [len(a) for a in structures])
    torch.testing.assert_close(
        sum_by_graph(values, batch), torch.stack([p.sum(dim=0) for p in parts])
    )
    torch.testing.assert_close(
        mean_by_graph(values, batch), torch.stack([p.mean(dim=0) for p in parts])
    )


def test_nearest_neighbours(to_graph):
    batch = to_graph([molecule("H2O"), Atoms("H"), bulk("Al", a=4.0)], 5.0)
    distance = nearest_neighbour_distance(batch)
    assert distance[:3].tolist() == pytest.approx([0.968565, 0.968565, 0.968565], abs=1e-4)
    assert distance[3] == torch.inf
    assert distance[4] == pytest.approx(4.0 / np.sqrt(2))


def test_rebuilt_equals_a_new_graph(structures, to_graph):
    moved = []
    rng = np.random.default_rng(0)
    for atoms in structures:
        new = atoms.copy()
        new.positions += rng.normal(0, 0.5, new.positions.shape)
        moved.append(new)
    old = to_graph(structures, 3.0)
    step = torch.tensor(np.concatenate([m.positions for m in moved])) - old.positions
    found, expected = rebuilt(old.displaced(step), 3.6), to_graph(moved, 3.6)
    assert found.cutoff == 3.6

    def rows(batch):
        table = torch.cat([batch.edge_index.T.double(), batch.shifts], dim=1)
        return sorted(map(tuple, table.tolist()))

    assert rows(found) == rows(expected)


def test_rebuilt_keeps_gradients_and_precision(structures, to_graph):
    batch = to_graph(structures, 3.0).to("cpu", torch.float32)
    step = torch.zeros_like(batch.positions, requires_grad=True)
    new = rebuilt(batch.displaced(step), 3.0)
    assert new.shifts.dtype == torch.float32
    edge_vectors(new).square().sum().backward()
    assert step.grad.abs().max() > 0


def test_displaced_copies_leave_the_batch_alone(to_graph):
    batch = to_graph(molecule("H2O"), 3.0)
    before = batch.positions.clone()
    moved = batch.displaced(torch.ones_like(before))
    assert torch.equal(batch.positions, before)
    assert torch.equal(moved.positions, before + 1)
    assert moved.edge_index is batch.edge_index


@pytest.mark.parametrize("where", ["positions", "cell"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(where, value):
    positions, cell = np.zeros((1, 3)), np.eye(3)
    {"positions": positions, "cell": cell}[where][0, 0] = value
    with pytest.raises(UserError, match="NaN"):
        graph(np.array([1]), positions, cell, np.ones(3, bool), cutoff=2.0)


@pytest.mark.parametrize(
    ("cell", "pbc"),
    [
        (np.zeros((3, 3)), True),
        (np.diag([5.0, 5.0, 0.0]), True),
        (np.zeros((3, 3)), [True, False, False]),
        (np.array([[5.0, 0, 0], [10, 0, 0], [0, 0, 1]]), [True, True, False]),
    ],
)
def test_periodicity_without_a_lattice_vector_is_refused(cell, pbc):
    """pbc="T T T" without a lattice is a common slip in extended XYZ files."""
    atoms = Atoms("CO", [[0, 0, 0], [0, 0, 1.2]], cell=cell, pbc=pbc)
    with pytest.raises(UserError, match=r"cell|lattice|periodic"):
        frame_from_atoms(atoms).graph(3.0)


def test_a_lone_atom_has_no_edges():
    g = graph(np.array([1]), np.zeros((1, 3)), np.zeros((3, 3)), np.zeros(3), cutoff=5.0)
    assert g.edge_index.shape == (2, 0)
    assert g.shifts.shape == (0, 3)
    assert edge_vectors(g).shape == (0, 3)
    assert sum_by_graph(torch.ones(1), g).tolist() == [1.0]


def test_a_graph_does_not_follow_the_arrays_it_was_made_from():
    positions = molecule("H2O").positions
    g = graph(np.array([8, 1, 1]), positions, np.zeros((3, 3)), np.zeros(3), cutoff=3.0)
    before = g.positions.clone()
    positions += 1.0
    assert torch.equal(g.positions, before)


@pytest.mark.parametrize("most", [1, 12, 10_000])
def test_pieces_joined_again_are_the_batch(most):
    atoms = [molecule("H2O"), bulk("Si") * (2, 1, 1), molecule("CH4"), molecule("C6H6")]
    parts = [graph(a.numbers, a.positions, a.cell.array, a.pbc, cutoff=4.0) for a in atoms]
    whole = replace(collate(parts), frame_ids=torch.arange(4) + 7)
    found = list(pieces(whole, most))
    again = collate([piece for _, _, piece in found])
    for name in ("positions", "numbers", "edge_index", "shifts", "cell", "pbc", "batch"):
        assert torch.equal(getattr(again, name), getattr(whole, name)), name
    assert again.frame_ids.tolist() == [7, 8, 9, 10]
    assert len(found) == {1: 4, 12: 2, 10_000: 1}[most]
    for graphs, atoms_, piece in found:
        assert torch.equal(whole.positions[atoms_], piece.positions)
        assert graphs.stop - graphs.start == piece.n_graphs
