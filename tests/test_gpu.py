"""On a GPU: what the CPU says. Skipped where there is none."""

import copy
import json

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.io import write

from ase_ws import PotentialCalculator, finetune, load_potential
from ase_ws.calculators import CommitteeCalculator
from ase_ws.data import BASE_MODEL, METHANOL_TRAIN
from ase_ws.frames import read_frames
from ase_ws.graphs import collate
from ase_ws.losses import (
    CurlLoss,
    GradientLoss,
    NoisyNodesLoss,
    PISCLoss,
    PITCLoss,
    Reference,
    TaylorLabelLoss,
)
from ase_ws.md import run_replicas
from ase_ws.potentials.files import save_potential
from ase_ws.stability import check_stability
from ase_ws.testing import tiny_mace

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no GPU that torch can use is here"
)
#: In float64 the GPU differs by the order of its sums.
CLOSE = {"rtol": 1e-8, "atol": 1e-8}


@pytest.fixture
def models(mace, direct_mace):
    return {"conservative": mace, "direct": direct_mace}


def results(potential, atoms, properties, **options):
    calculator = PotentialCalculator(potential, **options)
    (found,) = calculator.calculate_many([atoms], properties)
    return found


# --- calculators ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["conservative", "direct"])
@pytest.mark.parametrize(("dtype", "close"), [("float64", 1e-8), ("float32", 2e-4)])
def test_calculators_agree(models, structures, kind, dtype, close):
    for atoms in structures:
        properties = ["energy", "forces"]
        properties += ["stress"] if kind == "conservative" and atoms.pbc.all() else []
        cpu, gpu = (
            results(models[kind], atoms, properties, dtype=dtype, device=device)
            for device in ("cpu", "cuda")
        )
        for name in properties:
            np.testing.assert_allclose(gpu[name], cpu[name], rtol=1e-7, atol=close)


def test_one_structure_after_the_other(mace):
    """Through ASE, with the neighbour list kept and renewed."""
    atoms = molecule("CH3OH")
    cpu, gpu = (PotentialCalculator(mace, device=d) for d in ("cpu", "cuda"))
    rng = np.random.default_rng(0)
    for size in (0.0, 0.01, 0.4):
        atoms.positions += rng.normal(0, size, atoms.positions.shape)
        found = [(c.get_potential_energy(atoms), c.get_forces(atoms)) for c in (cpu, gpu)]
        np.testing.assert_allclose(found[1][0], found[0][0], **CLOSE)
        np.testing.assert_allclose(found[1][1], found[0][1], **CLOSE)
    # The potential that was given stays where it was.
    assert mace.device.type == "cpu"


def test_committees_agree(mace):
    members = [mace, tiny_mace(e0=mace.e0.tolist(), seed=7)]
    found = []
    for device in ("cpu", "cuda"):
        atoms = molecule("CH3OH")
        atoms.calc = CommitteeCalculator(members, device=device)
        atoms.get_forces()
        found.append({k: atoms.calc.results[k] for k in ("energy", "forces", "forces_spread")})
    for name, expected in found[0].items():
        np.testing.assert_allclose(found[1][name], expected, **CLOSE)


def test_a_saved_model_loads_there(small_mace, tmp_path):
    path = save_potential(small_mace, tmp_path / "model.safetensors")
    assert load_potential(path, device="cuda").device.type == "cuda"
    cpu, gpu = (
        results(path, molecule("CH3OH"), ["energy"], device=device) for device in ("cpu", "auto")
    )
    np.testing.assert_allclose(gpu["energy"], cpu["energy"], **CLOSE)


# --- training ---------------------------------------------------------------------------------

