"""The losses against answers worked out by hand (DESIGN, section 4), in float64."""

import copy
import math

import numpy as np
import pytest
import torch
from ase.build import molecule

from ase_ws.frames import Frame
from ase_ws.graphs import nearest_neighbour_distance, rebuilt, sum_by_graph
from ase_ws.losses import (
    CurlLoss,
    Displacements,
    EnergyLoss,
    ForcesLoss,
    PISCLoss,
    PITCLoss,
    StressLoss,
    TotalLoss,
    WeightedTerm,
)
from ase_ws.losses.copies import evaluate_copies
from ase_ws.losses.reference import less_reference
from ase_ws.losses.residual import path_residual, penalty
from ase_ws.testing import Cubic, Curl, Harmonic, LeakyMorse, Morse
from ase_ws.typing import Labels, LossTerm, Potential

EPSILON = 0.05
CUTOFF = 3.0 + 2 * math.sqrt(3) * 0.2


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def draws(monkeypatch):
    """Make every δ known: `draws.steps` lists what was drawn; one draw per structure alone."""

    class Draws:
        scale = EPSILON

        def reset(self):
            self.steps = []

        def __call__(self, batch, _generator):
            parts = []
            for k in range(batch.n_graphs):
                numbers = batch.numbers[batch.batch == k]
                seed = 1000 * len(self.steps) + int(numbers.sum())
                draw = torch.rand((len(numbers), 3), generator=generator(seed)).double() - 0.5
                parts.append(draw - draw.mean(dim=0))
            self.steps.append(2 * self.scale * torch.cat(parts).to(batch.positions))
            return self.steps[-1]

    stub = Draws()
    stub.reset()
    monkeypatch.setattr(Displacements, "__call__", lambda self, b, g: stub(b, g))
    return stub


def residual(loss, potential, batch):
    prediction = potential(batch, forces=True, create_graph=True)
    copies = loss.copies(potential, batch, prediction, generator())
    moved = evaluate_copies(potential, batch, copies, loss.skin)
    if loss.reference is not None:
        prediction, moved = less_reference(
            loss.reference, batch, prediction, copies, moved, loss.skin
        )
    return loss.residual(batch, prediction, copies, moved)


def value(loss, potential, batch, seed=0):
    needs = loss.needs_forces(batch) or not isinstance(loss, PISCLoss)
    stress = isinstance(loss, StressLoss)
    prediction = potential(batch, forces=needs, stress=stress, create_graph=True)
    return loss(potential, batch, prediction, generator=generator(seed))


def value_of(loss, potential, batch):
    return value(loss, potential, batch).detach()


def dot(a, b, batch):
    return sum_by_graph((a * b).sum(dim=1), batch)


@pytest.fixture
def batch(structures, to_graph):
    return to_graph(structures, CUTOFF)


# --- oracles ---------------------------------------------------------------------------------


def test_pitc_on_a_harmonic_surface(batch, draws):
    k = 2.3
    first = residual(PITCLoss(EPSILON, order=1), Harmonic(k), batch)
    expected = 0.5 * k * dot(draws.steps[0], draws.steps[0], batch)
    torch.testing.assert_close(first, expected, rtol=0, atol=1e-11)
    assert expected[:5].min() > 1e-4
    second = residual(PITCLoss(EPSILON, order=2), Harmonic(k), batch)
    assert second.abs().max() < 1e-11
    near = batch.displaced(-batch.positions + 0.1)
    assert residual(PITCLoss(EPSILON, order=2), Harmonic(k), near).abs().max() < 1e-12


def test_pisc_on_a_harmonic_surface(batch, draws):
    k = 2.3
    first = residual(PISCLoss(EPSILON, order=1), Harmonic(k), batch)
    gap = draws.steps[0] - draws.steps[1]
    torch.testing.assert_close(first, 0.5 * k * dot(gap, gap, batch), rtol=0, atol=1e-11)
    second = residual(PISCLoss(EPSILON, order=2), Harmonic(k), batch)
    assert second.abs().max() < 1e-11


