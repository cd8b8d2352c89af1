"""Direct-force models: symmetries, what is removed, files, training, what they say they are."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from ase_ws import PotentialCalculator, load_potential, save_potential
from ase_ws.frames import Frame
from ase_ws.graphs import sum_by_graph
from ase_ws.potentials.derivatives import energy_forces
from ase_ws.potentials.mace.direct import DirectPotential, ReadoutSettings, without_net
from ase_ws.potentials.mace.upstream import export_upstream
from ase_ws.stability import check_stability
from ase_ws.stability.static import Work
from ase_ws.testing import Curl, Harmonic, tiny_mace
from ase_ws.training import evaluate_potential, finetune


@pytest.fixture(scope="module")
def structures():
    rng = np.random.default_rng(3)
    carbon = bulk("C", "diamond", a=3.6)
    out = [molecule("CH3OH"), molecule("H2O"), carbon, molecule("CO2"), Atoms("H")]
    for atoms in out:
        atoms.positions += rng.normal(0, 0.08, atoms.positions.shape)
    return out


@pytest.fixture(scope="module", params=["vectors everywhere", "vectors in the first layer"])
def direct(request, direct_mace, mace):
    if request.param == "vectors everywhere":
        return direct_mace
    return DirectPotential(tiny_mace(e0=mace.e0), ReadoutSettings(scale=2.0), seed=2)


# --- the readout -----------------------------------------------------------------------------


def test_energy_is_the_bodys_and_forces_are_not_its_gradient(direct, structures, to_graph):
    batch = to_graph(structures, direct.r_max)
    found = direct(batch, forces=True)
    expected = direct.body(batch, forces=True)
    torch.testing.assert_close(found.energy, expected.energy, rtol=1e-13, atol=0)
    assert found.forces[:6].abs().min() > 1e-6
    assert (found.forces - expected.forces).abs().max() > 1e-3
    assert not direct.conservative
    torch.testing.assert_close(energy_forces(direct, batch), expected.forces)


@pytest.mark.parametrize("improper", [False, True])
def test_forces_turn_with_the_structure(direct, structures, to_graph, improper):
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    rotation *= torch.det(rotation) * (-1 if improper else 1)
    batch = to_graph(structures, direct.r_max)
    turned = replace(
        batch, positions=batch.positions @ rotation.T + 3.0, cell=batch.cell @ rotation.T
    )
    a, b = direct(batch, forces=True), direct(turned, forces=True)
    torch.testing.assert_close(b.energy, a.energy, rtol=1e-12, atol=0)
    torch.testing.assert_close(b.forces, a.forces @ rotation.T, rtol=0, atol=1e-10)


def test_no_net_force_and_no_net_torque(direct, structures, to_graph):
    batch = to_graph(structures, direct.r_max)
    forces = direct(batch, forces=True).forces
    assert sum_by_graph(forces, batch).abs().max() < 1e-12
    torque = sum_by_graph(torch.linalg.cross(batch.positions, forces), batch)
    isolated = ~batch.pbc.any(dim=1)
    assert torque[isolated].abs().max() < 1e-8


def test_a_crystal_keeps_its_torque(to_graph):
    atoms = bulk("C", "diamond", a=3.6) * (2, 1, 1)
    forces = torch.randn(len(atoms), 3, dtype=torch.float64)
    batch = to_graph(atoms, 3.0)
    torch.testing.assert_close(without_net(forces, batch), forces - forces.mean(dim=0))


@pytest.mark.parametrize("bend", [0.0, 1e-9, 1e-5, 1e-2])
def test_linear_molecules_lose_no_force_along_their_axis(bend, to_graph):
    """Without a moment of inertia about its axis the equations are singular."""
    positions = np.array([[-1.2, 0, 0], [0, bend, 0], [1.1, 0, 0]])
    atoms = Atoms("OCO", positions)
    batch = to_graph(atoms, 3.0)
    along = torch.tensor([[1.0, 0, 0], [0.5, 0, 0], [-1.5, 0, 0]], dtype=torch.float64)
    found = without_net(along, batch)
    assert torch.isfinite(found).all()
    assert (found - along).abs().max() <= 2 * bend + 1e-12
    across = torch.tensor([[0, 1.0, 0], [0, 0, 0], [0, -1.0, 0]], dtype=torch.float64)
    left = torch.linalg.cross(batch.positions, without_net(across, batch)).sum(dim=0)
    assert left.abs().max() < 1e-8


def test_one_atom_and_two(to_graph):
    batch = to_graph([Atoms("H"), molecule("H2")], 3.0)
    forces = torch.randn(3, 3, dtype=torch.float64)
    found = without_net(forces, batch)
    assert found[0].abs().max() == 0.0
    axis = torch.nn.functional.normalize(batch.positions[2] - batch.positions[1], dim=0)
    torch.testing.assert_close(found[1], (found[1] @ axis) * axis, rtol=0, atol=1e-8)
    torch.testing.assert_close(found[1], -found[2])


def test_no_backward_pass(direct, to_graph):
    with torch.inference_mode():
        found = direct(to_graph(molecule("H2O"), direct.r_max), forces=True)
    assert found.forces.grad_fn is None


def test_batch_equals_single_and_longer_edges_add_nothing(direct, structures, to_graph):
    together = direct(to_graph(structures, direct.r_max + 0.7), forces=True)
    alone = [direct(to_graph(a, direct.r_max), forces=True) for a in structures]
    torch.testing.assert_close(together.energy, torch.cat([p.energy for p in alone]))
    torch.testing.assert_close(
        together.forces, torch.cat([p.forces for p in alone]), rtol=1e-10, atol=1e-12
    )


def test_forces_vanish_smoothly_at_the_cutoff(direct, to_graph):
    """Two atoms that part: no force beyond the cutoff, none to speak of just before it."""
    sizes = []
    for gap in (-0.3, -0.1, -0.01, -0.001, 0.001):
        batch = to_graph(Atoms("HO", [[0, 0, 0], [0, 0, direct.r_max + gap]]), direct.r_max + 1.0)
        sizes.append(direct(batch, forces=True).forces.norm().item())
    assert sizes[-1] == 0.0
    assert 0 < sizes[-2] < 1e-3 * sizes[0]


def test_stress_is_the_energys(direct, to_graph):
    atoms = bulk("C", "diamond", a=3.6)
    batch = to_graph(atoms, direct.r_max)
    found = direct(batch, forces=True, stress=True)
    expected = direct.body(batch, forces=False, stress=True)
    torch.testing.assert_close(found.stress, expected.stress)
    torch.testing.assert_close(found.forces, direct(batch, forces=True).forces)
    assert direct(batch, forces=False, stress=True).forces is None


# --- files and the calculator ----------------------------------------------------------------


def test_the_file_holds_everything(direct, structures, to_graph, tmp_path):
    path = save_potential(direct, tmp_path / "direct.safetensors", {"made": "here"})
    again = load_potential(path)
    assert isinstance(again, DirectPotential)
    batch = to_graph(structures, direct.r_max)
    for a, b in zip(direct(batch, forces=True), again(batch, forces=True), strict=True):
        if a is not None:
            torch.testing.assert_close(a, b, rtol=0, atol=0)
    single = load_potential(path, dtype="float32")
    assert single.e0.dtype == torch.float64
    assert torch.equal(single.e0, direct.e0)
    assert single.reference_energies is single.body.reference_energies
    rounded = single(batch.to("cpu", torch.float32), forces=True)
    torch.testing.assert_close(
        rounded.forces.double(), direct(batch, forces=True).forces, rtol=0, atol=1e-4
    )


def test_upstream_has_no_direct_forces(direct, tmp_path):
    with pytest.raises(ValueError, match="conservative"):
        export_upstream(direct, tmp_path / "out.model")
    assert not list(tmp_path.iterdir())


def test_the_calculator_says_what_it_is(direct):
    calculator = PotentialCalculator(direct)
    assert calculator.conservative is False
    atoms = molecule("CH3OH")
    atoms.calc = calculator
    assert np.isfinite(atoms.get_forces()).all()
    assert np.abs(atoms.get_forces().sum(axis=0)).max() < 1e-10


# --- evaluation ------------------------------------------------------------------------------


def test_consistency_of_a_known_curl():
    """F − (−dE/dr) = c × r exactly, with labels or without."""
    axis = np.array([0.0, 0.0, 0.3])
    potential = Curl(Harmonic(), tuple(axis))
    atoms = molecule("H2O")
    frame = Frame(atoms.numbers, atoms.positions, np.zeros((3, 3)), np.zeros(3, bool), energy=1.0)
    found = evaluate_potential(potential, [frame]).metrics
    expected = 1e3 * np.sqrt(np.mean(np.cross(axis, atoms.positions) ** 2))
    assert found["force_consistency_rmse_mev_per_angstrom"] == pytest.approx(expected, rel=1e-9)
    assert found["forces_rmse_mev_per_angstrom"] is None
    plain = evaluate_potential(Harmonic(), [frame]).metrics
    assert plain["force_consistency_rmse_mev_per_angstrom"] is None


# --- training --------------------------------------------------------------------------------


def test_from_scratch_with_the_weak_losses(frame_files, tmp_path, quick, cli):
    run = tmp_path / "run"
    sets = [f"--set=model.{k}={v}" for k, v in quick()["model"].items()]
    code, _, err = cli(
        "finetune", "--train", frame_files / "train.xyz", "--valid", frame_files / "valid.xyz",
        "--forces", "direct", "--weak", "both", "--max-steps", 6, *sets, "--out", run, "--quiet",
    )  # fmt: skip
    assert code == 0, err
    potential = load_potential(run / "model.safetensors")
    assert isinstance(potential, DirectPotential)
    assert potential.body.architecture.keep_last_layer_irreps
    text = (run / "config.yaml").read_text()
    assert "forces: direct" in text
    assert "order: 2" in text
    metrics = tmp_path / "errors.json"
    code, _, err = cli(
        "evaluate", run / "model.safetensors", frame_files / "valid.xyz", "--json", metrics
    )
    assert code == 0, err
    assert json.loads(metrics.read_text())["force_consistency_rmse_mev_per_angstrom"] > 0
    code, out, _ = cli("info", run / "model.safetensors")
    assert code == 0
    assert "not conservative" in out


def test_a_readout_is_added_to_a_base_and_taken_off(labelled, tmp_path, quick, small_mace):
    frames = labelled(8)
    common = quick(optimizer={"max_steps": 3, "valid_interval": 3})
    direct = finetune(
        frames[:6], frames[6:], model=small_mace, out=tmp_path / "direct",
        config={**common, "model": {"forces": "direct"}},
    )  # fmt: skip
    assert isinstance(direct.potential, DirectPotential)
    assert small_mace.conservative
    # A model keeps the kind of forces that it has.
    again = finetune(
        frames[:6], frames[6:], model=tmp_path / "direct" / "model.safetensors",
        out=tmp_path / "again", config={**common, "model": {}},
    )  # fmt: skip
    assert isinstance(again.potential, DirectPotential)
    back = finetune(
        frames[:6], frames[6:], model=tmp_path / "direct" / "model.safetensors",
        out=tmp_path / "back", config={**common, "model": {"forces": "conservative"}},
    )  # fmt: skip
    assert back.potential.conservative
    assert back.potential.kind == "mace"


def test_energies_alone_cannot_train_a_force_readout(frame_files, tmp_path, cli):
    code, _, err = cli(
        "finetune", "--train", frame_files / "energies.xyz", "--forces", "direct",
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert code == 2
    assert "no training frame has forces" in err
    assert not (tmp_path / "run").exists()


# --- stability -------------------------------------------------------------------------------


def test_the_stability_suite_says_by_how_much():
    """Against the exact answer: RMS of c × r over the components, for a curl c."""
    axis = np.array([0.0, 0.0, 0.3])
    atoms = molecule("CH3OH")
    atoms.calc = PotentialCalculator(Curl(Harmonic(2.0), tuple(axis)))
    exact = 1e3 * np.sqrt(np.mean(np.cross(axis, atoms.positions) ** 2))
    found = Work().run(atoms)
    assert found.check.status == "warned"
    told = float(found.findings[0].message.split(" meV/Å")[0].split()[-1])
    assert told == pytest.approx(exact, rel=0.1)
    atoms.calc = PotentialCalculator(Harmonic(2.0))
    assert not Work().run(atoms).findings


def test_the_stability_report_of_a_direct_model(direct):
    report = check_stability(
        molecule("CH3OH"), PotentialCalculator(direct), temperature=10, ps=0.01, relax_steps=0
    )
    check = next(c for c in report.static if c.name == "work")
    assert check.status == "warned"
    assert check.worst > 1e-3
    assert "not the gradient of the energy" in report.summary()


def test_md_says_that_energy_is_not_conserved(direct, tmp_path, cli):
    from ase.io import write

    save_potential(direct, tmp_path / "direct.safetensors")
    write(tmp_path / "molecule.xyz", molecule("CH3OH"))
    for quiet in (False, True):
        code, _, err = cli(
            "md", tmp_path / "direct.safetensors", tmp_path / "molecule.xyz", "--steps", 2,
            "--temperature", 10, "--out", tmp_path / f"md{quiet}", *(["--quiet"] if quiet else []),
        )  # fmt: skip
        assert code == 0, err
        assert ("not the gradient" in err) is not quiet
