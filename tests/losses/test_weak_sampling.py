"""Displaced copies: joined evaluation, pools, the reference's memory, schedules, adversarial δ."""

import math

import numpy as np
import pytest
import torch

from ase_ws.graphs import sum_by_graph
from ase_ws.losses import (
    Displacements,
    EnergyLoss,
    ForcesLoss,
    GradientLoss,
    NoisyNodesLoss,
    PISCLoss,
    PITCLoss,
    Reference,
    TaylorLabelLoss,
    TotalLoss,
    WeightedTerm,
)
from ase_ws.losses import consistency as consistency_module
from ase_ws.losses import copies as copies_module
from ase_ws.losses import evaluation as joined_module
from ase_ws.losses.adversarial import adversarial_direction
from ase_ws.losses.copies import Copy, evaluate_copies
from ase_ws.testing import Curl, Harmonic, LeakyMorse, Morse
from ase_ws.typing import Labels

EPSILON = 0.05
CUTOFF = 3.0 + 2 * math.sqrt(3) * 0.2


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def labels_of(atoms, seed, forces=True, energy=True):
    rng = np.random.default_rng(seed)
    n = len(atoms)
    return Labels(
        energy=torch.tensor([rng.normal() if energy else np.nan], dtype=torch.float64),
        has_energy=torch.tensor([energy]),
        forces=torch.from_numpy(rng.normal(size=(n, 3)) if forces else np.full((n, 3), np.nan)),
        has_forces=torch.tensor([forces]),
        stress=torch.full((1, 3, 3), torch.nan, dtype=torch.float64),
        has_stress=torch.tensor([False]),
    )


@pytest.fixture
def batch(structures, to_graph):
    return to_graph(structures, CUTOFF)


def known(batch, first=0):
    """The batch with frame ids, as the training loader gives it."""
    from dataclasses import replace

    return replace(batch, frame_ids=torch.arange(first, first + batch.n_graphs))


# --- joined copies ---------------------------------------------------------------------------


@pytest.mark.parametrize("potential", [Curl(Morse()), LeakyMorse()], ids=["curl", "leaky"])
def test_joined_copies_equal_copies_one_at_a_time(potential, batch, monkeypatch):
    sampler = Displacements(EPSILON)
    copies = [Copy(sampler(batch, generator(k)), forces=k % 2 == 0) for k in range(5)]
    joined = evaluate_copies(potential, batch, copies, 2 * sampler.longest)
    calls = len(potential.calls)
    assert calls == 2
    monkeypatch.setattr(copies_module, "JOINED_ATOMS", 1)
    alone = evaluate_copies(potential, batch, copies, 2 * sampler.longest)
    assert len(potential.calls) == calls + len(copies)
    for a, b, copy in zip(joined, alone, copies, strict=True):
        torch.testing.assert_close(a.energy, b.energy, rtol=1e-12, atol=1e-12)
        assert (a.forces is not None) is copy.forces
        if a.forces is not None:
            torch.testing.assert_close(a.forces, b.forces, rtol=1e-12, atol=1e-12)
    assert (joined[0].energy - joined[1].energy).abs().max() > 1e-4


