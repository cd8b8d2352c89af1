"""What holds for every structure: symmetries, padding, batching, limits, missing labels.

Hypothesis draws the structures, in float64. Every run draws the same ones, here and in CI, unless
`HYPOTHESIS_PROFILE=explore` asks for fresh ones, and ten times as many. Everything is drawn from
small whole numbers: those are the same whatever else pytest has loaded, while Hypothesis takes
some of its larger numbers from the source of the modules that it finds.
"""

import itertools
import math
import os
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, graphene, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ase_ws.frames import Frame, LabelKeys, read_frames
from ase_ws.graphs import collate, edge_vectors, graph, rebuilt, sum_by_graph
from ase_ws.losses import (
    Displacements,
    EnergyLoss,
    ForcesLoss,
    NoisyNodesLoss,
    PISCLoss,
    PITCLoss,
    StressLoss,
    TaylorLabelLoss,
)
from ase_ws.pairs import edges
from ase_ws.potentials.mace.direct import DirectPotential
from ase_ws.testing import Morse, Toy, tiny_mace
from ase_ws.typing import Prediction

EXPLORE = os.environ.get("HYPOTHESIS_PROFILE") == "explore" and not os.environ.get("CI")
settings.register_profile(
    "reproducible",
    deadline=None,
    derandomize=True,
    # A busy machine must not fail a test.
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("explore", settings.get_profile("reproducible"), derandomize=False)
settings.load_profile("explore" if EXPLORE else "reproducible")


def examples(count):
    return settings(max_examples=10 * count if EXPLORE else count)


EPSILON = 0.2
#: Twice the longest displacement, and a little: what the weak losses need beyond `r_max`.
SKIN = 2 * math.sqrt(3) * EPSILON + 0.01

seeds = st.integers(0, 99)


def reals(low, high):
    return st.integers(0, 99).map(lambda k: low + k / 99 * (high - low))


# --- structures ------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Sample:
    """A structure with all that must move along with it: labels, and two displacements."""

    name: str
    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    energy: float
    forces: np.ndarray
    stress: np.ndarray
    steps: np.ndarray

    def _repr_pretty_(self, printer, cycle):
        printer.text(self.name)

    def __len__(self):
        return len(self.numbers)

    def frame(self, energy=True, forces=True, stress=True):
        return Frame(
            self.numbers,
            self.positions,
            self.cell,
            self.pbc,
            self.energy if energy else None,
            self.forces if forces else None,
            self.stress if stress else None,
        )

    def atoms(self):
        return Atoms(self.numbers, self.positions, cell=self.cell, pbc=self.pbc)


def sample(name, atoms, seed):
    """Random labels, and random displacements within the limits, for any structure."""
    rng, n = np.random.default_rng([seed, len(atoms)]), len(atoms)
    steps = rng.uniform(-EPSILON / 2, EPSILON / 2, (2, n, 3))
    stress = rng.normal(0, 0.1, (3, 3))
    return Sample(
        f"<{name}, seed {seed}>",
        atoms.numbers,
        atoms.positions,
        np.array(atoms.cell),
        atoms.pbc,
        rng.normal(),
        rng.normal(size=(n, 3)),
        stress + stress.T,
        steps - steps.mean(axis=1, keepdims=True),
    )


def ring():
    """Periodic along one direction that is not an axis, without other lattice vectors."""
    atoms = Atoms("COH", [[0.0, 0, 0], [1.1, 0.3, 0.2], [0.4, -0.9, 0.5]])
    atoms.set_cell([[2.3, 0.6, -0.4], [0, 0, 0], [0, 0, 0]])
    atoms.pbc = (True, False, False)
    return atoms


def sheet():
    atoms = graphene("C2", a=2.5, vacuum=4.0)
    atoms.pbc = (True, True, False)
    return atoms


ISOLATED = {name: lambda name=name: molecule(name) for name in ("H2O", "CO2", "CH3OH", "C2H4")} | {
    "H2": lambda: molecule("H2"),
    "lone atom": lambda: Atoms("O", [[0.3, -0.2, 0.1]]),
    "two molecules": lambda: molecule("H2O") + Atoms("CO", [[0, 2.4, 0.1], [0.3, 2.5, 1.2]]),
}
PERIODIC = {
    "diamond": lambda: bulk("C", "diamond", a=3.6),
    "one atom a cell": lambda: bulk("C", "fcc", a=2.9),
    "salt": lambda: bulk("CO", "zincblende", a=3.9),
    "graphene": sheet,
    "wire": ring,
}


def closest(positions, cell, pbc):
    """Shortest distance between any two atoms or images."""
    found = [np.inf]
    for i, j in itertools.combinations_with_replacement(range(len(positions)), 2):
        near = images(positions[j] - positions[i], cell, pbc, 2.0)
        found += [np.linalg.norm(v) for s, v in near if i != j or any(s)]
    return min(found)


def images(vector, cell, pbc, cutoff):
    """Every whole shift that could bring `vector` to within the cutoff, with the vector there."""
    ranges = [range(1)] * 3
    periodic = np.flatnonzero(pbc)
    if len(periodic):
        # |n + f| <= |v| |b| for the reciprocal vector b of each direction (a row of the inverse).
        reciprocal = np.linalg.pinv(cell[periodic]).T
        for k, b in zip(periodic, reciprocal, strict=True):
            reach = cutoff * np.linalg.norm(b)
            ranges[k] = range(math.floor(-vector @ b - reach), math.ceil(-vector @ b + reach) + 1)
    shifts = np.array(list(itertools.product(*ranges)))
    vectors = vector + shifts @ cell
    near = np.linalg.norm(vectors, axis=1) < cutoff
    return list(zip(map(tuple, shifts[near].tolist()), vectors[near], strict=True))


@st.composite
def cells(draw, pbc=None, thinnest=1.4):
    """Any three lattice vectors, left-handed and oblique ones too, and any periodicity."""
    pbc = np.array(draw(st.tuples(*[st.booleans()] * 3)) if pbc is None else pbc)
    rng = np.random.default_rng([draw(seeds), 1])
    cell = rng.normal(size=(3, 3)) * rng.uniform(1.5, 4.0, (3, 1))
    if pbc.any():
        # Neighbouring lattice planes no closer than asked: that bounds the number of images.
        spacing = 1 / np.linalg.norm(np.linalg.pinv(cell[pbc]), axis=0)
        cell[pbc] *= max(1.0, thinnest / spacing.min())
    empty = ~pbc & (rng.random(3) < 0.5)
    cell[empty] = 0.0
    return cell, pbc


@st.composite
def packings(draw, periodic):
    """Random atoms in a random cell that is just wide enough to keep them apart."""
    cell, pbc = draw(cells(None if periodic is None else (periodic,) * 3))
    seed, n = draw(seeds), draw(st.sampled_from([3, 2, 4, 5, 1]))
    rng = np.random.default_rng([seed, 2])
    fractional, free = rng.random((n, 3)), rng.normal(0, 1.2, (n, 3))
    numbers = rng.choice([1, 6, 8], n)
    for _ in range(60):
        positions = fractional @ (cell * pbc[:, None]) + free
        if closest(positions, cell, pbc) > 0.8:
            break
        cell, free = cell * 1.1, free * 1.1
    else:
        raise AssertionError("no room for the atoms")
    name = f"{n} atoms in a random cell, pbc {pbc.astype(int).tolist()}"
    return sample(name, Atoms(numbers, positions, cell=cell, pbc=pbc), seed)


@st.composite
def templates(draw, periodic):
    """A known structure, as it is or distorted."""
    known = {None: ISOLATED | PERIODIC, False: ISOLATED, True: PERIODIC}[periodic]
    name, seed = draw(st.sampled_from(sorted(known))), draw(seeds)
    size = draw(st.sampled_from([0.1, 0.02, 0.0]))
    atoms, rng = known[name](), np.random.default_rng(seed)
    strain = np.eye(3) + rng.normal(0, size / 3, (3, 3))
    atoms.set_cell(np.array(atoms.cell) @ strain, scale_atoms=False)
    atoms.positions = atoms.positions @ strain + rng.normal(0, size, (len(atoms), 3))
    return sample(f"{name}, distorted by {size}", atoms, seed)


def samples(periodic=None):
    """Structures whose atoms keep sensible distances; `periodic` True or False for only such."""
    return st.one_of(templates(periodic), packings(periodic))


def many(most=4, least=1):
    return st.lists(samples(), min_size=least, max_size=most)


# --- what can be done to a structure ---------------------------------------------------------


def permuted(x, rng, **_):
    order = rng.permutation(len(x))
    return replace(
        x,
        numbers=x.numbers[order],
        positions=x.positions[order],
        forces=x.forces[order],
        steps=x.steps[:, order],
    )


def turned(x, rng, handedness, axes_only):
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    if axes_only:
        q = np.eye(3)[rng.permutation(3)] * rng.choice([-1.0, 1.0], 3)
    q *= handedness * np.sign(np.linalg.det(q))
    return replace(
        x,
        positions=x.positions @ q.T,
        cell=x.cell @ q.T,
        forces=x.forces @ q.T,
        stress=q @ x.stress @ q.T,
        steps=x.steps @ q.T,
    )


def translated(x, rng, **_):
    return replace(x, positions=x.positions + rng.normal(0, 10, 3))


def unwrapped(x, rng, **_):
    """Each atom by its own lattice vector."""
    steps = rng.integers(-2, 3, (len(x), 3)) * x.pbc
    return replace(x, positions=x.positions + steps @ x.cell)


OPERATIONS = {
    "permutation": permuted,
    "rotation": lambda x, rng, **how: turned(x, rng, 1.0, **how),
    "reflection": lambda x, rng, **how: turned(x, rng, -1.0, **how),
    "translation": translated,
    "lattice vectors": unwrapped,
}


@st.composite
def operations(draw):
    name, seed = draw(st.sampled_from(sorted(OPERATIONS))), draw(seeds)
    return name, seed


def moved(x, operation, *, axes_only=False):
    """Apply one of the operations; with `axes_only` rotations only exchange the axes."""
    name, seed = operation
    return OPERATIONS[name](x, np.random.default_rng([seed, 3]), axes_only=axes_only)


# --- potentials and losses -------------------------------------------------------------------


class Inconsistent(Toy):
    """Morse energies with forces 1.4 times theirs: as a direct readout, and quick."""

    conservative = False

    def __init__(self):
        super().__init__()
        self.base = Morse()

    def forward(self, batch, *, forces, stress=False, create_graph=False):
        plain = self.base(batch, forces=forces, stress=stress, create_graph=create_graph)
        return plain if plain.forces is None else plain._replace(forces=1.4 * plain.forces)


POTENTIALS = ("mace", "direct", "morse")


@pytest.fixture(scope="module")
def potentials(mace):
    direct = DirectPotential(tiny_mace(seed=3), seed=4)
    other = tiny_mace(seed=5, num_interactions=1, correlation=1)
    return {"mace": mace, "direct": direct, "morse": Morse(), "other": other}


METRICS = ("square", "absolute", "huber")
metrics = st.sampled_from(METRICS)
WEAK = {
    f"{kind.__name__} {order} {'with' if use else 'without'} reference": (
        lambda metric, reference, kind=kind, order=order, use=use: kind(
            EPSILON, order=order, metric=metric, delta=1e-3, reference=reference if use else None
        )
    )
    for kind in (PITCLoss, PISCLoss)
    for order in (1, 2)
    for use in (False, True)
}
LOSSES = {
    "energy": lambda metric, reference: EnergyLoss(metric),
    "forces": lambda metric, reference: ForcesLoss(metric),
    "stress": lambda metric, reference: StressLoss(),
    "Taylor labels": lambda metric, reference: TaylorLabelLoss(EPSILON, metric),
    "noisy nodes": lambda metric, reference: NoisyNodesLoss(EPSILON, metric),
    **WEAK,
}
TOY, TOY_REFERENCE = Inconsistent(), Morse(depth=0.3, a=1.0)


def toy_loss(name, metric):
    return LOSSES[name](metric, TOY_REFERENCE)


@lru_cache(maxsize=50)
def whole(x, cutoff):
    return x.frame().graph(cutoff)


def batched(structures, cutoff):
    return collate([whole(x, cutoff) for x in structures])


def evaluate(potential, structures, extra=0.0):
    batch = batched(structures, potential.r_max + extra)
    return potential(batch, forces=True, stress=True)


@contextmanager
def injected(steps):
    """Make the losses draw these displacements, one after the other."""
    queue = iter(steps)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Displacements, "__call__", lambda self, batch, generator: next(queue))
        yield