@pytest.mark.parametrize("loss", [PITCLoss, PISCLoss])
@pytest.mark.parametrize(("order", "slope"), [(1, 2.0), (2, 3.0)])
@pytest.mark.parametrize("potential", [Cubic(), Morse()], ids=["cubic", "morse"])
def test_truncation_error_of_a_conservative_potential(
    loss, order, slope, potential, to_graph, draws
):
    names = ("H2O", "NH3", "CH4", "CO2", "CH3OH", "CH3CH2OH", "C2H4", "C2H6")
    batch = to_graph([molecule(name) for name in names], CUTOFF)
    scales = np.array([0.002, 0.004, 0.008])
    sizes = []
    for scale in scales:
        draws.reset()
        draws.scale = scale
        # A single direction may happen to have no curvature: take all structures together.
        sizes.append(float(residual(loss(0.2, order=order), potential, batch).detach().norm()))
    found = np.polyfit(np.log(scales), np.log(np.array(sizes)), 1)[0]
    assert found == pytest.approx(slope, abs=0.1)


def test_both_orders_see_a_curl(batch, draws):
    """F = −∇E + c × r on a harmonic E; the residuals were worked out on paper.

    PITC: δ·(c×r), for the trapezoid as well since δ·(c×δ) = 0.
    PISC: (δ1−δ2)·(c×(r+δ2)) at first order, (δ1−δ2)·(c×r) + δ1·(c×δ2) at second.
    """
    k, c = 1.7, torch.tensor([0.2, -0.1, 0.4], dtype=torch.float64)
    potential = Curl(Harmonic(k), c.tolist())
    r = batch.positions

    def cross(x):
        return torch.linalg.cross(c.expand(1, 3), x)

    for order in (1, 2):
        draws.reset()
        found = residual(PITCLoss(EPSILON, order=order), potential, batch)
        (d,) = draws.steps
        expected = dot(d, cross(r), batch)
        if order == 1:
            expected = expected + 0.5 * k * dot(d, d, batch)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
        assert dot(d, cross(r), batch)[:5].abs().min() > 1e-4

        draws.reset()
        found = residual(PISCLoss(EPSILON, order=order), potential, batch)
        a, b = draws.steps
        if order == 1:
            expected = dot(a - b, cross(r + b), batch) + 0.5 * k * dot(a - b, a - b, batch)
        else:
            expected = dot(a - b, cross(r), batch) + dot(a, cross(b), batch)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


def test_the_curl_loss_sees_a_curl_and_nothing_else(batch, draws):
    """R = 2 Σ u·(c×v) for F = c × r on top of a harmonic surface; zero without it."""
    c = torch.tensor([0.2, -0.1, 0.4], dtype=torch.float64)
    found = residual(CurlLoss(EPSILON), Curl(Harmonic(1.7), c.tolist()), batch)
    u, v = draws.steps
    expected = 2 * dot(u, torch.linalg.cross(c.expand(1, 3), v), batch)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
    assert expected[:5].abs().min() > 1e-6
    assert residual(CurlLoss(EPSILON), Harmonic(1.7), batch).abs().max() < 1e-12
    assert residual(CurlLoss(EPSILON), Cubic(), batch).abs().max() < 1e-12


@pytest.mark.parametrize("loss", [PITCLoss, PISCLoss])
@pytest.mark.parametrize("order", [1, 2])
def test_reference_equal_to_the_potential_gives_zero(loss, order, batch):
    potential = Curl(Morse())
    term = loss(EPSILON, order=order, reference=potential)
    assert residual(term, potential, batch).abs().max() == 0.0
    assert value(term, potential, batch) == 0.0


