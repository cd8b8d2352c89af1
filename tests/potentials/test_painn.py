"""A potential that is not MACE: everything must work that knows only the `Potential` contract."""

import copy
import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from safetensors.torch import save_file

from ase_ws import PotentialCalculator, load_potential, save_potential
from ase_ws.errors import UserError
from ase_ws.frames import read_frames
from ase_ws.graphs import collate, edge_vectors, rebuilt
from ase_ws.losses import EnergyLoss, ForcesLoss, PISCLoss, PITCLoss, StressLoss
from ase_ws.potentials.skin import leak_beyond_cutoff
from ase_ws.testing import validate_potential
from ase_ws.training import finetune
from ase_ws.typing import Potential

E0 = (-13.6, -1030.0, -2040.0)
SIZE = {"r_max": 3.5, "channels": 8, "num_interactions": 2, "num_bessel": 4}
QUICK = [
    *("--set", "model.kind=painn", "--set", "model.channels=8", "--set", "model.num_bessel=4"),
    *("--set", "model.r_max=3.5", "--set", "optimizer.valid_interval=10"),
    *("--set", "optimizer.warmup_steps=2", "--device", "cpu", "--quiet"),
]


@pytest.fixture(scope="session")
def library():
    if importlib.util.find_spec("graph_pes") is None:
        pytest.skip('needs the extra: pip install "ase-ws[painn]"')
    from ase_ws.potentials import painn

    return painn


@pytest.fixture(scope="session")
def tiny_painn(library):
    """Build a small random PaiNN for H, C, O."""

    def make(dtype="float64", seed=0, **size):
        architecture = library.PaiNNArchitecture(
            atomic_numbers=(1, 6, 8), dtype=dtype, scale=2.0, shift=-0.5, **{**SIZE, **size}
        )
        return library.build_painn(architecture, E0, seed=seed)

    return make


@pytest.fixture(scope="session")
def painn(tiny_painn):
    """Never change it: copy it."""
    return tiny_painn()


@pytest.fixture(scope="session")
def painn_file(painn, tmp_path_factory):
    return save_potential(painn, tmp_path_factory.mktemp("painn") / "painn.safetensors")


def energies(potential, batch):
    with torch.no_grad():
        return potential(batch, forces=False).energy


# --- the contract ----------------------------------------------------------------------------


def test_it_is_a_potential(painn, structures, to_graph):
    assert isinstance(painn, Potential)
    assert (painn.kind, painn.r_max, painn.atomic_numbers) == ("painn", 3.5, (1, 6, 8))
    assert painn.conservative
    assert painn.skin_safe
    batch = to_graph(structures, painn.r_max)
    out = painn(batch, forces=True, stress=True)
    assert out.energy.dtype == out.energies.dtype == torch.float64
    assert out.forces.shape == batch.positions.shape
    assert out.stress.shape == (len(structures), 3, 3)
    lone_atom = float(out.energy[-1].detach())
    assert lone_atom == pytest.approx(E0[0] - 0.5, abs=10)
    assert np.isfinite(lone_atom)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_it_keeps_the_contract(tiny_painn, dtype):
    validate_potential(tiny_painn(dtype))


def test_forces_are_the_slope_of_the_energy(painn, structures):
    for atoms in structures:
        probe = atoms.copy()
        probe.calc = PotentialCalculator(painn)
        slope = calculate_numerical_forces(probe, eps=1e-4)
        np.testing.assert_allclose(probe.get_forces(), slope, rtol=0, atol=1e-5)
    assert abs(probe.get_forces()).max() == 0.0, "nothing pulls at a lone atom"


def test_stress_is_the_slope_under_strain(painn):
    carbon = bulk("C", "diamond", a=3.6)
    carbon.positions += [[0.05, -0.1, 0.02], [0.0, 0.07, -0.03]]
    carbon.set_cell(carbon.cell @ (np.eye(3) + 0.03), scale_atoms=True)
    carbon.calc = PotentialCalculator(painn)
    slope = calculate_numerical_stress(carbon, eps=1e-5)
    assert abs(slope).max() > 1e-3
    np.testing.assert_allclose(carbon.get_stress(), slope, rtol=0, atol=1e-6)


def test_a_batch_is_its_structures(painn, structures, to_graph):
    together = painn(to_graph(structures, painn.r_max), forces=True)
    alone = [painn(to_graph(atoms, painn.r_max), forces=True) for atoms in structures]
    for name in ("energy", "forces", "energies"):
        expected = torch.cat([getattr(one, name) for one in alone])
        torch.testing.assert_close(getattr(together, name), expected, rtol=0, atol=1e-10)