def value_in(batch, loss, potential, structures):
    """Loss of a batch of these structures, at their own displacements."""
    steps = torch.from_numpy(np.concatenate([x.steps for x in structures], axis=1))
    stress = isinstance(loss, StressLoss)
    prediction = potential(batch, forces=True, stress=stress, create_graph=True)
    with injected(steps):
        return loss(potential, batch, prediction, generator=torch.Generator())


def value(loss, potential, structures, skin=SKIN):
    return value_in(batched(structures, potential.r_max + skin), loss, potential, structures)


def assert_same_prediction(found: Prediction, expected: Prediction):
    for name, atol in (("energy", 1e-10), ("energies", 1e-10), ("forces", 1e-9), ("stress", 1e-9)):
        torch.testing.assert_close(
            getattr(found, name), getattr(expected, name), rtol=1e-12, atol=atol, msg=name
        )


def assert_same_loss(found, expected):
    # A residual is a small difference of energies: its rounding error is theirs.
    torch.testing.assert_close(found.detach(), expected.detach(), rtol=1e-7, atol=1e-13)


# --- symmetries ------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", POTENTIALS)
@examples(12)
@given(data=st.data(), seed=seeds)
def test_predictions_turn_with_the_structure(potentials, name, operation, data, seed):
    """The prediction for a changed structure is that for the structure, changed likewise."""
    potential = potentials[name]
    x = data.draw(samples(True if operation == "lattice vectors" else None))
    plain = evaluate(potential, [x])
    # The predictions take the place of the labels, and the operation turns them.
    as_labels = replace(
        x, forces=plain.forces.detach().numpy(), stress=plain.stress[0].detach().numpy()
    )
    changed = moved(as_labels, (operation, seed))
    found = evaluate(potential, [changed])
    atol = 1e-9
    torch.testing.assert_close(found.energy, plain.energy, rtol=1e-12, atol=atol)
    torch.testing.assert_close(found.forces, torch.from_numpy(changed.forces), rtol=0, atol=atol)
    torch.testing.assert_close(found.stress[0], torch.from_numpy(changed.stress), rtol=0, atol=atol)