@pytest.mark.parametrize("with_reference", [False, True])
@pytest.mark.parametrize("kind", ["curl", "direct"])
def test_large_batches_give_the_same_gradients(
    kind, with_reference, structures, to_graph, direct_mace, monkeypatch
):
    """Beyond the limit each loss takes its gradients at once; the result must not change."""
    potential = Curl(Morse()) if kind == "curl" else direct_mace
    reference = Morse(depth=0.4) if with_reference else None
    labels = [labels_of(a, k) for k, a in enumerate(structures)]
    cutoff = potential.r_max + 2 * math.sqrt(3) * EPSILON
    batch = to_graph(structures, cutoff, labels)
    total = TotalLoss(
        [
            WeightedTerm("energy", 1.0, EnergyLoss()),
            WeightedTerm("forces", 1.0, ForcesLoss()),
            WeightedTerm("pitc", 3.0, PITCLoss(EPSILON, order=2, reference=reference)),
            WeightedTerm("pisc", 5.0, PISCLoss(EPSILON, order=1, reference=reference)),
            WeightedTerm("gradient", 2.0, GradientLoss(EPSILON)),
            WeightedTerm("at labels", 2.0, GradientLoss(EPSILON, at_labels=0.7)),
        ]
    )
    found = {}
    for limit in (2000, 30, 10):
        monkeypatch.setattr(joined_module, "JOINED_ATOMS", limit)
        for module in (joined_module, consistency_module):
            monkeypatch.setattr(module, "PIECE_ATOMS", limit)
        potential.zero_grad()
        value = total(potential, batch, generator=generator())
        value.total.backward()
        found[limit] = (
            value,
            [p.grad.clone() for p in potential.parameters() if p.grad is not None],
        )
    whole = found.pop(2000)
    for value, gradients in found.values():
        for a, b in zip(whole[0].raw.values(), value.raw.values(), strict=True):
            torch.testing.assert_close(a.detach(), b.detach(), rtol=1e-8, atol=0)
        assert len(whole[1]) == len(gradients) > 1
        for a, b in zip(whole[1], gradients, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_copies_do_not_carry_labels(structures, to_graph):
    class Looks(Morse):
        def forward(self, batch, **kwargs):
            assert batch.labels is None
            return super().forward(batch, **kwargs)

    batch = to_graph(structures, CUTOFF, [labels_of(a, 0) for a in structures])
    copy = Copy(torch.zeros_like(batch.positions), forces=False)
    evaluate_copies(Looks(), batch, [copy], 0.0)


# --- gradients -------------------------------------------------------------------------------


class _With:
    """A potential with some of its weights replaced by given tensors."""

    def __init__(self, module, weights):
        self.module, self.weights = module, weights

    def __getattr__(self, name):
        return getattr(self.module, name)

    def __call__(self, batch, **kwargs):
        return torch.func.functional_call(self.module, self.weights, (batch,), kwargs)


LOSSES = [
    PITCLoss(EPSILON),
    PITCLoss(EPSILON, order=2),
    PISCLoss(EPSILON),
    PISCLoss(EPSILON, order=2),
    PITCLoss(EPSILON, metric="huber", delta=1e-3),
    PISCLoss(EPSILON, reference=Morse(depth=0.4)),
    # Not the adversarial ones: their δ follows the weights, and no gradient flows through δ.
]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda x: f"{type(x).__name__}{x.order}{x.metric}")
@pytest.mark.parametrize("kind", ["morse", "curl", "mace", "direct"])
def test_gradients_with_respect_to_the_weights(loss, kind, to_graph, mace, direct_mace):
    """torch's own check of analytic against numerical gradients, in float64."""
    from ase.build import molecule

    potential = {"morse": Morse(), "curl": Curl(Morse()), "mace": mace, "direct": direct_mace}[kind]
    if kind in ("mace", "direct") and loss.reference is not None:
        pytest.skip("the reference is a toy of another cutoff")
    batch = to_graph([molecule("H2O"), molecule("CO2")], potential.r_max + loss.skin)
    names = {
        "morse": ["depth", "a"],
        "curl": ["base.depth", "base.a"],
        "mace": ["network.readouts.0.linear.weight"],
        "direct": ["body.network.readouts.0.linear.weight", "readout.gates.2.bias"],
    }[kind]
    named = dict(potential.named_parameters())
    weights = [named[n].detach().clone().requires_grad_() for n in names]

    def value(*tensors):
        live = _With(potential, dict(zip(names, tensors, strict=True)))
        needs = loss.needs_forces(batch)
        prediction = live(batch, forces=needs, create_graph=needs)
        return loss(live, batch, prediction, generator=generator())

    size = value(*weights).item()
    assert size > 1e-12
    # In units of the loss itself, which may be 1e-11 eV² and would drown in any tolerance. The
    # networks are linear in these weights, so that a wide difference is exact for their squares
    # and keeps the rounding of thousands of eV out.
    eps = 1e-2 if kind in ("mace", "direct") else 1e-5
    torch.autograd.gradcheck(
        lambda *tensors: value(*tensors) / size, weights, eps=eps, atol=1e-4, rtol=1e-4
    )


