"""The lean form for training gives upstream's numbers, and upstream's gradients of every weight."""

import copy

import pytest
import torch
from ase.build import bulk, molecule
from potentials.mace.test_lean import E0, SUPPORTED

from ase_ws.frames.labels import frame_from_atoms
from ase_ws.graphs import collate
from ase_ws.potentials.mace.architecture import MACEArchitecture
from ase_ws.potentials.mace.direct import DirectPotential, LeanDirect
from ase_ws.potentials.mace.lean.follow import Followed
from ase_ws.potentials.mace.lean.probe import UnsupportedError
from ase_ws.potentials.mace.lean.trainable import TrainableMACE
from ase_ws.potentials.mace.model import build_mace
from ase_ws.typing import Potential


def made(seed=0, **settings):
    settings = {"hidden_irreps": "4x0e+4x1o", "r_max": 4.0, **settings}
    if settings["hidden_irreps"] == "16x0e":
        settings["hidden_irreps"] = "4x0e"
    numbers = (1, 6, 8)
    architecture = MACEArchitecture(
        atomic_numbers=numbers, avg_num_neighbors=7.0, dtype="float64", **settings
    )
    heads = architecture.heads
    return build_mace(architecture, [E0] * len(heads), seed=seed, head=heads[-1])


def batch(potential, skin=0.3):
    """Give a molecule and a crystal, one of them without one of the elements."""
    frames = []
    for number, atoms in enumerate((molecule("CH3CH2OH"), bulk("C", cubic=True))):
        atoms.rattle(0.05, seed=number)
        reach = potential.r_max + (skin if potential.skin_safe else 0.0)
        frames.append(frame_from_atoms(atoms).graph(reach, number, potential.dtype))
    return collate(frames)


def gradients(form: Potential, weights, of):
    """Give energies, forces, stress, and the gradients of a loss of all three."""
    value = form(of, forces=True, stress=True, create_graph=True)
    loss = value.energy.sum() + (value.forces**2).sum() + (value.stress**2).sum()
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    zeros = [torch.zeros_like(w) for w in weights]
    return value, [z if g is None else g for z, g in zip(zeros, found, strict=True)]


@pytest.mark.parametrize("name", SUPPORTED)
def test_gradients_of_every_weight(name):
    potential = made(**SUPPORTED[name])
    trainable = potential.trainable()
    assert isinstance(trainable, TrainableMACE)
    weights = list(potential.parameters())
    of = batch(potential)
    ours, theirs = (gradients(form, weights, of) for form in (trainable, potential))
    for a, b in zip(ours[0], theirs[0], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    largest = max(float(g.abs().max()) for g in theirs[1])
    assert largest > 1e-4
    for a, b in zip(ours[1], theirs[1], strict=True):
        assert float((a - b).abs().max()) < 1e-9 * largest


def test_it_follows_the_weights():
    potential = made()
    trainable = potential.trainable()
    of = batch(potential)
    before = trainable(of, forces=False).energy
    with torch.no_grad():
        for weight in potential.parameters():
            weight.data.mul_(1.1)  # unseen by every version counter
    after = trainable(of, forces=False).energy
    assert float((after - before).detach().abs().max()) > 1e-3
    torch.testing.assert_close(after, potential(of, forces=False).energy)


def test_a_copy_follows_its_own_weights():
    both = made(), None
    pair = [both[0], both[0].trainable()]
    potential, trainable = copy.deepcopy(pair)
    with torch.no_grad():
        next(iter(potential.parameters())).mul_(1.5)
    of = batch(potential)
    torch.testing.assert_close(
        trainable(of, forces=False).energy, potential(of, forces=False).energy
    )
    torch.testing.assert_close(pair[1](of, forces=False).energy, pair[0](of, forces=False).energy)


def test_it_follows_a_change_of_precision():
    potential = made()
    trainable = potential.trainable()
    potential.to(torch.float32)
    of = batch(potential).to("cpu", torch.float32)
    value = trainable(of, forces=True)
    assert value.forces.dtype == torch.float32
    torch.testing.assert_close(
        value.energy, potential(of, forces=True).energy, rtol=1e-5, atol=1e-4
    )


def test_direct_forces():
    potential = DirectPotential(made(keep_last_layer_irreps=True))
    trainable = potential.trainable()
    assert isinstance(trainable, LeanDirect) and isinstance(trainable.body, TrainableMACE)
    weights, of = list(potential.parameters()), batch(potential)
    found = []
    for form in (trainable, potential):
        value = form(of, forces=True, create_graph=True)
        loss = value.energy.sum() + (value.forces**2).sum()
        found.append(torch.autograd.grad(loss, weights, allow_unused=True))
    for a, b in zip(*found, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_what_is_unknown_is_trained_in_upstreams_form():
    potential = made(radial_type="chebyshev")
    assert potential.trainable() is potential


def test_a_weight_that_is_made_of_several_is_not_followed():
    layer = torch.nn.Linear(2, 2)
    with pytest.raises(UnsupportedError, match="several"):
        Followed(layer).copies(lambda net: [net.weight.sum()[None] + net.bias])
    good = Followed(layer).copies(lambda net: [2 * net.weight.T, torch.cat([net.bias, net.bias])])
    weights = list(layer.parameters())
    torch.testing.assert_close(good[0].to("cpu", torch.float32).of(weights), 2 * layer.weight.T)
    twice = good[1].to("cpu", torch.float32).of(weights)
    torch.testing.assert_close(twice, torch.cat([layer.bias, layer.bias]))
