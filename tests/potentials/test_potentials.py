"""MACE as a potential, its model file, and the way from and to upstream."""

import copy
import io
import json
import os
import pickle
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from safetensors.torch import load_file, save_file
from scipy.spatial.transform import Rotation
from upstream_models import BOTH_PARITIES, build_upstream

from ase_ws.errors import UnsafeFileError, UserError
from ase_ws.graphs import graph
from ase_ws.potentials.files import load_potential, read_header, save_potential
from ase_ws.potentials.mace.architecture import MACEArchitecture
from ase_ws.potentials.mace.upstream import export_upstream
from ase_ws.potentials.skin import leak_beyond_cutoff
from ase_ws.testing import tiny_mace
from ase_ws.typing import Potential


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def evaluate(potential, atoms, cutoff=None, dtype=torch.float64, **what):
    g = graph(
        atoms.numbers,
        atoms.positions,
        np.array(atoms.cell),
        atoms.pbc,
        cutoff=cutoff or potential.r_max,
    )
    with torch.no_grad():
        return potential(g.to("cpu", dtype), **{"forces": False, **what})


def energy(potential, atoms):
    return float(evaluate(potential, atoms).energy)


def rotated(atoms, matrix):
    new = atoms.copy()
    new.positions = atoms.positions @ matrix.T
    new.set_cell(np.asarray(atoms.cell) @ matrix.T)
    return new


# --- derivatives -----------------------------------------------------------------------------


def test_forces_are_the_slope_of_the_energy(mace, structures):
    step = 1e-4
    for atoms in structures[:4]:
        forces = evaluate(mace, atoms, forces=True).forces.numpy()
        assert abs(forces).max() > 0.01
        for i in range(len(atoms)):
            for axis in range(3):
                energies = []
                for sign in (1, -1):
                    moved = atoms.copy()
                    moved.positions[i, axis] += sign * step
                    energies.append(energy(mace, moved))
                slope = (energies[0] - energies[1]) / (2 * step)
                assert forces[i, axis] == pytest.approx(-slope, abs=1e-5)


def silicon():
    atoms = bulk("Si", "diamond", a=5.3)
    atoms.positions[1] += [0.1, -0.2, 0.15]
    return atoms


def skewed_silicon():
    atoms = silicon()
    strain = np.array([[0.05, 0.2, -0.1], [0.0, -0.04, 0.15], [0.1, 0.0, 0.02]])
    atoms.set_cell(atoms.cell @ (np.eye(3) + strain), scale_atoms=True)
    return atoms


@pytest.mark.parametrize("make", [silicon, skewed_silicon])
def test_stress_is_the_slope_under_strain(silicon_mace, make):
    atoms = make()
    stress = evaluate(silicon_mace, atoms, stress=True).stress[0].numpy()
    step = 1e-4
    expected = np.zeros((3, 3))
    for a in range(3):
        for b in range(3):
            energies = []
            for sign in (1, -1):
                strain = np.eye(3)
                strain[a, b] += sign * step / 2
                strain[b, a] += sign * step / 2
                moved = atoms.copy()
                moved.set_cell(atoms.cell @ strain, scale_atoms=True)
                energies.append(energy(silicon_mace, moved))
            expected[a, b] = (energies[0] - energies[1]) / (2 * step) / atoms.get_volume()
    assert abs(stress).max() > 1e-4
    np.testing.assert_allclose(stress, expected, atol=1e-6)
    np.testing.assert_allclose(stress, stress.T, atol=1e-14)


def test_only_what_is_asked_is_computed(mace, monkeypatch):
    calls = []
    grad = torch.autograd.grad
    monkeypatch.setattr(
        torch.autograd, "grad", lambda *a, **k: calls.append(len(a[1])) or grad(*a, **k)
    )
    atoms = molecule("H2O")
    plain = evaluate(mace, atoms)
    assert calls == []
    assert plain.forces is None
    assert plain.stress is None
    with_forces = evaluate(mace, atoms, forces=True)
    assert calls == [1]
    assert with_forces.stress is None
    assert with_forces.energy == plain.energy
    assert not with_forces.energy.requires_grad
    assert not with_forces.forces.requires_grad