@pytest.mark.parametrize("loss", [PITCLoss, PISCLoss])
@pytest.mark.parametrize("order", [1, 2])
def test_residual_of_a_difference_is_the_difference_of_residuals(loss, order, batch, draws):
    one, other = Cubic(1.0, 0.3), Morse()

    def found(potential, reference=None):
        draws.reset()
        return residual(loss(EPSILON, order=order, reference=reference), potential, batch)

    torch.testing.assert_close(found(one, other), found(one) - found(other), rtol=1e-9, atol=1e-12)


def test_the_reference_gets_no_gradient(batch):
    one, other = Harmonic(1.0), Harmonic(2.0)
    value(PITCLoss(EPSILON, reference=other), one, batch).backward()
    assert one.k.grad is not None
    assert other.k.grad is None


def test_the_loss_is_the_mean_over_structures_of_the_penalty_per_atom(batch):
    potential = Curl(Morse())
    for loss in (PITCLoss(EPSILON), PISCLoss(EPSILON, metric="huber", delta=1e-4)):
        r = residual(loss, potential, batch)
        rho = penalty(r, loss.metric, loss.delta)
        assert rho.max() > 0
        expected = (rho / batch.n_atoms).mean()
        torch.testing.assert_close(value(loss, potential, batch), expected, rtol=1e-12, atol=0)


def test_path_residual_needs_forces(batch):
    potential = Morse()
    bare = potential(batch, forces=False)
    with pytest.raises(ValueError, match=r"needs? .*forces"):
        path_residual(bare, bare, torch.zeros_like(batch.positions), batch, 1)


# --- batch = singles -------------------------------------------------------------------------


def random_labels(atoms, seed):
    rng = np.random.default_rng(seed)
    n = len(atoms)
    return Frame(
        atoms.numbers,
        atoms.positions,
        np.array(atoms.cell),
        atoms.pbc,
        float(rng.normal()),
        rng.normal(size=(n, 3)),
        rng.normal(size=(3, 3)),
    ).labels()


@pytest.fixture(scope="module")
def networks(mace):
    from ase_ws.testing import tiny_mace

    potential = copy.deepcopy(mace)
    potential.e0.zero_()
    return potential, tiny_mace(seed=5)


ALL_LOSSES = {
    "energy": lambda ref: EnergyLoss(),
    "energy huber": lambda ref: EnergyLoss("huber"),
    "forces": lambda ref: ForcesLoss(),
    "forces absolute": lambda ref: ForcesLoss("absolute"),
    "stress": lambda ref: StressLoss(),
    **{
        f"{kind.__name__} {order} {'with' if use else 'without'} reference": (
            lambda ref, kind=kind, order=order, use=use: kind(
                EPSILON, order=order, reference=ref if use else None
            )
        )
        for kind in (PITCLoss, PISCLoss)
        for order in (1, 2)
        for use in (False, True)
    },
}


@pytest.mark.parametrize("name", ALL_LOSSES)
def test_a_batch_is_the_mean_of_each_structure_alone(name, structures, to_graph, draws, networks):
    potential, reference = networks
    loss = ALL_LOSSES[name](reference)
    cutoff = potential.r_max + 2 * math.sqrt(3) * EPSILON
    labels = [random_labels(a, k) for k, a in enumerate(structures)]

    def one(batch):
        draws.reset()
        return float(value_of(loss, potential, batch).detach())

    together = one(to_graph(structures, cutoff, labels))
    alone = [
        one(to_graph([a], cutoff, [label])) for a, label in zip(structures, labels, strict=True)
    ]
    assert together == pytest.approx(np.mean(alone), rel=1e-10)
    assert np.ptp(alone) > 0


def test_mixed_labels_average_over_the_labelled_structures(structures, to_graph):
    potential = Morse()
    labels = [random_labels(a, k) for k, a in enumerate(structures)]
    some = [
        copy.copy(label)
        if k % 2
        else Labels(**{**vars(label), "has_forces": torch.tensor([False])})
        for k, label in enumerate(labels)
    ]
    loss = ForcesLoss()
    together = value(loss, potential, to_graph(structures, CUTOFF, some))
    alone = [
        value(loss, potential, to_graph([structures[k]], CUTOFF, [labels[k]])) for k in (1, 3, 5)
    ]
    torch.testing.assert_close(together, torch.stack(alone).mean(), rtol=1e-10, atol=0)