def by_component(loss):
    """Tell whether ρ takes the components of a vector one by one: then it depends on the axes."""
    return isinstance(loss, ForcesLoss) and loss.metric != "square"


@pytest.mark.parametrize("name", ["mace", "morse"])
@examples(15)
@given(x=samples(), seed=seeds)
def test_forces_and_stress_are_slopes_of_the_energy(potentials, name, x, seed):
    """Along a random direction: dE = −Σ F·dr, and dE = V σ:dε where a volume is defined."""
    potential, h = potentials[name], 1e-4
    direction = np.random.default_rng([seed, 7]).normal(size=(len(x), 3))
    strain = x.stress

    def energy(changed):
        return float(evaluate(potential, [changed]).energy.detach())

    def shifted(size):
        return energy(replace(x, positions=x.positions + size * direction))

    def strained(size):
        turn = np.eye(3) + size * strain
        return energy(replace(x, positions=x.positions @ turn, cell=x.cell @ turn))

    plain = evaluate(potential, [x])
    slope = (shifted(h) - shifted(-h)) / (2 * h)
    work = -float((plain.forces * torch.from_numpy(direction)).sum())
    assert slope == pytest.approx(work, rel=1e-5, abs=1e-5)
    volume = abs(np.linalg.det(x.cell)) if x.pbc.any() else 0.0
    slope = (strained(h) - strained(-h)) / (2 * h) if volume else 0.0
    work = volume * float((plain.stress[0] * torch.from_numpy(strain)).sum())
    assert slope == pytest.approx(work, rel=1e-5, abs=1e-5)
    assert volume or not plain.stress.any()


