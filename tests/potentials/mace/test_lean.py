"""The lean evaluation gives upstream's numbers, for every architecture that it takes on."""

import copy
import functools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from ase_ws import PotentialCalculator
from ase_ws.graphs import collate, graph
from ase_ws.potentials.mace.architecture import MACEArchitecture
from ase_ws.potentials.mace.direct import DirectPotential, LeanDirect
from ase_ws.potentials.mace.lean import model as lean_module
from ase_ws.potentials.mace.lean import network as network_module
from ase_ws.potentials.mace.lean.model import LeanMACE
from ase_ws.potentials.mace.model import build_mace
from ase_ws.testing import Morse

E0 = [-13.0, -1030.0, -2040.0]
HEADS = {"heads": ("a", "b", "c"), "scale": (1.0, 2.0, 3.0), "shift": (0.1, 0.2, 0.3)}
NON_LINEAR = {
    "interaction_first": "RealAgnosticResidualNonLinearInteractionBlock",
    "interaction": "RealAgnosticResidualNonLinearInteractionBlock",
    "use_agnostic_product": True,
    "apply_cutoff": False,
}
SUPPORTED = {
    "default": {},
    "correlation 3, l 3": {"correlation": 3, "max_ell": 3},
    "residual first": {"interaction_first": "RealAgnosticResidualInteractionBlock"},
    "scalars": {
        "interaction_first": "RealAgnosticResidualInteractionBlock",
        "hidden_irreps": "16x0e",
        "max_ell": 3,
        "correlation": 3,
    },
    "one layer": {"num_interactions": 1, "correlation": 1},
    "three layers to l 2": {"hidden_irreps": "8x0e+8x1o+8x2e", "num_interactions": 3},
    "heads": HEADS,
    "no gate": {"gate": "none"},
    "no gate, heads": {"gate": "none", **HEADS},
    "repulsion": {"pair_repulsion": True},
    "whole last layer": {"keep_last_layer_irreps": True},
    "cutoff on weights": {"apply_cutoff": False},
    "full couplings": {"use_reduced_cg": False},
    "other radial network": {"radial_MLP": (24,), "gate": "tanh", "num_bessel": 5},
    "Agnesi": {"distance_transform": "Agnesi"},
    "Soft": {"distance_transform": "Soft", "apply_cutoff": False},
    "density": {
        "interaction_first": "RealAgnosticDensityInteractionBlock",
        "interaction": "RealAgnosticDensityResidualInteractionBlock",
    },
    "density, cutoff on weights": {
        "interaction_first": "RealAgnosticDensityResidualInteractionBlock",
        "interaction": "RealAgnosticDensityInteractionBlock",
        "apply_cutoff": False,
    },
    "attention": {
        "interaction_first": "RealAgnosticAttResidualInteractionBlock",
        "interaction": "RealAgnosticAttResidualInteractionBlock",
        "apply_cutoff": False,
    },
    "non-linear": NON_LINEAR,
    "non-linear, cutoff on radial functions": {**NON_LINEAR, "apply_cutoff": True},
    "non-linear, heads, few edge channels": {
        **NON_LINEAR,
        **HEADS,
        "readout": "NonLinearBiasReadoutBlock",
        "use_last_readout_only": True,
        "edge_irreps": "4x0e+4x1o",
        "max_ell": 3,
        "correlation": 3,
        "pair_repulsion": True,
    },
    "one product for all": {"use_agnostic_product": True},
    "last readout only": {"use_last_readout_only": True, "num_interactions": 3},
    "biased readout": {"readout": "NonLinearBiasReadoutBlock"},
    "edge channels": {"edge_irreps": "6x0e+6x1o"},
    "edge channels, first too": {"edge_irreps": "6x0e+6x1o", "use_edge_irreps_first": True},
    "Gaussians": {"radial_type": "gaussian"},
    "four factors": {"correlation": 4, "max_ell": 1},
    "l 5": {"max_ell": 5, "correlation": 1},
}
UNSUPPORTED = {
    "Chebyshev polynomials": {"radial_type": "chebyshev"},
    "channels of different numbers": {"edge_irreps": "6x0e+4x1o"},
}