# --- the pool and the reference's memory ------------------------------------------------------


def test_a_pool_is_the_same_whoever_else_is_in_the_batch(structures, to_graph):
    sampler = Displacements(EPSILON, pool=1, seed=3)
    together = sampler.copy(
        known(to_graph(structures, CUTOFF)), generator(), forces=True
    ).displacement
    for k, atoms in enumerate(structures):
        alone = sampler.copy(known(to_graph(atoms, CUTOFF), first=k), generator(9), forces=True)
        start = sum(len(a) for a in structures[:k])
        torch.testing.assert_close(together[start : start + len(atoms)], alone.displacement)


def test_a_pool_has_its_size_and_its_seed(to_graph, structures):
    batch = known(to_graph(structures[0], CUTOFF))
    draws = {}
    for seed in (0, 1):
        sampler = Displacements(EPSILON, pool=4, seed=seed)
        copies = [sampler.copy(batch, generator(k), forces=True) for k in range(40)]
        draws[seed] = {c.keys: c.displacement for c in copies}
        assert len(draws[seed]) == 4
        assert all(torch.equal(c.displacement, draws[seed][c.keys]) for c in copies)
    firsts = [next(iter(d.values())) for d in draws.values()]
    assert not torch.equal(*firsts)
    other = Displacements(EPSILON, pool=4).copy(known(batch, first=7), generator(), forces=True)
    assert all(not torch.equal(other.displacement, d) for d in draws[0].values())


def test_without_frame_ids_there_is_no_pool(batch):
    sampler = Displacements(EPSILON, pool=1)
    a, b = (sampler.copy(batch, generator(k), forces=True) for k in (0, 1))
    assert a.keys is None
    assert not torch.equal(a.displacement, b.displacement)


@pytest.mark.parametrize("kind", [PITCLoss, PISCLoss])
@pytest.mark.parametrize("order", [1, 2])
def test_what_the_reference_said_is_kept_and_right(kind, order, batch):
    base = Morse(depth=0.4)
    mine = known(batch)
    kept = kind(EPSILON, order=order, reference=Reference(base), pool=3)
    plain = kind(EPSILON, order=order, reference=Morse(depth=0.4), pool=3)
    potential = Curl(Morse())
    prediction = potential(mine, forces=True)
    for k in range(30):
        values = [
            loss(potential, mine, prediction, generator=generator(k)) for loss in (kept, plain)
        ]
        torch.testing.assert_close(*values, rtol=1e-12, atol=1e-15)
    n_before = len(base.calls)
    for k in range(30, 60):
        kept(potential, mine, prediction, generator=generator(k))
    # A combination of pool entries is only unknown if one of its entries is.
    assert len(base.calls) == n_before
    assert n_before < 30


def test_both_losses_share_one_call_of_the_reference(batch):
    base = Morse(depth=0.4)
    reference = Reference(base)
    total = TotalLoss(
        [
            WeightedTerm("pitc", 1.0, PITCLoss(EPSILON, order=2, reference=reference)),
            WeightedTerm("pisc", 1.0, PISCLoss(EPSILON, order=2, reference=reference)),
        ]
    )
    total(Curl(Morse()), batch, generator=generator())
    assert base.calls == [(True, False)]