@pytest.mark.parametrize("name", LOSSES)
@examples(16)
@given(
    structures=many(3),
    drawn=st.lists(operations(), min_size=3, max_size=3),
    metric=metrics,
)
def test_losses_do_not_see_how_a_structure_is_given(name, structures, drawn, metric):
    """Each structure of a batch is changed in its own way, its δ and labels with it."""
    loss = toy_loss(name, metric)
    changed = [
        moved(x, operation, axes_only=by_component(loss))
        for x, operation in zip(structures, drawn, strict=False)
    ]
    assert_same_loss(value(loss, TOY, changed), value(loss, TOY, structures))


@examples(15)
@given(data=st.data(), structures=many(3), metric=metrics)
def test_losses_of_a_network_do_not_see_how_the_structures_are_given(
    potentials, data, structures, metric
):
    """Symmetry, skin and batch split at once, on a network with direct forces."""
    loss = LOSSES[data.draw(st.sampled_from(sorted(LOSSES)))](metric, potentials["other"])
    axes_only = by_component(loss)
    changed = [moved(x, data.draw(operations()), axes_only=axes_only) for x in structures]
    split = data.draw(splits(changed))
    expected = value(loss, potentials["direct"], structures)
    skin = SKIN + data.draw(reals(0.0, 0.5))
    parts = [len(part) * value(loss, potentials["direct"], part, skin) for part in split]
    assert_same_loss(torch.stack(parts).sum() / len(structures), expected)