# --- supervised ------------------------------------------------------------------------------


def test_supervised_losses_by_hand(to_graph):
    atoms = molecule("H2O")
    k = 2.0
    potential = Harmonic(k)
    truth = potential(to_graph(atoms, CUTOFF), forces=True)
    labels = Labels(
        energy=truth.energy.detach() + 0.3,
        has_energy=torch.tensor([True]),
        forces=truth.forces.detach() + torch.tensor([0.1, 0.0, -0.2]),
        has_forces=torch.tensor([True]),
        stress=torch.full((1, 3, 3), 0.5, dtype=torch.float64),
        has_stress=torch.tensor([True]),
    )
    batch = to_graph([atoms], CUTOFF, [labels])
    assert float(value_of(EnergyLoss(), potential, batch)) == pytest.approx(0.01)
    assert float(value_of(EnergyLoss("absolute"), potential, batch)) == pytest.approx(0.1)
    assert float(value_of(ForcesLoss(), potential, batch)) == pytest.approx((0.01 + 0.04) / 3)
    # Without periodicity the stress is zero: (1/9) Σ 0.25.
    assert float(value_of(StressLoss(), potential, batch)) == pytest.approx(0.25)


def test_nan_in_a_structure_without_a_label_changes_nothing(to_graph):
    structures = [molecule("H2O"), molecule("CH3OH")]
    both = [random_labels(a, k) for k, a in enumerate(structures)]
    nothing = Frame(
        structures[1].numbers, structures[1].positions, np.zeros((3, 3)), np.zeros(3, bool)
    ).labels()
    alone = to_graph(structures[:1], CUTOFF, both[:1])
    mixed = to_graph(structures, CUTOFF, [both[0], nothing])
    for loss in (EnergyLoss(), ForcesLoss(), StressLoss(), ForcesLoss("huber")):
        potential = Morse()
        expected = value(loss, potential, alone)
        expected.backward() if expected.requires_grad else None
        wanted = potential.depth.grad
        potential = Morse()
        found = value(loss, potential, mixed)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
        found.backward() if found.requires_grad else None
        if wanted is not None:
            torch.testing.assert_close(potential.depth.grad, wanted, rtol=1e-10, atol=0)


def test_nothing_labelled_is_zero_and_not_nan(to_graph):
    atoms = molecule("H2O")
    bare = Frame(atoms.numbers, atoms.positions, np.zeros((3, 3)), np.zeros(3, bool)).labels()
    batch = to_graph([atoms], CUTOFF, [bare])
    for loss in (EnergyLoss(), ForcesLoss(), StressLoss()):
        assert float(value_of(loss, Morse(), batch)) == 0.0
    assert not ForcesLoss().needs_forces(batch)


def test_supervised_losses_need_labels(batch):
    for loss in (EnergyLoss(), ForcesLoss(), StressLoss()):
        with pytest.raises(ValueError, match="labels"):
            loss(Morse(), batch, Morse()(batch, forces=True), generator=generator())


# --- metrics ---------------------------------------------------------------------------------


def test_penalties():
    r = torch.tensor([-3.0, -0.5, 0.0, 0.2, 2.0], dtype=torch.float64, requires_grad=True)
    assert penalty(r, "square", 1.0).tolist() == pytest.approx([9, 0.25, 0, 0.04, 4])
    assert penalty(r, "absolute", 1.0).tolist() == pytest.approx([3, 0.5, 0, 0.2, 2])
    assert penalty(r, "huber", 0.5).tolist() == pytest.approx([2.75, 0.25, 0, 0.04, 1.75])
    assert torch.autograd.gradcheck(lambda x: penalty(x, "huber", 0.4), r)