def test_create_graph_keeps_forces_differentiable(mace, to_graph):
    potential = copy.deepcopy(mace)
    batch = to_graph(molecule("H2O"), potential.r_max)
    potential(batch, forces=True, create_graph=True).forces.square().sum().backward()
    gradients = [p.grad for p in potential.parameters() if p.grad is not None]
    assert sum(float(g.abs().sum()) for g in gradients) > 0


# --- contract --------------------------------------------------------------------------------


def test_a_batch_is_its_structures_alone(mace, structures, to_graph):
    potential = copy.deepcopy(mace)
    potential.e0.zero_()
    with torch.no_grad():
        together = potential(to_graph(structures, potential.r_max), forces=True, stress=True)
    alone = [evaluate(potential, a, forces=True, stress=True) for a in structures]
    for name in ("energy", "forces", "stress", "energies"):
        parts = torch.cat([getattr(p, name) for p in alone])
        found = getattr(together, name)
        scale = float(parts.abs().max())
        assert scale > 0
        torch.testing.assert_close(found, parts, rtol=1e-10, atol=1e-12 * scale)
    torch.testing.assert_close(
        together.energy, torch.stack([p.energies.sum() for p in alone]), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_batch_is_never_changed(mace, structures, to_graph, dtype):
    potential = copy.deepcopy(mace).to(dtype)
    batch = to_graph(structures, potential.r_max).to("cpu", dtype)
    before = copy.deepcopy(batch)
    for what in ({}, {"forces": True}, {"forces": True, "stress": True, "create_graph": True}):
        potential(batch, **{"forces": False, **what})
        for name, old in vars(before).items():
            new = getattr(batch, name)
            if isinstance(old, torch.Tensor):
                assert torch.equal(new, old), name
                assert new.requires_grad == old.requires_grad, name
            else:
                assert new == old, name


def test_mace_satisfies_the_contract(mace):
    assert isinstance(mace, Potential)
    assert mace.atomic_numbers == (1, 6, 8)
    assert mace.r_max == 4.0
    assert mace.conservative
    assert mace.skin_safe


def test_unknown_elements_are_refused(mace):
    with pytest.raises(UserError, match=r"does not know.*(N|7)"):
        evaluate(mace, molecule("NH3"))


@pytest.mark.parametrize("mirror", [False, True], ids=["rotation", "reflection"])
@pytest.mark.parametrize("seed", range(5))
def test_symmetries(mace, structures, seed, mirror):
    rng = np.random.default_rng(seed)
    atoms = structures[seed % 5]
    matrix = Rotation.random(None, rng).as_matrix() * (-1 if mirror else 1)
    order = rng.permutation(len(atoms))
    moved = rotated(atoms, matrix)[order]
    moved.positions += rng.uniform(-20, 20, 3)
    old = evaluate(mace, atoms, forces=True)
    new = evaluate(mace, moved, forces=True)
    assert float(new.energy) == pytest.approx(float(old.energy), abs=1e-9)
    np.testing.assert_allclose(
        new.forces.numpy(), (old.forces.numpy() @ matrix.T)[order], atol=1e-9
    )


def test_size_extensivity(mace):
    one = molecule("CH3OH")
    two = one.copy()
    two.positions += [0, 0, 30.0]
    assert energy(mace, one + two) == pytest.approx(2 * energy(mace, one), abs=1e-9)
    crystal = bulk("C", a=3.6)
    assert energy(mace, crystal * (2, 1, 2)) == pytest.approx(4 * energy(mace, crystal), abs=1e-9)


# --- precision -------------------------------------------------------------------------------


def test_reference_energies_stay_in_double_precision(mace):
    e0 = torch.tensor([-13.605693122994, -1030.567123456789, -17600.123456789012]).double()
    for move in (
        lambda m: m.float(),
        lambda m: m.to(torch.float32),
        lambda m: m.to("cpu"),
        lambda m: m.half().float(),
        copy.deepcopy,
        lambda m: torch.nn.ModuleList([m]).float()[0],
        lambda m: pickle.loads(pickle.dumps(m)),
    ):
        potential = copy.deepcopy(mace)
        potential.e0.copy_(e0)
        moved = move(potential)
        assert moved.e0.dtype == torch.float64
        assert torch.equal(moved.e0, e0)


def test_small_differences_of_large_energies_survive_single_precision(mace):
    """Float32 near −17,600 eV has steps of 2 meV: 1e-6 eV must be seen all the same."""
    potential = copy.deepcopy(mace).float()
    potential.e0.copy_(torch.tensor([-10.0, -20.0, -17600.0]))
    atoms = molecule("H2O")

    def at(x, model, dtype):
        moved = atoms.copy()
        moved.positions[1, 1] += x
        return evaluate(model, moved, dtype=dtype).energy

    start = at(0.0, potential, torch.float32)
    assert start.dtype == torch.float64
    assert float(start) < -17600
    exact = [at(x, copy.deepcopy(potential).double(), torch.float64) for x in (0.0, 1e-3)]
    single = [at(x, potential, torch.float32) for x in (0.0, 1e-3)]
    wanted = float(exact[1] - exact[0])
    assert abs(wanted) > 1e-6
    assert float(single[1] - single[0]) == pytest.approx(wanted, abs=1e-6)


def test_building_leaves_random_state_and_environment_alone():
    state, environment = torch.get_rng_state(), dict(os.environ)
    one, same, other = (tiny_mace(seed=k, num_interactions=1) for k in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert dict(os.environ) == environment
    weights = [torch.cat([p.detach().ravel() for p in m.parameters()]) for m in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda potential: pickle.loads(pickle.dumps(potential))]
)
def test_networks_of_both_parities_are_copied(copied):
    """As upstream builds them they cannot be: fine-tuning and committees need copies."""
    potential = tiny_mace(hidden_irreps=BOTH_PARITIES, num_interactions=2)
    before = [p.requires_grad for p in potential.parameters()]
    new = copied(potential)
    assert energy(new, molecule("H2O")) == energy(potential, molecule("H2O"))
    assert [p.requires_grad for p in new.parameters()] == before
    assert not all(before)


# --- skin ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "safe"),
    [
        ({}, True),
        ({"dtype": "float32"}, True),
        (
            {
                "interaction_first": "RealAgnosticDensityInteractionBlock",
                "interaction": "RealAgnosticDensityResidualInteractionBlock",
            },
            True,
        ),
        ({"distance_transform": "Agnesi", "pair_repulsion": True}, True),
        (
            {
                "interaction_first": "RealAgnosticAttResidualInteractionBlock",
                "interaction": "RealAgnosticAttResidualInteractionBlock",
            },
            False,
        ),
        (
            {
                "interaction_first": "RealAgnosticResidualNonLinearInteractionBlock",
                "interaction": "RealAgnosticResidualNonLinearInteractionBlock",
                "edge_irreps": "8x0e",
                "radial_MLP": (16, 16),
            },
            False,
        ),
    ],
    ids=["default", "float32", "density", "ZBL", "attention", "nonlinear"],
)
def test_leaks_beyond_the_cutoff_are_found(architecture, safe):
    potential = tiny_mace(**architecture)
    assert potential.skin_safe is safe
    leak = leak_beyond_cutoff(potential)
    assert (leak == 0.0) if safe else (leak > 1e-6)
    if safe:
        atoms = molecule("CH3CH2OH")
        dtype = potential.dtype
        near, far = (
            evaluate(potential, atoms, cutoff=c, dtype=dtype, forces=True) for c in (4.0, 6.0)
        )
        tolerance = 1e-12 if dtype == torch.float64 else 1e-5
        torch.testing.assert_close(near.energy, far.energy, rtol=0, atol=tolerance)
        torch.testing.assert_close(near.forces, far.forces, rtol=0, atol=tolerance)