@functools.cache
def _built(changes):
    settings = {
        "atomic_numbers": (1, 6, 8),
        "avg_num_neighbors": 8.0,
        "r_max": 4.0,
        "hidden_irreps": "12x0e+12x1o",
    }
    changed = {**settings, "dtype": "float64", **dict(changes)}
    head = changed.get("heads", (None,))[-1]
    return build_mace(MACEArchitecture(**changed), E0, head=head)


def build(dtype="float64", **changes):
    """Give a copy: building one takes a second."""
    return copy.deepcopy(_built(tuple(changes.items()))).to(getattr(torch, dtype))


def batch_of(structures, potential):
    cutoff = potential.r_max + (0.5 if potential.skin_safe else 0.0)
    graphs = [graph(a.numbers, a.positions, a.cell.array, a.pbc, cutoff=cutoff) for a in structures]
    return collate(graphs).to("cpu", potential.dtype)


@pytest.fixture
def molecules():
    out = [molecule("CH3CH2OH"), molecule("H2O"), molecule("C6H6")]
    for k, atoms in enumerate(out):
        atoms.rattle(0.05, seed=k)
    # Near enough for the short-range repulsion to act.
    out[1].positions[1] = out[1].positions[0] + [0, 0, 0.4]
    return out


@pytest.mark.parametrize("changes", SUPPORTED.values(), ids=SUPPORTED.keys())
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("trimmed", [False, True], ids=["whole", "trimmed"])
def test_upstreams_numbers(changes, dtype, trimmed, molecules, monkeypatch):
    """Trimmed: as structures of many edges are evaluated, without those of the skin."""
    monkeypatch.setattr(lean_module, "TRIM_EDGES", -1 if trimmed else 10**9)
    monkeypatch.setattr(network_module, "_FEW_SLOTS", -1 if trimmed else 10**9)
    potential = build(dtype, **changes)
    batch = batch_of(molecules, potential)
    with torch.no_grad():
        lean = LeanMACE(potential)
        ours, theirs = (p(batch, forces=True) for p in (lean, potential))
        features, expected = lean.features(batch), potential.features(batch)
    tolerance = 1e-11 if dtype == "float64" else 2e-4
    largest = float(theirs.forces.abs().max())
    for a, b in zip(ours[:2], theirs[:2], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * max(1.0, largest))
    torch.testing.assert_close(ours.energies, theirs.energies, rtol=0, atol=tolerance * 10)
    for a, b in zip(features[1:], expected[1:], strict=True):
        torch.testing.assert_close(a, b, rtol=10 * tolerance, atol=tolerance)
    assert ours.energy.dtype == torch.float64
    assert largest > 1e-3


def test_the_repulsion_was_felt(molecules):
    with_it, without = build(pair_repulsion=True), build()
    batch = batch_of(molecules, with_it)
    with torch.no_grad():
        difference = with_it(batch, forces=False).energy - without(batch, forces=False).energy
    assert difference[1] > 1.0


@pytest.mark.parametrize("trimmed", [False, True])
def test_periodic_with_stress(trimmed, monkeypatch):
    monkeypatch.setattr(lean_module, "TRIM_EDGES", -1 if trimmed else 10**9)
    potential = build(atomic_numbers=(6, 14, 79), correlation=3)
    diamond = bulk("C", cubic=True)
    diamond.numbers[::3] = 14
    diamond.rattle(0.1, seed=1)
    diamond.set_cell(diamond.cell + 0.1 * np.arange(9).reshape(3, 3) / 9, scale_atoms=True)
    batch = batch_of([diamond, bulk("Si")], potential)
    with torch.no_grad():
        ours, theirs = (p(batch, forces=True, stress=True) for p in (potential.lean(), potential))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)
    assert theirs.stress.abs().max() > 1e-5


@pytest.mark.parametrize("changes", UNSUPPORTED.values(), ids=UNSUPPORTED.keys())
def test_what_is_not_known_is_left_to_upstream(changes):
    potential = build(**changes)
    assert potential.lean() is potential


@pytest.mark.parametrize("error", [AttributeError, IndexError, RuntimeError, ValueError])
def test_what_cannot_be_read_is_left_to_upstream(monkeypatch, error):
    """A block of a shape that nobody has thought of: slow, but right."""

    def stumble(*arguments):
        raise error("no such attribute")

    monkeypatch.setattr(lean_module, "read_weights", stumble)
    potential = build()
    assert potential.lean() is potential