def from_definition(loss, structures):
    """The weak losses as DESIGN defines them, in NumPy, one structure at a time."""
    values = []
    for x in structures:

        def at(step, x=x):
            """Energy and forces of the difference, from a graph of the displaced atoms' own."""
            there = [replace(x, positions=x.positions + step)]
            energy, forces = 0.0, np.zeros(x.positions.shape)
            for sign, potential in ((1, TOY), (-1, loss.reference)):
                if potential is not None:
                    found = evaluate(potential, there)
                    energy += sign * float(found.energy.detach())
                    forces += sign * found.forces.detach().numpy()
            return energy, forces

        first, second = x.steps
        start = second if isinstance(loss, PISCLoss) else np.zeros_like(first)
        (energy, forces), (start_energy, start_forces) = at(first), at(start)
        if loss.order == 1:
            forces = start_forces
        work = ((first - start) * (forces + start_forces) / 2).sum()
        values.append(penalties(loss)(energy - (start_energy - work)) / len(x))
    return np.mean(values)


def penalties(loss):
    """ρ of a residual."""
    metric, delta = getattr(loss, "metric", "square"), getattr(loss, "delta", 0.0)

    def rho(r):
        r = np.abs(r)
        huber = np.where(r <= delta, r**2, delta * (2 * r - delta))
        return {"square": r**2, "absolute": r, "huber": huber}[metric]

    return rho


@pytest.mark.parametrize("name", WEAK)
@examples(8)
@given(structures=many(3))
def test_weak_losses_are_their_definition(name, structures):
    for metric in METRICS:
        loss = toy_loss(name, metric)
        found = float(value(loss, TOY, structures).detach())
        assert found == pytest.approx(from_definition(loss, structures), rel=1e-7, abs=1e-13)


def test_the_losses_under_test_are_not_zero():
    """Else all of the above would hold whatever the losses are."""
    structures = [sample(name, known(), 0) for name, known in (ISOLATED | PERIODIC).items()]
    for name, metric in itertools.product(LOSSES, METRICS):
        loss = toy_loss(name, metric)
        values = [float(value(loss, TOY, [x]).detach()) for x in structures if len(x) > 1]
        # Far above what `assert_same_loss` lets pass (crystals have some tiny ones).
        assert np.median(values) > 1e-6, loss


# --- padding ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", POTENTIALS)
@examples(12)
@given(x=samples(), extra=reals(0.05, 1.5))
def test_a_skin_changes_no_prediction(potentials, name, x, extra):
    potential = potentials[name]
    assert_same_prediction(evaluate(potential, [x], extra), evaluate(potential, [x]))


@pytest.mark.parametrize("name", LOSSES)
@examples(12)
@given(structures=many(2), extra=reals(0.05, 2.0), metric=metrics)
def test_a_skin_changes_no_loss(name, structures, extra, metric):
    loss = toy_loss(name, metric)
    wide, tight = (value(loss, TOY, structures, skin) for skin in (SKIN + extra, SKIN))
    assert_same_loss(wide, tight)


@pytest.mark.parametrize("name", POTENTIALS)
@examples(12)
@given(x=samples(), before=many(2, least=0), after=many(2, least=0))
def test_other_structures_change_nothing(potentials, name, x, before, after):
    potential = potentials[name]
    together = evaluate(potential, [*before, x, *after])
    k, first = len(before), sum(map(len, before))
    mine = slice(first, first + len(x))
    own = Prediction(
        together.energy[k : k + 1],
        together.forces[mine],
        together.stress[k : k + 1],
        together.energies[mine],
    )
    assert_same_prediction(own, evaluate(potential, [x]))


@pytest.mark.parametrize("name", LOSSES)
@examples(12)
@given(structures=many(4, least=2), metric=metrics)
def test_a_loss_is_the_mean_over_structures(name, structures, metric):
    loss = toy_loss(name, metric)
    alone = torch.stack([value(loss, TOY, [x]) for x in structures])
    assert_same_loss(value(loss, TOY, structures), alone.mean())


# --- batch splits ----------------------------------------------------------------------------


def splits(structures):
    """Every way to cut a list of structures, in any order, into batches."""

    def cut(arrangement):
        order, ends = arrangement
        parts = [[]]
        for k, end in zip(order, [*ends, False], strict=True):
            parts[-1].append(structures[k])
            if end:
                parts.append([])
        return parts

    n = len(structures)
    ends = st.lists(st.booleans(), min_size=n - 1, max_size=n - 1)
    return st.tuples(st.permutations(range(n)), ends).map(cut)