def test_broken_weights_are_never_called_safe(mace):
    potential = copy.deepcopy(mace)
    with torch.no_grad():
        next(potential.network.parameters()).fill_(torch.nan)
    assert leak_beyond_cutoff(potential) != 0.0


# --- the model file --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_round_trip_is_exact(small_mace, tmp_path, dtype):
    potential = copy.deepcopy(small_mace).to(getattr(torch, dtype))
    path = save_potential(potential, tmp_path / "deep" / "m.safetensors", {"level": "CCSD(T)"})
    assert names(path.parent) == ["m.safetensors"]
    loaded = load_potential(path)
    assert loaded.dtype == potential.dtype
    assert not loaded.training
    assert torch.equal(loaded.e0, potential.e0)
    old, new = potential.state_dict(), loaded.state_dict()
    assert set(old) == set(new)
    assert all(torch.equal(old[k], new[k]) for k in old)
    assert loaded.architecture == potential.architecture.model_copy(update={"dtype": dtype})
    header = read_header(path)
    assert header["provenance"] == {"level": "CCSD(T)"}
    assert header["kind"] == "mace"
    atoms = molecule("CH3OH")
    a, b = (evaluate(m, atoms, forces=True, dtype=m.dtype) for m in (potential, loaded))
    assert torch.equal(a.energy, b.energy)
    assert torch.equal(a.forces, b.forces)