def test_edges_beyond_the_cutoff_add_nothing(painn, tiny_painn, structures, to_graph):
    assert leak_beyond_cutoff(painn) == 0.0
    assert leak_beyond_cutoff(tiny_painn("float32")) == 0.0
    skinned = to_graph(structures, painn.r_max + 1.0)
    noise = torch.randn(skinned.positions.shape, generator=torch.Generator().manual_seed(0))
    moved = skinned.displaced(0.1 * noise.clamp(-3, 3).double())
    anew = rebuilt(moved, painn.r_max)
    assert anew.edge_index.shape[1] < moved.edge_index.shape[1]
    for name in ("energy", "forces", "stress"):
        kept, fresh = (
            getattr(painn(batch, forces=True, stress=True), name) for batch in (moved, anew)
        )
        torch.testing.assert_close(kept, fresh, rtol=0, atol=1e-10)


def test_a_network_without_a_cutoff_is_not_called_safe(library, tiny_painn):
    network = copy.deepcopy(tiny_painn().network)
    for interaction in network.interactions:
        interaction.filter_generator = interaction.filter_generator.components[0]
    leaky = library.PaiNNPotential(network, tiny_painn().architecture, E0)
    assert not leaky.skin_safe


def test_images_across_the_boundary_are_seen(painn, to_graph):
    """One atom whose neighbours are all its own images."""
    carbon = bulk("C", "sc", a=2.0)
    batch = to_graph(carbon, painn.r_max)
    assert (batch.edge_index[0] == batch.edge_index[1]).all()
    double = to_graph(carbon * (2, 1, 1), painn.r_max)
    assert float(edge_vectors(batch).norm(dim=1).min()) == pytest.approx(2.0)
    torch.testing.assert_close(
        energies(painn, double), 2 * energies(painn, batch), rtol=0, atol=1e-9
    )
    assert abs(float(energies(painn, batch)) - (E0[1] - 0.5)) > 1e-3


def test_an_unknown_element_is_refused(painn, to_graph):
    message = r"does not know the element\(s\) N \(atom 0\); it knows H, C, O"
    with pytest.raises(UserError, match=message):
        painn(to_graph(molecule("NH3"), painn.r_max), forces=False)


# --- precision -------------------------------------------------------------------------------