@pytest.mark.parametrize("name", POTENTIALS)
@examples(10)
@given(data=st.data(), structures=many(5, least=2))
def test_predictions_do_not_depend_on_the_split(potentials, name, data, structures):
    potential = potentials[name]

    def by_structure(parts):
        out = {}
        for part in parts:
            found = evaluate(potential, part)
            forces = found.forces.split([len(x) for x in part])
            energies = found.energies.split([len(x) for x in part])
            for x, *values in zip(part, found.energy, forces, found.stress, energies, strict=True):
                out[id(x)] = Prediction(*values)
        return out

    expected = by_structure([structures])
    for key, found in by_structure(data.draw(splits(structures))).items():
        assert_same_prediction(found, expected[key])


@pytest.mark.parametrize("name", LOSSES)
@examples(12)
@given(data=st.data(), structures=many(5, least=2), metric=metrics)
def test_losses_do_not_depend_on_the_split(name, data, structures, metric):
    loss, split = toy_loss(name, metric), data.draw(splits(structures))
    parts = [len(part) * value(loss, TOY, part) for part in split]
    together = value(loss, TOY, structures)
    assert_same_loss(torch.stack(parts).sum() / len(structures), together)


# --- displacements ---------------------------------------------------------------------------


@examples(60)
@given(
    structures=many(4),
    epsilon=st.sampled_from([1e-4, 0.01, 0.05, 0.2, 1.0, 10.0]),
    shape=st.sampled_from(["cube", "ball", "gaussian"]),
    cap=st.sampled_from([0.01, 0.1, 0.3, 1.0, 5.0]),
    seed=seeds,
)
def test_displacements_keep_their_limits(structures, epsilon, shape, cap, seed):
    sampler = Displacements(epsilon, shape, cap)
    batch = batched(structures, 4.0)

    def draw(in_batch=batch):
        return sampler(in_batch, torch.Generator().manual_seed(seed))

    step = draw()
    assert step.dtype == torch.float64
    assert step.shape == batch.positions.shape
    assert torch.isfinite(step).all()
    assert sum_by_graph(step, batch).abs().max() < 1e-12 * max(1.0, sampler.longest)
    length = step.norm(dim=1)
    assert length.max() <= sampler.longest * (1 + 1e-12)
    for x, mine in zip(structures, length.split([len(x) for x in structures]), strict=True):
        # The cap by brute force, not from the graph.
        limits = [min(sampler.longest, cap * nearest(x, i)) for i in range(len(x))]
        used = max(size / limit for size, limit in zip(mine.tolist(), limits, strict=True))
        assert used <= 1 + 1e-12
        # A sampler of zeros would pass all of the above, and so would one that scales all down.
        assert len(x) == 1 or used > 0
        if epsilon == 10.0 and cap <= 0.1 and len(x) > 1 and nearest(x, 0) < 4.0:
            assert used == pytest.approx(1.0)
    assert torch.equal(step, draw())
    single = draw(batch.to("cpu", torch.float32))
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), step, rtol=1e-5, atol=1e-6 * sampler.longest)


def nearest(x, i):
    """Distance of an atom to its nearest neighbour or image within the 4 Å of the graph."""
    found = [np.inf]
    for j in range(len(x)):
        near = images(x.positions[j] - x.positions[i], x.cell, x.pbc, 4.0)
        found += [np.linalg.norm(v) for s, v in near if i != j or any(s)]
    return min(found)


@examples(30)
@given(x=samples(), seed=seeds, shape=st.sampled_from(["cube", "ball", "gaussian"]))
def test_displacements_of_different_seeds_differ(x, seed, shape):
    batch = batched([x], 4.0)
    one, other = (
        Displacements(EPSILON, shape)(batch, torch.Generator().manual_seed(k))
        for k in (seed, seed + 1)
    )
    assert len(x) == 1 or not torch.equal(one, other)


# --- graphs ----------------------------------------------------------------------------------


@st.composite
def arrangements(draw):
    """Atoms anywhere, inside and outside of any cell, however close."""
    cell, pbc = draw(cells(thinnest=1.0))
    n, spread, seed = draw(st.integers(1, 6)), draw(st.sampled_from([1.0, 3.0, 12.0])), draw(seeds)
    positions = np.random.default_rng([seed, 4]).normal(0, spread, (n, 3))
    return positions, cell, pbc


def pairs(edge_index, shifts):
    return sorted(
        (*pair, *shift)
        for pair, shift in zip(
            np.asarray(edge_index).T.tolist(), np.asarray(shifts).astype(int).tolist(), strict=True
        )
    )