@pytest.mark.parametrize("dtype", ["float64", torch.float64])
def test_precision_is_chosen_on_loading(small_mace, tmp_path, dtype):
    path = save_potential(copy.deepcopy(small_mace).float(), tmp_path / "m.safetensors")
    loaded = load_potential(path, dtype=dtype)
    assert loaded.dtype == torch.float64
    assert torch.equal(loaded.e0, small_mace.e0)


def test_a_failed_save_leaves_the_old_file(small_mace, tmp_path):
    path = save_potential(small_mace, tmp_path / "m.safetensors")
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save_potential(small_mace, path, {"not": object()})
    assert path.read_bytes() == before
    assert names(tmp_path) == ["m.safetensors"]


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 600
    return text


def mangled(content, how):
    size = int.from_bytes(content[:8], "little")
    return {
        "empty": b"",
        "half": content[: len(content) // 2],
        "no tensors": content[: 8 + size],
        "one byte short": content[:-1],
        "random": np.random.default_rng(0).bytes(5000),
        "text": b"hello\n",
        "header flipped": content[:8] + content[8 : 8 + size][::-1] + content[8 + size :],
    }[how]


@pytest.mark.parametrize(
    "how", ["empty", "half", "no tensors", "one byte short", "random", "text", "header flipped"]
)
@pytest.mark.parametrize("suffix", [".safetensors", ".model", ".pt"])
def test_corrupt_files_are_refused_in_one_line(model_file, tmp_path, how, suffix):
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(mangled(model_file.read_bytes(), how))
    with pytest.raises(UserError) as error:
        load_potential(path)
    assert "bad" in one_line(error)


@pytest.mark.parametrize("how", ["missing", "folder"])
def test_no_such_model(tmp_path, how):
    path = tmp_path if how == "folder" else tmp_path / "none.safetensors"
    with pytest.raises(UserError, match="no such model file"):
        load_potential(path)


def test_a_safetensors_file_of_another_program(tmp_path):
    save_file({"x": torch.zeros(3)}, tmp_path / "m.safetensors")
    with pytest.raises(UserError, match="not a model file of ase_ws") as error:
        load_potential(tmp_path / "m.safetensors")
    one_line(error)


def rewrite(model_file, path, change=None, tensors=None):
    header = read_header(model_file)
    content = load_file(model_file)
    if change is not None:
        header = change(header)
    content.update(tensors or {})
    save_file(
        {k: v for k, v in content.items() if v is not None},
        path,
        {"ase_ws": header if isinstance(header, str) else json.dumps(header)},
    )
    return path


HEADERS = {
    "not JSON": lambda h: "{",
    "a list": lambda h: [1, 2],
    "a number": lambda h: 7,
    "no architecture": lambda h: {k: v for k, v in h.items() if k != "architecture"},
    "architecture null": lambda h: {**h, "architecture": None},
    "unknown field": lambda h: {**h, "architecture": {**h["architecture"], "x": 1}},
    "unknown element": lambda h: {
        **h,
        "architecture": {**h["architecture"], "atomic_numbers": [0]},
    },
    "fewer elements": lambda h: {
        **h,
        "architecture": {**h["architecture"], "atomic_numbers": [1, 6]},
    },
    "other irreps": lambda h: {**h, "architecture": {**h["architecture"], "hidden_irreps": "4x0e"}},
    "no irreps": lambda h: {**h, "architecture": {**h["architecture"], "hidden_irreps": "evil"}},
    "unknown head": lambda h: {**h, "head": "other"},
    "newer": lambda h: {**h, "format": 99},
    "format text": lambda h: {**h, "format": "one"},
    "other kind": lambda h: {**h, "kind": "direct"},
}


@pytest.mark.parametrize("name", HEADERS)
def test_wrong_headers_are_refused_in_one_line(model_file, tmp_path, name):
    path = rewrite(model_file, tmp_path / "m.safetensors", HEADERS[name])
    with pytest.raises(UserError) as error:
        load_potential(path)
    assert "m.safetensors" in one_line(error)


@pytest.mark.parametrize(
    "tensors",
    [
        {"e0": None},
        {"e0": torch.zeros(2, dtype=torch.float64)},
        {"e0": torch.full((3,), torch.nan, dtype=torch.float64)},
        {"network.unheard_of": torch.zeros(2)},
        {"network.node_embedding.linear.weight": None},
        {"network.node_embedding.linear.weight": torch.zeros(3)},
        {"network.node_embedding.linear.weight": torch.full((24,), torch.inf)},
        {"e0": torch.zeros(3, dtype=torch.bfloat16), "network.x": torch.zeros(1).bfloat16()},
    ],
    ids=["no e0", "short e0", "NaN e0", "extra", "lost", "wrong shape", "infinite", "bfloat16"],
)
def test_wrong_tensors_are_refused_in_one_line(model_file, tmp_path, tensors):
    path = rewrite(model_file, tmp_path / "m.safetensors", tensors=tensors)
    with pytest.raises(UserError) as error:
        load_potential(path)
    assert "m.safetensors" in one_line(error)


def test_architectures_are_checked():
    for wrong in (
        {"atomic_numbers": (1, 1)},
        {"atomic_numbers": (119,)},
        {"r_max": 0.0},
        {"correlation": 0},
        {"correlation": (2, 17)},
        {"correlation": (2, 2, 2)},
    ):
        with pytest.raises(ValueError, match=r"atomic|r_max|correlation"):
            MACEArchitecture(**{"atomic_numbers": (1,), "avg_num_neighbors": 3.0, **wrong})


# --- hostile files ---------------------------------------------------------------------------


class Hostile:
    """A pickle that runs a command when it is loaded the careless way."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def hidden_under(name, command):
    """A pickle that calls GLOBAL `module attribute` with the command."""
    module, attribute = name
    return (
        b"\x80\x02c" + module.encode() + b"\n" + attribute.encode() + b"\n"
        b"X" + len(command).to_bytes(4, "little") + command.encode() + b"\x85R."
    )


def archive(path, payload):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("m/data.pkl", payload)
        file.writestr("m/byteorder", "little")
        file.writestr("m/version", "3\n")
    return path


def test_a_pickle_that_runs_commands_is_refused(tmp_path):
    mark = tmp_path / "executed"
    path = tmp_path / "evil.model"
    torch.save(Hostile(f"touch {mark}"), path)
    with pytest.raises(UnsafeFileError, match=r"system.*not trusted") as error:
        load_potential(path)
    one_line(error)
    assert not mark.exists()


@pytest.mark.parametrize(
    "name",
    [
        ("posix", "system"),
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("torch.fx", "os.system"),
        ("torch.fx.graph_module", "reduce_graph_module"),
        ("torch.nn.modules.module", "os.system"),
        ("mace.tools.utils", "os.system"),
        ("e3nn.util.jit", "torch.os.system"),
        ("torch", "os.system"),
    ],
    ids=".".join,
)
def test_nothing_in_a_file_is_ever_executed(tmp_path, name):
    mark = tmp_path / "executed"
    path = archive(tmp_path / "evil.model", hidden_under(name, f"touch {mark}"))
    with pytest.raises(UserError) as error:
        load_potential(path)
    one_line(error)
    assert not mark.exists()


def test_an_empty_mace_object_is_refused(tmp_path):
    payload = b"\x80\x02cmace.modules.models\nScaleShiftMACE\n)R."
    path = archive(tmp_path / "hollow.model", payload)
    with pytest.raises(UserError, match="hollow"):
        load_potential(path)


def test_zip_files_that_are_no_models(tmp_path):
    path = tmp_path / "a.model"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme", "hello")
    with pytest.raises(UserError) as error:
        load_potential(path)
    one_line(error)
    torch.save({"weights": torch.zeros(3)}, path)
    with pytest.raises(UserError, match="holds a dict"):
        load_potential(path)


def test_mangled_pickles_are_refused(small_mace, tmp_path):
    """Whatever a damaged file makes the reader stumble over, the user gets one line."""
    good = export_upstream(small_mace, tmp_path / "good.model")
    with zipfile.ZipFile(good) as file:
        members = {name: file.read(name) for name in file.namelist()}
    (pickled,) = [name for name in members if name.endswith("data.pkl")]
    rng = np.random.default_rng(0)
    for k in range(25):
        content = bytearray(members[pickled])
        for _ in range(8):
            content[rng.integers(len(content))] = rng.integers(256)
        if k % 5 == 0:
            content = content[: rng.integers(len(content))]
        path = tmp_path / "bad.model"
        with zipfile.ZipFile(path, "w") as file:
            for name, value in members.items():
                file.writestr(name, bytes(content) if name == pickled else value)
        try:
            load_potential(path)
        except UserError as error:
            assert "\n" not in str(error)


# --- upstream --------------------------------------------------------------------------------


def reference_values(mace_package, path, structures, **options):
    calculator = mace_package.calculators.MACECalculator(
        model_paths=str(path), device="cpu", default_dtype="float64", **options
    )
    for atoms in structures:
        probe = atoms.copy()
        probe.calc = calculator
        yield atoms, probe.get_potential_energy(), probe.get_forces()


SAVED = {
    "two heads": {
        "heads": ["pt_head", "cc"],
        "atomic_energies": np.array([[-1.0, -2.0, -3.0], [-13.6, -1030.0, -2040.0]]),
        "atomic_inter_scale": [1.3, 0.7],
        "atomic_inter_shift": [0.1, -0.2],
    },
    "float32": {"dtype": torch.float32},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SAVED)
def test_upstream_files_are_read(upstream, tmp_path, structures, name):
    path = tmp_path / "up.model"
    torch.save(build_upstream(upstream, **SAVED[name]), path)
    os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
    head = {"head": "cc"} if name == "two heads" else {}
    potential = load_potential(path, dtype="float64", **head)
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    some = (structures[0], structures[2])
    for atoms, expected, forces in reference_values(upstream, path, some, **head):
        found = evaluate(potential, atoms, forces=True)
        assert float(found.energy) == pytest.approx(expected, abs=1e-9)
        np.testing.assert_allclose(found.forces.numpy(), forces, atol=1e-9)
    if name == "two heads":
        other = load_potential(path, head="pt_head")
        ((atoms, expected, _),) = reference_values(upstream, path, some[:1], head="pt_head")
        assert energy(other, atoms) == pytest.approx(expected, abs=1e-9)
        # And on through this package's own file, the chosen head included.
        own = load_potential(save_potential(other, tmp_path / "own.safetensors"))
        assert energy(own, atoms) == energy(other, atoms)
        with pytest.raises(UserError, match="no head 'x'"):
            load_potential(path, head="x")


@pytest.mark.filterwarnings("ignore")
def test_exports_are_loaded_by_upstream(upstream, mace, tmp_path, structures):
    path = export_upstream(mace, tmp_path / "out.model")
    for atoms, found, forces in reference_values(upstream, path, structures[:4]):
        expected = evaluate(mace, atoms, forces=True)
        assert found == pytest.approx(float(expected.energy), abs=1e-9)
        np.testing.assert_allclose(forces, expected.forces.numpy(), atol=1e-9)
    again = load_potential(path)
    assert energy(again, structures[0]) == pytest.approx(energy(mace, structures[0]), abs=1e-10)
    assert torch.equal(again.e0, mace.e0)


@pytest.mark.filterwarnings("ignore")
def test_exporting_one_head_of_several(upstream, tmp_path):
    """Whichever head upstream picks, it is the one that was chosen here."""
    torch.save(build_upstream(upstream, **SAVED["two heads"]), tmp_path / "up.model")
    for head in ("cc", "pt_head"):
        potential = load_potential(tmp_path / "up.model", head=head)
        path = export_upstream(potential, tmp_path / f"{head}.model")
        ((atoms, found, _),) = reference_values(upstream, path, [molecule("CH3OH")], head=head)
        assert found == pytest.approx(energy(potential, atoms), abs=1e-9)


def test_compiled_models_are_named(tmp_path):
    path = tmp_path / "compiled.model"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("m/constants.pkl", b"")
    with pytest.raises(UserError, match="TorchScript"):
        load_potential(path)


def test_stubs_do_not_outlive_the_reading(small_mace, tmp_path):
    """Afterwards torch.load refuses what it refused before."""
    path = export_upstream(small_mace, tmp_path / "m.model")
    before = set(torch.serialization.get_safe_globals())
    load_potential(path)
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(pickle.UnpicklingError):
        torch.load(io.BytesIO(path.read_bytes()), weights_only=True)


def test_a_lone_atom_has_its_reference_energy_and_no_force(mace):
    found = evaluate(mace, Atoms("O"), forces=True, stress=True)
    assert torch.isfinite(found.energy).all()
    assert torch.equal(found.forces, torch.zeros(1, 3, dtype=torch.float64))
    assert torch.equal(found.stress, torch.zeros(1, 3, 3, dtype=torch.float64))


@pytest.mark.parametrize("n_threads", [2, 4])
def test_threads_that_load_at_once_leave_the_process_as_it_was(model_file, n_threads):
    errors, before = [], (sys.stdout, torch.nn.Module.__call__, torch.get_default_dtype())

    def load(dtype):
        try:
            loaded = load_potential(model_file, dtype=dtype)
            assert loaded.dtype == getattr(torch, dtype)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is to be seen
            errors.append(error)

    dtypes = ("float32", "float64") * (n_threads // 2)
    threads = [threading.Thread(target=load, args=(dtype,)) for dtype in dtypes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not errors
    assert (sys.stdout, torch.nn.Module.__call__, torch.get_default_dtype()) == before
    assert torch.nn.Linear(2, 2)(torch.zeros(1, 2)).shape == (1, 2)