def test_the_reference_keeps_forces_when_energies_are_wanted_again(batch):
    reference, skin = Reference(Morse()), 0.5
    mine = known(batch)
    here = torch.zeros_like(mine.positions)
    old = tuple(("frame", k) for k in range(mine.n_graphs))
    with_forces = Copy(here, forces=True, keys=old)
    (before,) = reference(mine, [with_forces], skin)
    # An energy-only copy of which one structure is new, and the known one beside it.
    partly_new = Copy(here, forces=False, keys=(*old[:-1], ("frame", "new")))
    energies, again = reference(mine, [partly_new, with_forces], skin)
    torch.testing.assert_close(energies.energy, before.energy, rtol=0, atol=0)
    torch.testing.assert_close(again.forces, before.forces, rtol=0, atol=0)


def test_pisc_alone_does_not_ask_the_reference_about_r(batch):
    class Counts(Morse):
        def atomic_energies(self, batch):
            self.n_graphs = batch.n_graphs
            return super().atomic_energies(batch)

    base = Counts(depth=0.4)
    loss = PISCLoss(EPSILON, order=2, reference=base)
    TotalLoss([WeightedTerm("pisc", 1.0, loss)])(Curl(Morse()), batch, generator=generator())
    assert base.n_graphs == 2 * batch.n_graphs


def test_a_reference_serves_one_data_set(batch):
    loss = PITCLoss(EPSILON, reference=Reference(Morse()), pool=2)
    potential = Morse(depth=0.4)
    for moved, message in ((0.0, None), (0.01, "other positions")):
        mine = known(batch).displaced(torch.full_like(batch.positions, moved))
        prediction = potential(mine, forces=True)
        if message is None:
            loss(potential, mine, prediction, generator=generator())
        else:
            with pytest.raises(ValueError, match=message):
                loss(potential, mine, prediction, generator=generator())


# --- schedules -------------------------------------------------------------------------------


def test_fraction_of_the_steps():
    for fraction, expected in ((1.0, 100), (0.25, 25), (0.3, 30), (0.01, 1)):
        term = WeightedTerm("pitc", 2.0, PITCLoss(EPSILON), fraction=fraction)
        weights = [term.at(step, 100).weight for step in range(100)]
        assert sorted(set(weights)) in ([2.0], [0.0, 2.0])
        assert sum(w > 0 for w in weights) == expected
    # Evenly spread: every fourth step, not the first quarter.
    quarter = WeightedTerm("pitc", 1.0, PITCLoss(EPSILON), fraction=0.25)
    on = [k for k in range(100) if quarter.at(k, 100).weight > 0]
    assert np.diff(on).tolist() == [4] * 24


def test_ramps():
    term = WeightedTerm("pitc", 2.0, PITCLoss(EPSILON), weight_ramp=0.5, epsilon_ramp=0.25)
    steps = [term.at(step, 100) for step in (0, 10, 25, 50, 99)]
    assert [t.weight for t in steps] == pytest.approx([0.0, 0.4, 1.0, 2.0, 2.0])
    scales = [t.loss.epsilon / EPSILON for t in steps]
    assert scales == pytest.approx([0.1, 0.46, 1.0, 1.0, 1.0])
    assert term.loss.skin >= max(t.loss.skin for t in steps)
    supervised = WeightedTerm("energy", 1.0, EnergyLoss(), epsilon_ramp=0.5)
    assert supervised.at(0, 100).loss == supervised.loss


