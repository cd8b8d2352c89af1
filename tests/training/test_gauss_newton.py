"""Fine-tuning on energies in closed form."""

import math

import numpy as np
import pytest
import torch
from ase.io import read

from ase_ws.data import BASE_MODEL, METHANOL_TEST, METHANOL_TRAIN
from ase_ws.errors import UserError
from ase_ws.frames import read_frames
from ase_ws.potentials.files import load_potential
from ase_ws.testing.toys import tiny_mace
from ase_ws.training import evaluate_potential, finetune
from ase_ws.training import gauss_newton as module
from ase_ws.training import tangent as tangent_module
from ase_ws.training.config import FinetuneConfig
from ase_ws.training.config_files import load_config
from ase_ws.training.gauss_newton import NOISE, gauss_newton, most_likely
from ase_ws.training.prepare import prepare
from ase_ws.training.start import refit_e0
from ase_ws.training.tangent import Tangent


@pytest.fixture(scope="module")
def frames():
    return read_frames(f"{METHANOL_TRAIN}@:16")


@pytest.fixture
def base(frames):
    potential = load_potential(BASE_MODEL)
    refit_e0(potential, frames, {})
    return potential


def errors(potential):
    return evaluate_potential(potential, read_frames(METHANOL_TEST)).metrics


def test_forces_never_seen_get_better(base, frames):
    before = errors(base)["forces_rmse_mev_per_angstrom"]
    fitted = gauss_newton(base, frames)
    after = errors(fitted.to(torch.float32))["forces_rmse_mev_per_angstrom"]
    assert after < 0.7 * before


def test_the_first_iteration_is_the_gaussian_process_of_the_tangent_kernel(base, frames):
    """Against ridge regression on the weights with the constant taken off by hand."""
    few = frames[:6]
    seen = []
    fitted = gauss_newton(base, few, iterations=1, report=lambda s, p: seen.append(s))
    double = base.to(torch.float64)
    sizes = torch.full((6,), 6.0, dtype=torch.float64)
    tangent = Tangent(double, few)
    jacobian, energies = tangent._rows(range(6), None), tangent.energies()
    labels = torch.tensor([f.energy for f in few], dtype=torch.float64) / sizes
    # One composition: what is free is a constant.
    j = jacobian - jacobian.mean(0)
    y = labels - energies
    y = y - y.mean()
    # The mean of the kernel in the complement of the constant, which has one dimension less.
    scale = float((j * j).sum()) / 5
    gram = j @ j.T + seen[0].noise * scale * torch.eye(6)
    expected = j.T @ torch.linalg.solve(gram, y)
    moved = Tangent(fitted, few).weights - tangent.weights
    assert torch.allclose(moved, expected, atol=1e-9 * float(expected.abs().max()) + 1e-12)


def test_the_evidence_finds_the_noise():
    """Draws from a Gaussian process with known noise, many points."""
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(0, 20, 300))
    kernel = torch.from_numpy(np.exp(-0.5 * (x[:, None] - x) ** 2))
    for noise in (0.003, 0.3):
        smooth = rng.multivariate_normal(np.zeros(300), kernel.numpy() + 1e-10 * np.eye(300))
        target = torch.from_numpy(smooth + math.sqrt(noise) * rng.normal(size=300))
        found, _ = most_likely(kernel, target)
        assert noise / 2.5 < found < noise * 2.5


def test_nan_does_not_pass():
    kernel = torch.eye(4, dtype=torch.float64)
    target = torch.full((4,), float("nan"), dtype=torch.float64)
    with pytest.raises(UserError, match="not finite"):
        most_likely(kernel, target)


def test_as_many_energies_as_compositions_is_an_error(base, frames):
    with pytest.raises(UserError, match="give more structures"):
        gauss_newton(base, frames[:2])