@examples(60)
@given(arrangement=arrangements(), cutoff=reals(0.5, 4.5))
def test_edges_are_those_of_brute_force(arrangement, cutoff):
    positions, cell, pbc = arrangement
    expected = {}
    for i, j in itertools.product(range(len(positions)), repeat=2):
        for shift, vector in images(positions[j] - positions[i], cell, pbc, cutoff):
            if i != j or any(shift):
                expected[(i, j, *shift)] = vector
    index, shifts = edges(positions, cell, pbc, cutoff)
    found = pairs(index, shifts)
    assert found == sorted(expected)
    assert found == sorted((j, i, -a, -b, -c) for i, j, a, b, c in found)
    one = graph(np.ones(len(positions)), positions, cell, pbc, cutoff=cutoff)
    vectors = edge_vectors(one).numpy()
    order = [(*p, *s) for p, s in zip(index.T.tolist(), shifts.astype(int).tolist(), strict=True)]
    wanted = np.array([expected[key] for key in order]).reshape(-1, 3)
    np.testing.assert_allclose(vectors, wanted, rtol=0, atol=1e-11)


def parts_of(batch):
    """Take a batch apart again, by its `batch` column alone."""
    owner = batch.batch[batch.edge_index[0]]
    for k in range(batch.n_graphs):
        atoms, mine = batch.batch == k, owner == k
        labels = batch.labels
        yield {
            "positions": batch.positions[atoms],
            "numbers": batch.numbers[atoms],
            "edge_index": batch.edge_index[:, mine] - torch.nonzero(atoms)[0],
            "shifts": batch.shifts[mine],
            "cell": batch.cell[k : k + 1],
            "pbc": batch.pbc[k : k + 1],
            "frame_ids": batch.frame_ids[k : k + 1],
            "forces": labels.forces[atoms],
            **{
                name: getattr(labels, name)[k : k + 1]
                for name in ("energy", "has_energy", "has_forces", "stress", "has_stress")
            },
        }


@examples(20)
@given(structures=many(5), nested=st.booleans(), seed=seeds)
def test_collating_loses_nothing(structures, nested, seed):
    rng = np.random.default_rng([seed, 5])
    graphs = [
        x.frame(*rng.random(3) < 0.5).graph(3.0 + rng.random(), frame_id=10 * k + seed)
        for k, x in enumerate(structures)
    ]
    half = len(graphs) // 2
    joined = [collate(graphs[:half]), collate(graphs[half:])] if nested and half else graphs
    batch = collate(joined)
    assert batch.n_graphs == len(graphs)
    assert batch.n_atoms.tolist() == [len(x) for x in structures]
    assert batch.cutoff == min(g.cutoff for g in graphs)
    for original, found in zip(graphs, parts_of(batch), strict=True):
        for name, tensor in found.items():
            expected = getattr(original, name, None)
            expected = getattr(original.labels, name) if expected is None else expected
            torch.testing.assert_close(tensor, expected, rtol=0, atol=0, equal_nan=True, msg=name)


@examples(20)
@given(structures=many(4), seed=seeds, size=reals(0.0, 2.0), cutoff=reals(2.0, 4.5))
def test_rebuilt_edges_are_those_of_a_new_graph(structures, seed, size, cutoff):
    rng = np.random.default_rng([seed, 6])
    steps = [rng.normal(0, size, x.positions.shape) for x in structures]
    away = batched(structures, 3.0).displaced(torch.from_numpy(np.concatenate(steps)))
    found = rebuilt(away, cutoff)
    new = batched(
        [replace(x, positions=x.positions + s) for x, s in zip(structures, steps, strict=True)],
        cutoff,
    )
    assert found.cutoff == new.cutoff
    assert pairs(found.edge_index, found.shifts) == pairs(new.edge_index, new.shifts)
    for name in ("positions", "numbers", "cell", "pbc", "batch"):
        assert torch.equal(getattr(found, name), getattr(new, name)), name
    assert found.labels is away.labels


# --- missing labels --------------------------------------------------------------------------