def test_a_difference_is_noticed(monkeypatch):
    """Whatever upstream may change: wrong numbers are never used."""
    true = lean_module.product_basis
    monkeypatch.setattr(lean_module, "product_basis", lambda *a: 1.01 * true(*a))
    potential = build()
    assert potential.lean() is potential


def test_other_potentials_are_left_alone():
    potential = Morse()
    assert PotentialCalculator(potential).evaluator is potential


def test_direct_forces(molecules):
    potential = DirectPotential(build())
    batch = batch_of(molecules, potential)
    fast = potential.lean()
    assert isinstance(fast, LeanDirect)
    assert not fast.conservative
    with torch.no_grad():
        ours, theirs = (p(batch, forces=True) for p in (fast, potential))
    for a, b in zip(ours[:2], theirs[:2], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


def test_changed_weights_are_noticed(molecules):
    potential = build()
    batch = batch_of(molecules, potential)
    fast = potential.lean()
    assert fast is not potential
    with torch.no_grad():
        before = fast(batch, forces=False).energy
        for weight in potential.parameters():
            weight.mul_(1.1)
        after, expected = (p(batch, forces=False).energy for p in (fast, potential))
        torch.testing.assert_close(after, expected, rtol=1e-12, atol=0)
        assert (after - before).abs().max() > 1e-4
        potential.e0 += 1.0
        shifted = fast(batch, forces=False).energy
    torch.testing.assert_close(shifted, after + batch.n_atoms, rtol=1e-12, atol=0)


def test_other_structures_between(molecules):
    """The plan of one structure is not used for another."""
    potential = build()
    fast = potential.lean()
    batches = [batch_of([m], potential) for m in molecules]
    with torch.no_grad():
        for batch in (*batches, *batches[::-1], batches[0].displaced(torch.full((9, 3), 0.3))):
            a, b = (p(batch, forces=True) for p in (fast, potential))
            torch.testing.assert_close(a.forces, b.forces, rtol=1e-10, atol=1e-11)


def test_atoms_alone():
    potential = build()
    fast = potential.lean()
    far = molecule("H2O")
    far.positions *= 100
    for structures in ([far], [molecule("O"), molecule("CH4")]):
        batch = batch_of(structures, potential)
        with torch.no_grad():
            a, b = (p(batch, forces=True) for p in (fast, potential))
        torch.testing.assert_close(a.energy, b.energy, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(a.forces, b.forces, rtol=1e-10, atol=1e-12)


def test_the_calculator_uses_it_and_copies():
    potential = build("float32")
    atoms = molecule("CH3CH2OH")
    atoms.calc = PotentialCalculator(potential)
    energy = atoms.get_potential_energy()
    again = copy.deepcopy(atoms.calc)
    atoms.calc = again
    assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-5)


def test_many_elements(monkeypatch):
    """Each kind of atoms by itself, or all together: the same."""
    numbers = (1, 3, 6, 7, 8, 9, 11, 14, 15, 16, 17, 29)
    settings = MACEArchitecture(
        atomic_numbers=numbers, avg_num_neighbors=8.0, r_max=4.0, dtype="float64"
    )
    potential = build_mace(settings, np.zeros(len(numbers)))
    crystal = bulk("Si", cubic=True) * (2, 1, 1)
    crystal.numbers[: len(numbers)] = numbers
    crystal.rattle(0.1, seed=1)
    batch = batch_of([crystal], potential)
    with torch.no_grad():
        expected = potential(batch, forces=True, stress=True)
        for few in (4, 40):
            monkeypatch.setattr(network_module, "_FEW_KINDS", few)
            found = LeanMACE(potential)(batch, forces=True, stress=True)
            for a, b in zip(found, expected, strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_neighbours_of_very_different_number():
    """A dense crystal, molecules and a lone atom in one batch: rows of slots of several lengths."""
    potential = build(atomic_numbers=(1, 6, 8))
    crystal = bulk("C", cubic=True)
    crystal.rattle(0.05, seed=1)
    lone = molecule("H2O")[:1]
    batch = batch_of([molecule("H2O"), crystal, lone, molecule("CH3CH2OH")], potential)
    lean = LeanMACE(potential)
    blocks = lean.planned(batch).slots.blocks
    assert len(blocks) > 1
    assert sum(n * width for n, width in blocks) < 1.5 * batch.edge_index.shape[1]
    with torch.no_grad():
        found, expected = (p(batch, forces=True, stress=True) for p in (lean, potential))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_one_evaluator_in_several_threads(molecules):
    """Each thread has structures of its own; none meets the plan of another."""
    lean = LeanMACE(build())
    batches = [batch_of([atoms], lean._of[0]) for atoms in molecules]
    with torch.no_grad():
        expected = [lean(batch, forces=True).energy for batch in batches]

        def evaluate(number):
            with torch.no_grad():
                return lean(batches[number % 3], forces=True).energy - expected[number % 3]

        with ThreadPoolExecutor(4) as pool:
            differences = list(pool.map(evaluate, range(60)))
    assert max(abs(float(d)) for d in differences) < 1e-10


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("repeats", [1, 2])
def test_what_is_not_finite_is_seen(value, repeats):
    """Also where edges beyond the cutoff are left out: no length is compared with NaN in vain."""
    potential = build()
    batch = batch_of([bulk("C", cubic=True) * (repeats, 1, 1)], potential)
    positions = batch.positions.clone()
    positions[3, 1] = value
    with torch.no_grad():
        found = potential.lean()(replace(batch, positions=positions), forces=True)
    assert not torch.isfinite(found.energy).any()
    assert not torch.isfinite(found.forces).all()


def test_a_broken_structure_leaves_the_others_alone():
    broken = molecule("H2O")
    broken.positions[2] = broken.positions[1]
    others = [molecule("CH4"), molecule("CH3CH2OH")]
    calculator = PotentialCalculator(build())
    first, *rest = (r["energy"] for r in calculator.calculate_many([broken, *others]))
    assert np.isnan(first)
    expected = [r["energy"] for r in calculator.calculate_many(others)]
    assert rest == pytest.approx(expected, abs=1e-10)


CHANGES = {
    "buffer": lambda p: p.network.scale_shift.shift.add_(0.1),
    "data": lambda p: setattr(p.network.products[1].linear.weight, "data",
                              p.network.products[1].linear.weight.data * 1.3),
    "parameter": lambda p: setattr(p.network.products[1].linear, "weight",
                                   torch.nn.Parameter(p.network.products[1].linear.weight * 1.3)),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_other_changes_of_weights_are_noticed(change, molecules):
    potential = build()
    fast, batch = potential.lean(), batch_of(molecules[:1], potential)
    with torch.no_grad():
        before = fast(batch, forces=False).energy
        change(potential)
        after, expected = (p(batch, forces=False).energy for p in (fast, potential))
    assert abs(float(after - before)) > 1e-6
    torch.testing.assert_close(after, expected, rtol=0, atol=1e-10)


def test_forces_after_a_call_in_inference_mode(molecules):
    potential = build()
    fast, batch = potential.lean(), batch_of(molecules[:1], potential)
    with torch.inference_mode():
        fast(batch, forces=False)
    found, expected = (p(batch, forces=True).forces for p in (fast, potential))
    torch.testing.assert_close(found.detach(), expected.detach(), rtol=0, atol=1e-11)


def test_repulsion_of_large_atoms_ends_at_the_cutoff(monkeypatch):
    """Two radii of caesium reach beyond it: upstream has no such edges, and a skin is not safe."""
    settings = MACEArchitecture(
        atomic_numbers=(1, 55), avg_num_neighbors=4.0, r_max=3.0, dtype="float64",
        pair_repulsion=True, hidden_irreps="8x0e+8x1o",
    )  # fmt: skip
    potential = build_mace(settings, [0.0, 0.0])
    assert not potential.skin_safe
    cluster = Atoms("Cs4", [[0, 0, 0], [2.9, 0, 0], [0, 3.1, 0], [0, 0, 4.0]])
    tight, wide = (
        graph(cluster.numbers, cluster.positions, np.zeros((3, 3)), cluster.pbc, cutoff=cutoff)
        for cutoff in (3.0, 4.5)
    )
    for trim in (-1, 10**9):
        monkeypatch.setattr(lean_module, "TRIM_EDGES", trim)
        found = LeanMACE(potential)(wide, forces=False).energy
        expected = potential(tight, forces=False).energy
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