def test_a_step_that_leaves_a_term_out_costs_nothing(batch):
    from dataclasses import replace

    potential = Morse()
    labels = Labels(
        energy=torch.zeros(batch.n_graphs, dtype=torch.float64),
        has_energy=torch.ones(batch.n_graphs, dtype=torch.bool),
        forces=torch.zeros_like(batch.positions),
        has_forces=torch.zeros(batch.n_graphs, dtype=torch.bool),
        stress=torch.zeros((batch.n_graphs, 3, 3), dtype=torch.float64),
        has_stress=torch.zeros(batch.n_graphs, dtype=torch.bool),
    )
    total = TotalLoss(
        [
            WeightedTerm("energy", 1.0, EnergyLoss()),
            WeightedTerm("pitc", 1.0, PITCLoss(EPSILON), fraction=0.5),
        ]
    )
    costs = []
    for step in range(4):
        potential.calls.clear()
        found = total(
            potential,
            replace(batch, labels=labels),
            generator=generator(),
            step=step,
            n_steps=4,
        )
        costs.append((len(potential.calls), "pitc" in found.raw))
    assert costs == [(1, False), (2, True), (1, False), (2, True)]


@pytest.mark.parametrize(
    "wrong", [{"fraction": 1.5}, {"fraction": math.nan}, {"weight_ramp": -0.1}, {"weight": -1.0}]
)
def test_schedules_that_make_no_sense_are_refused(wrong):
    settings = {"name": "pitc", "weight": 1.0, "loss": PITCLoss(EPSILON), **wrong}
    with pytest.raises(ValueError, match="pitc"):
        WeightedTerm(**settings)


# --- adversarial -----------------------------------------------------------------------------


def cosines(a, b, batch):
    dot = sum_by_graph((a * b).sum(dim=1), batch)
    sizes = [sum_by_graph(x.square().sum(dim=1), batch).sqrt() for x in (a, b)]
    return dot / (sizes[0] * sizes[1])


def test_adversarial_along_the_force_error(structures, to_graph):
    structures = structures[:5]
    labels = [labels_of(a, k) for k, a in enumerate(structures)]
    # The force labels of real structures add up to nothing.
    for label in labels:
        label.forces.sub_(label.forces.mean(dim=0))
    batch = to_graph(structures, CUTOFF, labels)
    potential = Morse()
    prediction = potential(batch, forces=True)
    sampler = Displacements(0.02)
    steps = [
        sampler.bounded(
            adversarial_direction(potential, batch, prediction, sampler, 1, generator(k)), batch
        )
        for k in range(8)
    ]
    error = prediction.forces - batch.labels.forces
    found = torch.stack([cosines(step, error, batch) for step in steps])
    torch.testing.assert_close(found.abs(), torch.ones_like(found), rtol=1e-6, atol=0)
    # Both signs turn up.
    assert found.min() < 0 < found.max()
    for step in steps:
        assert sum_by_graph(step, batch).abs().max() < 1e-12
        assert step.norm(dim=1).max() <= sampler.longest * (1 + 1e-6)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("potential", [Curl(Morse()), Morse()], ids=["curl", "morse"])
def test_adversarial_without_labels_finds_larger_residuals(order, potential, batch):
    if order == 2 and potential.conservative:
        pytest.skip("a conservative potential has next to no residual at second order")
    prediction = potential(batch, forces=True)
    sizes = {}
    for direction in ("random", "adversarial"):
        loss = PITCLoss(0.02, order=order, direction=direction, cap=10.0)
        sizes[direction] = np.mean(
            [loss(potential, batch, prediction, generator=generator(k)).item() for k in range(12)]
        )
    assert sizes["adversarial"] > 1.5 * sizes["random"]


def test_adversarial_mixes_labelled_and_unlabelled_structures(structures, to_graph):
    labels = [labels_of(a, k, forces=k % 2 == 0) for k, a in enumerate(structures)]
    batch = to_graph(structures, CUTOFF, labels)
    potential = Curl(Morse())
    for kind in (PITCLoss, PISCLoss):
        loss = kind(EPSILON, direction="adversarial")
        prediction = potential(batch, forces=loss.needs_forces(batch))
        assert torch.isfinite(loss(potential, batch, prediction, generator=generator()))


# --- the comparison methods ------------------------------------------------------------------