LOSSES = {
    "gradient": GradientLoss(0.05, at_labels=0.5),
    "curl": CurlLoss(0.05),
    "taylor": TaylorLabelLoss(0.05),
    "noisy nodes": NoisyNodesLoss(0.05),
    "PITC": PITCLoss(0.05),
    "PITC, order 2": PITCLoss(0.05, order=2, detach_target=True),
    "PISC": PISCLoss(0.05),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("kind", ["conservative", "direct"])
def test_losses_and_their_gradients_agree(models, labelled, kind, name):
    loss = LOSSES[name]
    batch = collate([f.graph(models[kind].r_max + loss.skin) for f in read_frames(labelled(3))])
    found = []
    for device in ("cpu", "cuda"):
        potential = copy.deepcopy(models[kind]).to(device).requires_grad_(True)
        moved = batch.to(device, torch.float64)
        prediction = potential(moved, forces=True, create_graph=True)
        generator = torch.Generator().manual_seed(0)
        value = loss(potential, moved, prediction, generator=generator)
        weights = list(potential.parameters())
        gradient = torch.autograd.grad(value, weights, allow_unused=True)
        found.append([value, *(g for g in gradient if g is not None)])
    for gpu, cpu in zip(found[1], found[0], strict=True):
        scale = float(cpu.detach().abs().max()) or 1.0
        torch.testing.assert_close(gpu.cpu(), cpu, rtol=1e-7, atol=1e-8 * max(1.0, scale))


def test_the_difference_to_a_base_agrees(models, labelled):
    mace, other = models["conservative"], tiny_mace(e0=(-13.6, -1030.0, -2040.0), seed=5)
    values = []
    for device in ("cpu", "cuda"):
        potential, base = (copy.deepcopy(m).to(device) for m in (mace, other))
        loss = PITCLoss(0.05, reference=Reference(base))
        frames = read_frames(labelled(3))
        batch = collate([f.graph(potential.r_max + loss.skin, k) for k, f in enumerate(frames)])
        moved = batch.to(device, torch.float64)
        prediction = potential(moved, forces=True, create_graph=True)
        generator = torch.Generator().manual_seed(0)
        values.append(loss(potential, moved, prediction, generator=generator).item())
    np.testing.assert_allclose(values[1], values[0], **CLOSE)


@pytest.mark.parametrize("forces", ["conservative", "direct"])
@pytest.mark.parametrize("weak", ["none", "auto", "both"])
def test_runs_agree(labelled, quick, tmp_path, forces, weak):
    histories = []
    for device in ("cpu", "cuda"):
        config = quick(device=device, weak={"kind": weak}, model={"forces": forces})
        out = tmp_path / device
        result = finetune(labelled(10), labelled(3, seed=50), config=config, out=out)
        histories.append([row["valid_loss"] for row in result.history])
        # Whatever it was trained on: a result is used on any machine.
        assert result.potential.device.type == "cpu"
    np.testing.assert_allclose(histories[1], histories[0], rtol=1e-6)


def test_a_run_goes_on_there(labelled, quick, tmp_path):
    frames, valid = labelled(8), labelled(2, seed=20)
    optimizer = {"max_steps": 15, "valid_interval": 4, "ema_decay": 0.8}
    settings = quick(device="cuda", optimizer=optimizer, weak={"kind": "pitc"})
    whole = finetune(frames, valid, config=settings, out=tmp_path / "whole")

    def interrupt(done, _total, _row):
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(frames, valid, config=settings, out=tmp_path / "cut", progress=interrupt)
    resumed = finetune(frames, valid, config=settings, out=tmp_path / "cut", resume=True)
    losses = [[row["valid_loss"] for row in r.history] for r in (whole, resumed)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-6)


def test_gauss_newton_agrees(tmp_path):
    frames = read_frames(f"{METHANOL_TRAIN}@:24")
    losses = []
    for device in ("cpu", "cuda"):
        config = {"device": device, "optimizer": {"kind": "gauss-newton"}}
        result = finetune(
            frames[:18], frames[18:], model=BASE_MODEL, config=config, out=tmp_path / device
        )
        losses.append([row["valid_loss"] for row in result.history])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-2)


# --- MD and the suite -------------------------------------------------------------------------


@pytest.mark.parametrize("ensemble", ["nve", "nvt"])
def test_replicas_agree(mace, ensemble):
    ends = []
    for device in ("cpu", "cuda"):
        runs = run_replicas(
            [molecule("CH3OH"), molecule("H2O"), bulk("C", cubic=True)],
            PotentialCalculator(mace, device=device),
            ensemble=ensemble,
            temperature=300,
            steps=20,
            seeds=(0, 1, 2),
        )
        ends.append(np.concatenate([r.atoms.positions for r in runs]))
    np.testing.assert_allclose(ends[1], ends[0], atol=1e-7)


def test_the_suite_runs_there():
    calculator = PotentialCalculator(BASE_MODEL, device="cuda")
    report = check_stability(molecule("CH3OH"), calculator, temperature=300, ps=0.2, replicas=4)
    assert len(report.replicas) == 4
    assert all(r.simulated_ps == pytest.approx(0.2) for r in report.replicas)


def test_from_the_command_line(cli, frame_files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("structure.xyz", molecule("CH3OH"))
    train, valid = frame_files / "train.xyz", frame_files / "valid.xyz"
    short = ["--max-steps", "4", "--forces", "direct", "--weak", "auto", "--out", "run"]
    files = ["--train", train, "--valid", valid]
    code, _, err = cli("finetune", *files, *short, "--device", "cuda")
    assert code == 0, err
    model = "run/model.safetensors"
    lines = []
    for device in ("cpu", "cuda"):
        code, _, err = cli("evaluate", model, valid, "--device", device, "--json", f"{device}.json")
        assert code == 0, err
        lines.append(json.loads((tmp_path / f"{device}.json").read_text()))
    assert lines[1].keys() == lines[0].keys()
    steps = ["--steps", "5", "--out", "md"]
    code, _, err = cli("md", model, "structure.xyz", "--device", "cuda", *steps)
    assert code == 0, err
    runs = ["--temperature", "300", "--ps", "0.05", "--replicas", "2", "--out", "checks"]
    code, _, err = cli("stability", model, "structure.xyz", *runs, "--device", "cuda")
    assert code in (0, 3), err