def test_blocks_give_the_same(frames, monkeypatch):
    """Where the gradients do not fit into memory they are made again, of what counts only."""
    few = frames[:7]
    base = tiny_mace((1, 6, 8, 14))
    moved = torch.randn_like(Tangent(base, few).weights)
    whole, parts = Tangent(base, few), []
    kernel, along = whole.kernel(moved)
    # Three at a time, without what no structure says anything about: silicon's.
    monkeypatch.setattr(tangent_module, "MOST_NUMBERS", 3 * len(moved))
    blocked = Tangent(base, few, parts.append)
    kernel_of_blocks, along_of_blocks = blocked.kernel(moved)
    torch.testing.assert_close(kernel_of_blocks, kernel, rtol=1e-10, atol=0.0)
    torch.testing.assert_close(along_of_blocks, along, rtol=1e-10, atol=1e-12)
    assert len(blocked._which()) < len(moved)
    assert parts == sorted(parts) and parts[-1] == 1.0 and len(parts) > 3
    rows = whole._rows(range(7), None)
    values = torch.randn(7, dtype=torch.float64)
    torch.testing.assert_close(whole.transposed(values), rows.T @ values)


def test_a_step_too_far_is_halved(base, frames, monkeypatch):
    """Wherever the linear problem points, the fit is never worse than at the start."""
    start = module._Fit(base, frames, free_e0=True).rmse

    def steps(factor):
        def far(kernel, target, noises=NOISE):
            noise, dual = most_likely(kernel, target, noises)
            return noise, factor * dual

        monkeypatch.setattr(module, "most_likely", far)
        seen = []
        gauss_newton(base, frames, report=lambda s, p: seen.append(s))
        assert seen[-1].last and seen[-1].rmse <= start * (1 + 1e-9)
        return seen

    too_far, wrong_way = steps(30.0), steps(-1.0)
    assert 0 < too_far[0].taken < 0.2 and too_far[0].rmse < 0.9 * start
    assert [s.taken for s in wrong_way] == [0.0]
    assert wrong_way[0].rmse == pytest.approx(start)


def test_reference_energies_that_are_given_stand(base, frames, tmp_path):
    """Kept on wish, and where isolated atoms fix them; the labels are still explained."""
    kept = base.e0.clone()
    fitted = gauss_newton(base, frames, free_e0=False)
    assert torch.equal(fitted.e0, kept)
    free = gauss_newton(base, frames)
    assert not torch.equal(free.e0, kept)
    key = "energy_rmse_mev_per_atom"
    before = evaluate_potential(base, frames).metrics[key]
    for potential in (fitted, free):
        assert evaluate_potential(potential, frames).metrics[key] < 0.5 * before


def test_isolated_atoms_fix_them(tmp_path, frames):
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    atoms = []
    for symbol, energy in (("H", -13.6), ("C", -1030.0), ("O", -2043.0)):
        atom = Atoms(symbol)
        atom.calc = SinglePointCalculator(atom, energy=energy)
        atoms.append(atom)
    structures = read(f"{METHANOL_TRAIN}@:12")
    # Not those of this base model, whose own reference energies were fitted.
    data = {"e0s": "atoms"}
    gn = {"optimizer": {"kind": "gauss-newton", "iterations": 2}, "data": data}
    labels = [*atoms, *structures[:8]], structures[8:]
    result = finetune(*labels, model=BASE_MODEL, config=gn, out=tmp_path / "run")
    adam = finetune(
        *labels,
        model=BASE_MODEL,
        config={"optimizer": {"max_steps": 1}, "data": data},
        out=tmp_path / "adam",
    )
    assert result.history[-1]["step"] > 0
    assert torch.equal(result.potential.e0, adam.potential.e0)


def test_the_noise_range_holds_the_prior():
    assert NOISE[0] < 10 ** module.NOISE_PRIOR[0] < NOISE[-1]