def test_taylor_labels_and_noisy_nodes_by_hand(structures, to_graph):
    """On E = ½k|r|² with its own labels the Taylor residual is ½k|δ|², the noisy one k r·δ more."""
    k = 2.0
    plain = to_graph(structures, CUTOFF)
    truth = Harmonic(k)(plain, forces=True)
    labels = []
    for g, atoms in enumerate(structures):
        own = labels_of(atoms, g)
        mine = plain.batch == g
        labels.append(
            Labels(
                energy=truth.energy[g : g + 1].detach(),
                has_energy=torch.tensor([True]),
                forces=truth.forces[mine].detach(),
                has_forces=torch.tensor([g != 1]),
                stress=own.stress,
                has_stress=own.has_stress,
            )
        )
    batch = to_graph(structures, CUTOFF, labels)
    potential = Harmonic(k)
    prediction = potential(batch, forces=False)
    step = Displacements(EPSILON)(batch, generator())
    square = 0.5 * k * sum_by_graph(step.square().sum(dim=1), batch) / batch.n_atoms
    work = k * sum_by_graph((batch.positions * step).sum(dim=1), batch) / batch.n_atoms
    taylor = TaylorLabelLoss(EPSILON)(potential, batch, prediction, generator=generator())
    with_forces = torch.tensor([g != 1 for g in range(len(structures))])
    torch.testing.assert_close(taylor, square[with_forces].square().mean(), rtol=1e-9, atol=0)
    noisy = NoisyNodesLoss(EPSILON)(potential, batch, prediction, generator=generator())
    torch.testing.assert_close(noisy, (square + work).square().mean(), rtol=1e-9, atol=0)
    assert taylor > 1e-8


@pytest.mark.parametrize("kind", [TaylorLabelLoss, NoisyNodesLoss])
def test_comparison_methods_without_labels(kind, structures, to_graph):
    potential = Morse()
    labels = [labels_of(a, k, forces=False, energy=False) for k, a in enumerate(structures)]
    batch = to_graph(structures, CUTOFF, labels)
    prediction = potential(batch, forces=False)
    n = len(potential.calls)
    loss = kind(EPSILON)(potential, batch, prediction, generator=generator())
    assert loss.item() == 0.0
    assert len(potential.calls) == n
    with pytest.raises(ValueError, match="labels"):
        kind(EPSILON)(potential, to_graph(structures, CUTOFF), prediction, generator=generator())
    with pytest.raises(ValueError, match="metric"):
        kind(EPSILON, metric="cube")


def test_one_seed_one_value(batch):
    total = TotalLoss(
        [
            WeightedTerm("pitc", 1.0, PITCLoss(EPSILON, order=2)),
            WeightedTerm("pisc", 1.0, PISCLoss(EPSILON)),
        ]
    )
    values = [total(Curl(Morse()), batch, generator=generator(s)).total for s in (0, 0, 1)]
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])


def test_supervised_terms_stay_out_of_schedules(batch):
    term = WeightedTerm("forces", 1.0, ForcesLoss())
    assert term.at(3, 10) == term


def test_the_gradient_loss_is_the_mean_square_of_what_is_left_over(batch):
    """F + ∂E/∂r = c × r for a curl; the mean over structures, each by its own size."""
    c = torch.tensor([0.0, 0.0, 0.3], dtype=torch.float64)
    potential = Curl(Harmonic(), c.tolist())
    prediction = potential(batch, forces=True)
    found = GradientLoss(0.0)(potential, batch, prediction, generator=generator())
    left = torch.linalg.cross(c.expand(1, 3), batch.positions).square().mean(dim=1)
    per_structure = sum_by_graph(left, batch) / batch.n_atoms
    torch.testing.assert_close(found, per_structure.mean(), rtol=1e-10, atol=0)
    plain = Harmonic()
    for epsilon in (0.0, 0.03):
        zero = GradientLoss(epsilon)(
            plain, batch, plain(batch, forces=False), generator=generator()
        )
        assert zero.item() < 1e-25