@pytest.mark.parametrize(
    "wrong", [{"metric": "mse"}, {"shape": "sphere"}, {"order": 3}, {"epsilon": 0.0}], ids=str
)
def test_unknown_choices_are_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}"):
        PITCLoss(**{"epsilon": 0.1, **wrong})


# --- gradients -------------------------------------------------------------------------------


class Bound:
    """A potential as a function of its parameters."""

    def __init__(self, module, names, values):
        self.module, self.parameters = module, dict(zip(names, values, strict=True))
        for name in ("r_max", "atomic_numbers", "conservative", "skin_safe"):
            setattr(self, name, getattr(module, name))

    def __call__(self, batch, **kwargs):
        return torch.func.functional_call(self.module, self.parameters, (batch,), kwargs)


@pytest.mark.parametrize("kind", [PITCLoss, PISCLoss])
@pytest.mark.parametrize("order", [1, 2])
def test_gradients_flow_through_both_sides(kind, order, to_graph):
    batch = to_graph([molecule("H2O"), molecule("CH3OH")], CUTOFF)
    module = Curl(Morse())
    names = [name for name, _ in module.named_parameters()]
    start = [p.detach().clone().requires_grad_() for p in module.parameters()]
    loss = kind(0.1, order=order, reference=Cubic())

    def total(*values):
        return 1e3 * value(loss, Bound(module, names, values), batch)

    assert torch.autograd.gradcheck(total, start)
    gradients = torch.autograd.grad(total(*start), start)
    assert all(g.abs() > 0 for g in gradients)


@pytest.mark.parametrize("order", [1, 2])
def test_detached_target_lets_the_gradient_through_one_side_only(order, to_graph, draws):
    batch = to_graph(molecule("H2O"), CUTOFF)
    loss = PITCLoss(EPSILON, order=order, detach_target=True)
    potential = Curl(Harmonic(1.3))
    value(loss, potential, batch).backward()
    (step,) = draws.steps
    draws.reset()
    r = residual(loss, potential, batch).detach()
    with torch.no_grad():
        moved = batch.positions + step
        # d/dk of E(r+δ), and of ½ δ·F(r+δ) at second order.
        slope = 0.5 * moved.square().sum()
        if order == 2:
            slope = slope - 0.5 * (step * moved).sum()
    expected = 2 * r[0] * slope / len(moved)
    torch.testing.assert_close(potential.base.k.grad, expected, rtol=1e-10, atol=0)


# --- displacements ---------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["cube", "ball", "gaussian"])
def test_displacements(shape, batch):
    sampler = Displacements(0.2, shape)
    largest = 0.0
    for seed in range(50):
        step = sampler(batch, generator(seed))
        assert step.dtype == batch.positions.dtype
        assert sum_by_graph(step, batch).abs().max() < 1e-12
        length = step.norm(dim=1)
        assert length.max() <= sampler.longest * (1 + 1e-12)
        assert (length <= 0.3 * nearest_neighbour_distance(batch) * (1 + 1e-12)).all()
        assert length[-1] == 0.0  # a lone atom has nowhere to go
        largest = max(largest, float(length.max()))
    assert largest > 0.1
    same, again = sampler(batch, generator(7)), sampler(batch, generator(7))
    assert torch.equal(same, again)
    assert not torch.equal(same, sampler(batch, generator(8)))


def test_displacements_have_the_asked_scale(to_graph):
    """Far below the cap a cube's components are uniform in ±ε, less the mean."""
    batch = to_graph([molecule("C6H6")] * 40, 3.0)
    step = Displacements(0.02, "cube")(batch, generator())
    n = 12
    assert float(step.std()) == pytest.approx(0.02 / math.sqrt(3) * math.sqrt(1 - 1 / n), rel=0.05)
    gaussian = Displacements(0.02, "gaussian")(batch, generator())
    assert float(gaussian.std()) == pytest.approx(0.02 * math.sqrt(1 - 1 / n), rel=0.1)