def test_energies_are_summed_in_double_precision(painn, structures, to_graph):
    batch = to_graph(structures, painn.r_max)
    single = copy.deepcopy(painn).to(torch.float32)
    assert single.dtype == torch.float32
    assert single.e0.dtype == torch.float64
    exact = painn(batch, forces=True)
    rounded = single(batch.to("cpu", torch.float32), forces=True)
    assert rounded.energy.dtype == torch.float64
    assert rounded.forces.dtype == torch.float32
    # 2,000 eV in single precision would be off by 1e-4 by itself.
    torch.testing.assert_close(rounded.energy, exact.energy, rtol=0, atol=3e-5)
    torch.testing.assert_close(rounded.forces.double(), exact.forces, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_default_precision_of_torch_does_not_matter(tiny_painn, to_graph, structures, dtype):
    potential = tiny_painn(dtype)
    batch = to_graph(structures, potential.r_max).to("cpu", potential.dtype)
    before = torch.get_default_dtype()
    found = []
    for default in (torch.float32, torch.float64):
        torch.set_default_dtype(default)
        try:
            found.append(potential(batch, forces=True))
            assert torch.get_default_dtype() == default
        finally:
            torch.set_default_dtype(before)
    torch.testing.assert_close(found[0].forces, found[1].forces, rtol=0, atol=0)
    torch.testing.assert_close(found[0].energy, found[1].energy, rtol=0, atol=0)


# --- the model file --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_round_trip_is_exact(tiny_painn, structures, to_graph, tmp_path, dtype):
    # Made in one precision, used in another: nothing may be left of the first.
    potential = tiny_painn("float64" if dtype == "float32" else "float32", seed=3)
    potential = potential.to(getattr(torch, dtype))
    loaded = load_potential(save_potential(potential, tmp_path / "m.safetensors"))
    assert type(loaded) is type(potential)
    assert loaded.dtype == potential.dtype == getattr(torch, dtype)
    batch = to_graph(structures, 3.5).to("cpu", potential.dtype)
    for name in ("energy", "forces"):
        a, b = (getattr(p(batch, forces=True), name) for p in (potential, loaded))
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_seeds_decide_the_weights(tiny_painn, structures, to_graph):
    batch = to_graph(structures, 3.5)
    before = torch.get_rng_state()
    first, again, other = (energies(tiny_painn(seed=s), batch) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_weights_that_do_not_fit_are_refused(library, painn):
    tensors = painn.tensors()
    fewer = {name: value for name, value in tensors.items() if "updates.1.mlp" not in name}
    with pytest.raises(UserError, match="do not fit the architecture: missing"):
        library.build_painn(painn.architecture, E0, tensors=fewer)
    with pytest.raises(UserError, match="no heads"):
        library.PaiNNPotential.rebuild(painn.description(), tensors, E0, head="dft")


# --- losses and training ---------------------------------------------------------------------

LOSSES = [
    EnergyLoss(),
    ForcesLoss(),
    StressLoss(),
    *(cls(0.05, order=order) for cls in (PITCLoss, PISCLoss) for order in (1, 2)),
]


@pytest.mark.parametrize(
    "loss", LOSSES, ids=lambda x: f"{type(x).__name__}{getattr(x, 'order', '')}"
)
def test_every_loss_trains_every_layer(tiny_painn, labelled, loss):
    if isinstance(loss, StressLoss):
        atoms = []
        for frame in labelled(2, kind="Si", stress=True):
            atoms.append(Atoms("C2", frame.positions, cell=frame.cell, pbc=True))
            atoms[-1].calc = SinglePointCalculator(atoms[-1], **frame.calc.results)
    else:
        atoms = labelled(2, kind=["CH3OH", "H2O"])
    potential = tiny_painn()
    cutoff = potential.r_max + getattr(loss, "skin", 0.0)
    batch = collate([frame.graph(cutoff) for frame in read_frames(atoms)])
    prediction = potential(
        batch, forces=True, stress=isinstance(loss, StressLoss), create_graph=True
    )
    value = loss(potential, batch, prediction, generator=torch.Generator().manual_seed(0))
    assert float(value.detach()) > 0
    value.backward()
    for name, weight in potential.named_parameters():
        if weight.grad is not None:
            assert torch.isfinite(weight.grad).all(), name
    layers = {name.split(".")[1] for name, w in potential.named_parameters() if _moves(w)}
    assert layers >= {"z_embedding", "interactions", "updates", "read_out"}


def _moves(weight):
    return weight.grad is not None and float(weight.grad.abs().max()) > 0


def test_forces_in_a_loss_have_the_right_gradient(tiny_painn, to_graph):
    """d/dw Σ F² by double backward against finite differences of Σ F²."""
    potential = tiny_painn()
    atoms = molecule("CH3OH")
    atoms.rattle(0.1, seed=1)
    batch = to_graph(atoms, potential.r_max)
    weight = potential.network.read_out.linear_layers[0].weight

    def squares(create_graph=False):
        return potential(batch, forces=True, create_graph=create_graph).forces.square().sum()

    (gradient,) = torch.autograd.grad(squares(create_graph=True), weight)
    k = int(gradient.abs().argmax())
    values = []
    for step in (1e-5, -1e-5):
        with torch.no_grad():
            weight.view(-1)[k] += step
            values.append(float(squares().detach()))
            weight.view(-1)[k] -= step
    assert (values[0] - values[1]) / 2e-5 == pytest.approx(float(gradient.view(-1)[k]), rel=1e-5)


def test_training_on_the_command_line(library, frame_files, tmp_path, cli, monkeypatch):
    """From scratch, fine-tuned, gone on with, looked at, evaluated, run: all with one command."""
    monkeypatch.chdir(tmp_path)
    data = ("--train", frame_files / "train.xyz", "--valid", frame_files / "valid.xyz")
    code, _, err = cli("finetune", *data, *QUICK, "--max-steps", "40", "--out", "new")
    assert (code, err) == (0, "")
    rows = np.genfromtxt("new/metrics.csv", delimiter=",", names=True)
    assert rows["valid_loss"][-1] < 0.5 * rows["valid_loss"][0]

    code, out, _ = cli("info", "new/model.safetensors")
    assert code == 0
    assert "PaiNN, 2 layers, 8 channels" in out
    code, out, _ = cli("info", "new/model.safetensors", "--json")
    assert json.loads(out)["kind"] == "painn"

    base = ("--model", "new/model.safetensors", "--set", "optimizer.valid_interval=2", "--quiet")
    energies_only = ("--train", frame_files / "energies.xyz", "--valid", frame_files / "valid.xyz")
    weak = ("--weak", "both", "--max-steps", "4", "--out", "tuned")
    code, _, err = cli("finetune", *energies_only, *base, *weak)
    assert (code, err) == (0, "")
    assert load_potential("tuned/model.safetensors").kind == "painn"

    code, _, err = cli("finetune", "--resume", "new", "--set", "optimizer.max_steps=50", "--quiet")
    assert (code, err) == (0, "")

    code, out, _ = cli("evaluate", "new/model.safetensors", frame_files / "valid.xyz")
    errors = json.loads(out)
    assert errors["n_frames"] == 4
    assert errors["forces_rmse_mev_per_angstrom"] > 0

    write("start.xyz", molecule("CH3OH"))
    run = ("--ensemble", "nve", "--temperature", "10", "--steps", "4", "--out", "md", "--quiet")
    code, _, err = cli("md", "tuned/model.safetensors", "start.xyz", *run)
    assert (code, err) == (0, "")


def test_a_copy_of_a_live_potential_is_tuned(painn, frame_files, quick, tmp_path):
    before = {name: value.clone() for name, value in painn.tensors().items()}
    config = quick(weak={"kind": "pitc"}, optimizer={"max_steps": 2, "valid_interval": 2})
    result = finetune(
        frame_files / "train.xyz",
        frame_files / "valid.xyz",
        model=painn,
        config=config,
        out=tmp_path / "run",
    )
    assert result.potential.kind == "painn"
    assert all(torch.equal(value, before[name]) for name, value in painn.tensors().items())


def test_direct_forces_are_refused(library, painn_file, frame_files, tmp_path, cli):
    train = ("--train", frame_files / "train.xyz", "--out", tmp_path / "run")
    code, _, err = cli("finetune", *train, *QUICK, "--forces", "direct")
    assert code == 2
    assert "a PaiNN has conservative forces only" in err
    code, _, err = cli("finetune", *train, "--model", painn_file, "--forces", "direct")
    assert code == 2
    assert "a model of kind 'painn' cannot have them" in err
    assert not (tmp_path / "run").exists()


def test_a_file_saved_from_python_can_be_looked_at(painn, painn_file, tmp_path, cli):
    code, out, _ = cli("info", painn_file)
    assert code == 0
    assert "not recorded" in out
    assert "mace" not in out
    noted = save_potential(painn, tmp_path / "noted.safetensors", {"level": "CCSD(T)"})
    code, out, _ = cli("info", noted, "--json")
    assert json.loads(out)["provenance"] == {"level": "CCSD(T)"}
    assert cli("info", noted)[0] == 0


def test_there_is_no_upstream_file_of_it(painn_file, tmp_path, cli):
    code, _, err = cli("export", painn_file, "--format", "mace", tmp_path / "m.model")
    assert code == 2
    assert "kind 'painn' cannot be written as an upstream MACE" in err


# --- the optional library --------------------------------------------------------------------


def test_importing_it_changes_nothing(library):
    found = subprocess.run(
        [
            sys.executable,
            "-c",
            """
import os, warnings
import torch
from ase_ws.potentials.mace import model as mace
warnings.simplefilter("error")
before = dict(os.environ), torch.get_default_dtype(), torch.get_rng_state()
filters, safe = list(warnings.filters), set(torch.serialization.get_safe_globals())
from ase_ws.potentials import painn
assert dict(os.environ) == before[0]
assert torch.get_default_dtype() == before[1]
assert torch.equal(torch.get_rng_state(), before[2])
assert warnings.filters == filters
assert set(torch.serialization.get_safe_globals()) == safe
""",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout == ""


def test_without_the_library_the_extra_is_named(frame_files, tmp_path, cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "graph_pes", None)
    monkeypatch.delitem(sys.modules, "ase_ws.potentials.painn", raising=False)
    train = ("--train", frame_files / "train.xyz", "--out", tmp_path / "run")
    code, _, err = cli("finetune", *train, *QUICK)
    assert code == 2
    assert 'pip install "ase-ws[painn]"' in err
    assert len(err.strip().splitlines()) == 1
    header = {"format": 1, "kind": "painn", "architecture": {"atomic_numbers": [1]}}
    file = tmp_path / "painn.safetensors"
    save_file({"e0": torch.zeros(1)}, file, metadata={"ase_ws": json.dumps(header)})
    code, _, err = cli("info", file)
    assert code == 2
    assert 'pip install "ase-ws[painn]"' in err