def test_finetune_takes_it_by_default(tmp_path):
    said = []
    result = finetune(
        f"{METHANOL_TRAIN}@:50",
        f"{METHANOL_TRAIN}@50:58",
        model=BASE_MODEL,
        config={"optimizer": {"iterations": 2}},
        out=tmp_path / "run",
        announce=said.append,
    )
    assert any("gauss-newton" in line for line in said)
    assert result.kept_step == result.history[-1]["step"] == 2
    assert [row["step"] for row in result.history] == list(range(result.kept_step + 1))
    assert result.potential.dtype == torch.float32
    again = finetune(config=tmp_path / "run" / "config.yaml", out=tmp_path / "again")
    assert errors(again.potential) == errors(result.potential)


@pytest.mark.parametrize(("n", "closed"), [(49, False), (50, True)])
def test_energies_that_are_held_out_count(n, closed):
    """50 energies in a file are 50, though a tenth of them validates."""
    plan = prepare(FinetuneConfig(), f"{METHANOL_TRAIN}@:{n}", model=BASE_MODEL)
    assert (plan.config.optimizer.kind == "gauss-newton") is closed
    assert any(f"{n} energies, fewer than 50" in line for line in plan.choices) is not closed


@pytest.mark.parametrize(
    "given",
    [
        {"optimizer": {"learning_rate": 1e-3}},
        {"optimizer": {"max_steps": 30}},
        {"optimizer": {"batch_size": 20}},
        {"loss": {"metric": "huber"}},
        {"loss": {"stress_weight": 1.0}},
        {"optimizer": {"kind": "adam"}},
        {"weak": {"kind": "both"}},
    ],
)
def test_a_setting_of_adam_means_adam(given):
    config = FinetuneConfig(model={"base": "b"}, **given)
    assert config.resolved(has_forces=False, closed_form=True).optimizer.kind == "adam"


def test_what_is_written_goes_with_the_other_optimizer_too(tmp_path):
    """Settings of one never become those of the other."""
    given = FinetuneConfig.model_validate(
        {"model": {"base": "b"}, "optimizer": {"max_steps": None}}
    )
    closed = given.resolved(has_forces=False, closed_form=True)
    assert closed.optimizer.kind == "gauss-newton"
    closed.write(tmp_path / "c.yaml")
    again = load_config(tmp_path / "c.yaml", options={"optimizer.kind": "adam"})
    assert again.resolved(has_forces=False).optimizer.max_steps == 1000


def test_too_few_energies_cost_no_earlier_run(tmp_path):
    """Adam by default; asked for Gauss-Newton, an error before anything is written."""
    out = tmp_path / "run"
    few = (f"{METHANOL_TRAIN}@:6", f"{METHANOL_TRAIN}@6:8")
    finetune(*few, model=BASE_MODEL, out=out, config={"optimizer": {"max_steps": 2}})
    before = (out / "model.safetensors").read_bytes()
    two = (f"{METHANOL_TRAIN}@:2", f"{METHANOL_TRAIN}@6:8")
    config = {"optimizer": {"kind": "gauss-newton"}}
    with pytest.raises(UserError, match="give more structures"):
        finetune(*two, model=BASE_MODEL, out=out, config=config, overwrite=True)
    assert (out / "model.safetensors").read_bytes() == before


def test_frozen_weights_stay(base, frames):
    frozen = base.network.readouts
    for weight in frozen.parameters():
        weight.requires_grad_(False)
    fitted = gauss_newton(base, frames[:6], iterations=1)
    for old, new in zip(frozen.parameters(), fitted.network.readouts.parameters(), strict=True):
        assert torch.equal(old.double(), new)


@pytest.mark.parametrize(
    ("given", "has_forces", "conservative"),
    [({}, True, True), ({}, False, False), ({"weak": {"kind": "both"}}, False, True)],
)
def test_what_it_cannot_do_is_an_error(given, has_forces, conservative):
    config = FinetuneConfig(model={"base": "b"}, optimizer={"kind": "gauss-newton"}, **given)
    with pytest.raises(UserError, match="energies alone"):
        config.resolved(has_forces=has_forces, conservative=conservative, closed_form=True)