def test_displacements_are_the_same_in_both_precisions(batch):
    sampler = Displacements(0.1)
    single = sampler(batch.to("cpu", torch.float32), generator(3))
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), sampler(batch, generator(3)), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("nan")])
def test_epsilon_must_be_positive(epsilon):
    with pytest.raises(ValueError, match="positive"):
        Displacements(epsilon)


# --- skin ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["morse", "mace"])
def test_kept_edges_are_as_good_as_new_ones(name, structures, to_graph, mace):
    potential = Morse() if name == "morse" else mace
    sampler = Displacements(0.15)
    batch = to_graph(structures, potential.r_max + 2 * sampler.longest)
    moved = batch.displaced(sampler(batch, generator(1)))
    kept = potential(moved, forces=True)
    new = potential(rebuilt(moved, potential.r_max), forces=True)
    torch.testing.assert_close(kept.energy, new.energy, rtol=1e-14, atol=1e-12)
    torch.testing.assert_close(kept.forces, new.forces, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [PITCLoss, PISCLoss])
def test_edges_that_do_not_reach_far_enough_are_refused(kind, to_graph):
    batch = to_graph(molecule("H2O"), 3.1)
    assert kind(0.2).skin == pytest.approx(0.4 * math.sqrt(3))
    with pytest.raises(ValueError, match=r"3\.100 Å.*3\.693 Å"):
        value(kind(0.2), Morse(), batch)