labelled = st.lists(
    st.tuples(samples(), st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=5
)


def by_hand(kind, loss, chosen):
    """Mean over the structures that have the label, one by one, in NumPy."""
    values, rho = [], penalties(loss)
    for x, *has in chosen:
        plain = evaluate(TOY, [x])
        if kind in ("Taylor labels", "noisy nodes"):
            moved_there = replace(x, positions=x.positions + x.steps[0])
            energy = float(evaluate(TOY, [moved_there]).energy.detach())
            work = (x.steps[0] * x.forces).sum() if kind == "Taylor labels" else 0.0
            if has[0] and (has[1] or kind == "noisy nodes"):
                values.append(rho((energy - (x.energy - work)) / len(x)))
        elif kind == "energy" and has[0]:
            values.append(rho((float(plain.energy.detach()) - x.energy) / len(x)))
        elif kind == "forces" and has[1]:
            values.append(rho(plain.forces.detach().numpy() - x.forces).mean())
        elif kind == "stress" and has[2]:
            values.append(rho(plain.stress[0].detach().numpy() - x.stress).mean())
    return np.mean(values) if values else 0.0


def spoilt(labels, owner, seed):
    """Other numbers than NaN where a label is missing."""
    rubbish, values = torch.Generator().manual_seed(seed), {}
    for name in ("energy", "forces", "stress"):
        tensor, missing = getattr(labels, name).clone(), ~getattr(labels, f"has_{name}")
        missing = missing[owner] if name == "forces" else missing
        assert tensor[missing].isnan().all()
        noise = 1e6 * torch.randn(tensor.shape, generator=rubbish, dtype=tensor.dtype)
        tensor[missing] = noise[missing]
        values[name] = tensor
    return replace(labels, **values)


@pytest.mark.parametrize("name", LOSSES)
@examples(12)
@given(chosen=labelled, seed=seeds, metric=metrics)
def test_missing_labels_never_leak(name, chosen, seed, metric):
    """What stands where there is no label, NaN or any number, changes neither loss nor gradient."""
    loss, structures = toy_loss(name, metric), [x for x, *_ in chosen]
    batch = collate([x.frame(*has).graph(TOY.r_max + SKIN) for x, *has in chosen])

    def found(labels):
        potential = Inconsistent()
        result = value_in(replace(batch, labels=labels), loss, potential, structures)
        gradients = torch.autograd.grad(result, list(potential.parameters()), allow_unused=True)
        return result.detach(), [g for g in gradients if g is not None]

    result, gradients = found(batch.labels)
    other, other_gradients = found(spoilt(batch.labels, batch.batch, seed))
    assert torch.isfinite(result)
    assert torch.equal(result, other)
    for one, two in zip(gradients, other_gradients, strict=True):
        assert torch.isfinite(one).all()
        assert torch.equal(one, two)
    if name in WEAK:
        assert_same_loss(result, value(loss, TOY, structures))
    else:
        assert float(result) == pytest.approx(by_hand(name, loss, chosen), rel=1e-9, abs=1e-13)


KEYS = LabelKeys("REF_energy", "REF_forces", "REF_stress")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("frames")


@examples(20)
@given(chosen=labelled, own_keys=st.booleans(), offset=st.sampled_from([0.0, -17600.0, -1e6]))
def test_labels_survive_extended_xyz(folder, chosen, own_keys, offset):
    written = []
    for x, *has in chosen:
        atoms = x.atoms()
        values = {"energy": x.energy + offset, "forces": x.forces, "stress": x.stress}
        labels = {k: v for (k, v), there in zip(values.items(), has, strict=True) if there}
        if own_keys:
            for key, label in labels.items():
                store = atoms.arrays if key == "forces" else atoms.info
                store[f"REF_{key}"] = label
        else:
            if "stress" in labels:
                labels["stress"] = x.stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
            atoms.calc = SinglePointCalculator(atoms, **labels)
        written.append(atoms)
    write(folder / "frames.xyz", written, format="extxyz")
    frames = read_frames(folder / "frames.xyz", KEYS if own_keys else None)
    for frame, (x, *has) in zip(frames, chosen, strict=True):
        # Eight decimals is what the format keeps of columns.
        assert frame.numbers.tolist() == x.numbers.tolist()
        assert frame.pbc.tolist() == x.pbc.tolist()
        np.testing.assert_allclose(frame.positions, x.positions, rtol=0, atol=6e-9)
        np.testing.assert_allclose(frame.cell, x.cell, rtol=1e-12, atol=1e-12)
        # A molecule has no stress, whatever its file says.
        has[2] = has[2] and bool(x.pbc.any()) and np.linalg.matrix_rank(x.cell) == 3
        assert [v is not None for v in (frame.energy, frame.forces, frame.stress)] == has
        if frame.energy is not None:
            assert frame.energy == pytest.approx(x.energy + offset, rel=1e-15)
        if frame.forces is not None:
            np.testing.assert_allclose(frame.forces, x.forces, rtol=0, atol=6e-9)
        if frame.stress is not None:
            np.testing.assert_allclose(frame.stress, x.stress, rtol=1e-12, atol=1e-12)
        masks = frame.labels()
        assert [bool(m) for m in (masks.has_energy, masks.has_forces, masks.has_stress)] == has