def test_the_gradient_loss_is_taken_at_a_displaced_copy(batch):
    """c × (r + δ), and the edges must reach that far."""
    c = torch.tensor([0.0, 0.0, 0.3], dtype=torch.float64)
    potential, loss = Curl(Harmonic(), c.tolist()), GradientLoss(0.05)
    prediction = potential(batch, forces=False)
    found = loss(potential, batch, prediction, generator=generator(3))
    moved = batch.positions + Displacements(0.05)(batch, generator(3))
    left = torch.linalg.cross(c.expand(1, 3), moved).square().mean(dim=1)
    expected = (sum_by_graph(left, batch) / batch.n_atoms).mean()
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
    assert loss.skin == pytest.approx(2 * 0.05 * 3**0.5)
    assert GradientLoss(0.0).skin == 0


def test_the_gradient_follows_labels_where_there_are_some(structures, to_graph):
    """F_ref + ∂E/∂r at r for structures with labelled forces, F + ∂E/∂r at r+δ for the others."""
    c = torch.tensor([0.0, 0.0, 0.3], dtype=torch.float64)
    potential = Curl(Harmonic(), c.tolist())
    labels = [labels_of(a, k, forces=k % 2 == 0) for k, a in enumerate(structures)]
    batch = to_graph(structures, CUTOFF, labels)
    prediction = potential(batch, forces=False)

    def loss(**settings):
        term = GradientLoss(0.05, **settings)
        return term(potential, batch, prediction, generator=generator(3))

    # Drawn for the structures first, then for the displacements.
    source = generator(3)
    torch.rand(batch.n_graphs, generator=source)
    moved = batch.positions + Displacements(0.05)(batch, source)
    own = torch.linalg.cross(c.expand(1, 3), moved)
    gradient = -Harmonic()(batch, forces=True).forces
    labelled = batch.labels.has_forces[batch.batch]
    left = torch.where(labelled[:, None], batch.labels.forces + gradient, own)
    expected = (sum_by_graph(left.square().mean(dim=1), batch) / batch.n_atoms).mean()
    torch.testing.assert_close(loss(at_labels=1.0), expected, rtol=1e-10, atol=0)
    assert bool(labelled.any()) and not bool(labelled.all())
    # A part of them: no label is looked at without it, and each step draws others.
    assert torch.equal(loss(), loss(at_labels=0.0))
    half = GradientLoss(0.05, at_labels=0.5)
    drawn = {tuple(half._stays(batch, generator(k)).tolist()) for k in range(20)}
    assert len(drawn) > 1
    assert not any(any(stays[k] for k in (~labelled).nonzero().flatten()) for stays in drawn)
    with pytest.raises(ValueError, match="at_labels"):
        GradientLoss(at_labels=1.5)


def test_the_gradient_loss_grows_with_a_ramp():
    term = WeightedTerm("gradient", 1.0, GradientLoss(0.1), epsilon_ramp=0.5)
    assert term.at(0, 10).loss.epsilon == pytest.approx(0.01)
    assert term.at(5, 10).loss.epsilon == 0.1


@pytest.mark.parametrize("detached", [False, True])
def test_detached_forces_get_no_gradient(detached, to_graph, direct_mace):
    """The energy follows the forces: nothing reaches the readout that makes them."""
    from ase.build import molecule

    readout = list(direct_mace.readout.parameters())
    batch = to_graph(molecule("H2O"), direct_mace.r_max + 0.4)
    losses = [
        PITCLoss(EPSILON, order=2, detach_forces=detached),
        PISCLoss(EPSILON, order=2, detach_forces=detached),
        GradientLoss(detach_forces=detached),
    ]
    for loss in losses:
        prediction = direct_mace(batch, forces=True)
        value = loss(direct_mace, batch, prediction, generator=generator())
        found = torch.autograd.grad(value, readout, allow_unused=True)
        assert all(g is None for g in found) is detached