@pytest.mark.parametrize("kind", [PITCLoss, PISCLoss])
def test_leaking_potentials_get_new_lists(kind, structures, to_graph, draws):
    """Without a skin-safe cutoff the displaced copies are the graphs a user would build."""
    leaky, draws.scale = LeakyMorse(), 0.3
    batch = to_graph(structures, leaky.r_max)
    found = residual(kind(0.3), leaky, batch)
    steps = draws.steps

    def at(step):
        atoms = [a.copy() for a in structures]
        for a, part in zip(atoms, torch.split(step, [len(a) for a in atoms]), strict=True):
            a.positions += part.numpy()
        return leaky(to_graph(atoms, leaky.r_max), forces=True)

    zero = torch.zeros_like(batch.positions)
    end, start = (steps[0], zero) if kind is PITCLoss else steps
    expected = path_residual(at(end), at(start), end - start, batch, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


# --- total -----------------------------------------------------------------------------------


def test_total_is_the_weighted_sum_never_renormalised(structures, to_graph):
    labels = [random_labels(a, k) for k, a in enumerate(structures)]
    batch = to_graph(structures, CUTOFF, labels)
    potential = Curl(Morse())
    terms = {"energy": (3.0, EnergyLoss()), "pitc": (50.0, PITCLoss(EPSILON))}
    found = TotalLoss([WeightedTerm(n, w, loss) for n, (w, loss) in terms.items()])(
        potential, batch, generator=generator()
    )
    for name, (weight, loss) in terms.items():
        expected = value(loss, potential, batch)
        torch.testing.assert_close(found.raw[name], expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(found.weighted[name], weight * expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.total, sum(found.weighted.values()))


@pytest.mark.parametrize(
    ("weights", "calls"),
    [
        ({"energy": 1.0}, [(False, False)]),
        ({"energy": 1.0, "forces": 1.0}, [(True, False)]),
        ({"energy": 1.0, "stress": 1.0}, [(False, True)]),
        ({"energy": 1.0, "pitc": 1.0}, [(True, False), (False, False)]),
        ({"energy": 1.0, "pitc2": 1.0}, [(True, False), (True, False)]),
        ({"energy": 1.0, "pisc": 1.0}, [(False, False), (False, False), (True, False)]),
        # The copies of both losses go together: two calls besides the one at r, not three.
        (
            {"energy": 1.0, "pitc": 1.0, "pisc": 1.0},
            [(True, False), (False, False), (True, False)],
        ),
        ({"energy": 1.0, "pitc2": 1.0, "pisc2": 1.0}, [(True, False), (True, False)]),
    ],
)
def test_a_term_of_zero_weight_costs_nothing(weights, calls, structures, to_graph):
    losses = {
        "energy": EnergyLoss(),
        "forces": ForcesLoss(),
        "stress": StressLoss(),
        "pitc": PITCLoss(EPSILON),
        "pitc2": PITCLoss(EPSILON, order=2),
        "pisc": PISCLoss(EPSILON),
        "pisc2": PISCLoss(EPSILON, order=2),
    }
    total = TotalLoss([WeightedTerm(n, weights.get(n, 0.0), loss) for n, loss in losses.items()])
    labels = [random_labels(a, k) for k, a in enumerate(structures)]
    potential = Morse()
    found = total(potential, to_graph(structures, CUTOFF, labels), generator=generator())
    assert potential.calls == calls
    assert set(found.raw) == set(weights)


def test_forces_are_not_computed_where_no_label_wants_them(structures, to_graph):
    labels = [
        Labels(**{**vars(random_labels(a, k)), "has_forces": torch.tensor([False])})
        for k, a in enumerate(structures)
    ]
    total = TotalLoss(
        [WeightedTerm("energy", 1.0, EnergyLoss()), WeightedTerm("forces", 1.0, ForcesLoss())]
    )
    potential = Morse()
    total(potential, to_graph(structures, CUTOFF, labels), generator=generator())
    assert potential.calls == [(False, False)]


def test_no_weight_at_all_is_refused():
    with pytest.raises(ValueError, match="zero"):
        TotalLoss([WeightedTerm("energy", 0.0, EnergyLoss())])


def test_the_skin_is_the_largest_any_term_needs():
    total = TotalLoss(
        [
            WeightedTerm("energy", 1.0, EnergyLoss()),
            WeightedTerm("pitc", 1.0, PITCLoss(0.1)),
            WeightedTerm("pisc", 1.0, PISCLoss(0.2, shape="ball")),
            WeightedTerm("off", 0.0, PITCLoss(5.0)),
        ]
    )
    assert total.skin == pytest.approx(0.4)
    assert TotalLoss([WeightedTerm("energy", 1.0, EnergyLoss())]).skin == 0.0


def test_mixed_precision_terms_add_up(structures, to_graph):
    """Energies are float64, forces of a float32 network are not."""
    labels = [random_labels(a, k) for k, a in enumerate(structures)]
    batch = to_graph(structures, CUTOFF, labels).to("cpu", torch.float32)
    total = TotalLoss(
        [
            WeightedTerm("energy", 1.0, EnergyLoss()),
            WeightedTerm("forces", 1.0, ForcesLoss()),
            WeightedTerm("pitc", 1.0, PITCLoss(EPSILON)),
        ]
    )
    assert torch.isfinite(total(Morse().float(), batch, generator=generator()).total)


def test_toys_and_losses_satisfy_the_contracts(batch):
    def takes_potential(potential: Potential) -> None:
        assert isinstance(potential, Potential)

    def takes_term(term: LossTerm) -> None:
        assert callable(term)

    for potential in (Harmonic(), Cubic(), Morse(), Curl(Morse())):
        takes_potential(potential)
        before = copy.deepcopy(batch)
        potential(batch, forces=True, stress=True)
        for name in ("positions", "cell", "shifts"):
            assert torch.equal(getattr(batch, name), getattr(before, name))
            assert not getattr(batch, name).requires_grad
    for term in (EnergyLoss(), PITCLoss(0.1), PISCLoss(0.1)):
        takes_term(term)


@pytest.mark.parametrize("kind", [PITCLoss, PISCLoss])
def test_a_reference_with_a_longer_reach_is_not_cut_short(kind, to_graph):
    """Either the edges reach far enough for both potentials, or the batch is refused."""
    potential, reference = Morse(r_max=2.0), Morse(r_max=4.0)
    batch = to_graph(molecule("CH3CH2OH"), 2.0 + kind(EPSILON).skin)
    with pytest.raises(ValueError, match="edges reach"):
        value(kind(EPSILON, reference=reference), potential, batch)
