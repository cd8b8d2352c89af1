"""The posterior of a closed-form fit: against the textbook, and as error bars."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import molecule
from scipy.spatial.transform import Rotation

from ase_ws import PotentialCalculator
from ase_ws.calculators.guarded import GuardedCalculator, ViolationError
from ase_ws.data import BASE_MODEL, METHANOL_TEST, METHANOL_TRAIN, SMALL_CHO_GFN2
from ase_ws.errors import UserError
from ase_ws.frames import read_frames
from ase_ws.graphs import collate
from ase_ws.potentials.error_bars import ErrorBars
from ase_ws.potentials.files import load_potential, read_header, save_potential
from ase_ws.potentials.posterior import flat_weights
from ase_ws.testing.toys import tiny_mace
from ase_ws.training import evaluate_potential, finetune
from ase_ws.training.gauss_newton import _Fit, gauss_newton
from ase_ws.training.posterior import Solver, condition, sample_posterior
from ase_ws.training.tangent import Tangent

FRAMES = read_frames(f"{METHANOL_TRAIN}@:14")


@pytest.fixture(scope="module")
def base():
    return tiny_mace((1, 6, 8), e0=(-13.0, -1030.0, -2040.0), seed=1).double()


@pytest.fixture(scope="module")
def problem(base):
    return _Fit(base, FRAMES[:12], free_e0=True).linear(1e-3)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    path = tmp_path_factory.mktemp("fit")
    frames = read_frames(f"{METHANOL_TRAIN}@:44")
    result = finetune(
        frames[:40],
        frames[40:],
        model=BASE_MODEL,
        config={"optimizer": {"kind": "gauss-newton", "iterations": 4}},
        out=path / "run",
    )
    return result.path / "model.safetensors"


def jacobian(tangent):
    return tangent._rows(range(len(tangent._graphs)), None)


def covariance(problem):
    """Of weights and reference energies: the inverse of the precision that the labels leave."""
    # The same composition throughout: only one sum of reference energies is fixed by labels.
    along = problem.counts[:1] / problem.counts[0].norm()
    design = torch.cat([jacobian(problem.tangent), problem.counts @ along.T], dim=1)
    prior = torch.ones(design.shape[1], dtype=torch.float64)
    prior[-1] = 0.0  # flat
    return torch.linalg.inv(torch.diag(prior) + design.T @ design / problem.ratio), along


def test_samples_have_the_textbook_covariance(problem):
    """They are linear in what is drawn: of unit draws follows the covariance, exactly."""
    whole, along = covariance(problem)
    n_weights, n = len(problem.start), len(problem.rest)
    drawn = torch.eye(n_weights + n, dtype=torch.float64)
    weights, e0, _ = condition(problem, drawn[:n_weights], problem.ratio**0.5 * drawn[n_weights:])
    root = torch.cat([weights, along @ e0])
    tangent = Tangent(problem.tangent.potential, FRAMES)
    directions = torch.cat([jacobian(tangent), problem.counts[:1].expand(14, -1) @ along.T], dim=1)
    wanted = directions @ whole @ directions.T
    found = (directions @ root) @ (directions @ root).T
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-8 * float(wanted.max()))


def test_samples_are_drawn_from_it(problem):
    posterior = sample_posterior(problem, n_samples=300)
    tangent = Tangent(problem.tangent.potential, FRAMES)
    rows, index = jacobian(tangent), posterior.index
    generator = torch.Generator().manual_seed(1)
    prior = torch.randn(len(problem.start), 300, generator=generator, dtype=torch.float64)
    noise = torch.randn(len(problem.rest), 300, generator=generator, dtype=torch.float64)
    weights, _, amplitude = condition(problem, prior, problem.ratio**0.5 * noise)
    wanted = amplitude * (rows @ weights).square().mean(dim=1)
    found = (rows[:, index] @ posterior.weights.double().T).square().mean(dim=1)
    np.testing.assert_allclose(found, wanted, rtol=0.4)
    assert posterior.noise == pytest.approx((amplitude * problem.ratio) ** 0.5)


def amplitude_of(problem):
    kernel, along = problem.tangent.kernel(problem.tangent.weights - problem.start)
    return Solver(kernel, problem.free, problem.ratio).amplitude(problem.rest + along)


def test_the_solver_is_the_marginal_likelihood(problem):
    """Amplitude and errors left out, against solving without each structure."""
    kernel, along = problem.tangent.kernel(problem.tangent.weights - problem.start)
    target = problem.rest + along
    solver = Solver(kernel, problem.free, problem.ratio)
    inverse = solver(torch.eye(len(target), dtype=target.dtype))
    errors, variances = (inverse @ target) / inverse.diagonal(), 1.0 / inverse.diagonal()
    n = len(target)
    for k in (0, 5):
        others = [j for j in range(n) if j != k]
        # A constant is free: huge prior variance of it.
        total = kernel + 1e10 + problem.ratio * torch.eye(n, dtype=torch.float64)
        gain = torch.linalg.solve(total[others][:, others], total[others, k])
        assert float(target[k] - gain @ target[others]) == pytest.approx(float(errors[k]), rel=1e-3)
        left = float(total[k, k] - gain @ total[others, k])
        assert left == pytest.approx(float(variances[k]), rel=1e-3)


def test_without_labels_that_say_anything_it_is_the_prior(base):
    """Noise beyond all measure: weights as they were drawn, of variance a."""
    fit = _Fit(base, FRAMES[:6], free_e0=False)
    problem = fit.linear(1e12)
    posterior = sample_posterior(problem, n_samples=400)
    scale = amplitude_of(problem) ** 0.5
    assert float(posterior.weights.double().std()) == pytest.approx(scale, rel=0.02)
    assert not posterior.e0.any()


def test_labels_that_are_repeated_are_as_one_with_less_noise(base):
    frames = FRAMES[:8]
    found = []
    for times, ratio in ((1, 1e-2 / 16), (16, 1e-2)):
        problem = _Fit(base, frames * times, free_e0=False).linear(ratio)
        rows, seen = jacobian(Tangent(base, FRAMES)), jacobian(problem.tangent)
        kernel, _ = problem.tangent.kernel(problem.start)
        cross = rows @ seen.T
        gain = cross @ Solver(kernel, problem.free, ratio)(cross.T)
        found.append(rows @ rows.T - gain)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-8, atol=1e-8 * float(found[0].max()))
    assert float(found[0].diagonal()[:8].max()) < 1e-2


# --- with the model --------------------------------------------------------------------------


def test_a_closed_form_carries_it(fitted, tmp_path):
    potential = load_potential(fitted)
    posterior = potential.posterior
    assert len(posterior) == 8 and posterior.n_labels == 40
    assert posterior.elements == (1, 6, 8) and posterior.noise > 0
    header = read_header(fitted)
    assert header["format"] == 3 and header["posterior"]["head"] == "Default"
    again = load_potential(save_potential(potential, tmp_path / "again.safetensors"))
    assert torch.equal(again.posterior.weights, posterior.weights)
    assert torch.equal(again.posterior.index, posterior.index)
    # What is trained on has another, or none.
    result = finetune(
        FRAMES[:6],
        FRAMES[12:],
        model=potential,
        config={"optimizer": {"kind": "adam", "max_steps": 1}},
        out=tmp_path / "b",
    )
    assert result.potential.posterior is None
    assert read_header(result.path / "model.safetensors")["format"] == 1
    assert potential.posterior is posterior


@pytest.fixture(scope="module")
def calculator(fitted):
    return PotentialCalculator(fitted, error_bars=True, dtype="float64")


def structure(seed=0):
    atoms = molecule("CH3OH")
    atoms.rattle(0.05, seed=seed)
    return atoms


def test_error_bars_of_a_calculator(calculator, fitted):
    atoms = structure()
    atoms.calc = calculator
    plain = PotentialCalculator(fitted, dtype="float64")
    assert atoms.get_potential_energy() == pytest.approx(plain.get_potential_energy(structure()))
    np.testing.assert_allclose(atoms.get_forces(), plain.get_forces(structure()), atol=1e-10)
    spread = calculator.get_property("forces_spread", atoms)
    assert spread.shape == (6,) and (spread > 0).all()
    assert (
        calculator.get_property("energy_spread", atoms) > 6 * calculator.error_bars.posterior.noise
    )
    many = calculator.calculate_many([structure(), molecule("H2O"), structure(3)])
    np.testing.assert_allclose(many[0]["forces_spread"], spread, rtol=1e-6)
    assert [len(m["forces_spread"]) for m in many] == [6, 3, 6]


def test_they_are_those_of_the_samples(calculator):
    """By central differences along each sample, of the network as upstream has it."""
    potential, posterior = calculator.potential, calculator.error_bars.posterior
    batch = calculator.graph(structure())
    flat, h = flat_weights(potential), 1e-4
    changes, moved = [], []
    counts = torch.tensor([4.0, 1.0, 1.0], dtype=torch.float64)
    for sample, e0 in zip(posterior.weights.double(), posterior.e0, strict=True):
        way = torch.zeros_like(flat).index_add(0, posterior.index, sample)
        up, down = (
            potential.with_weights(flat + sign * h * way)(batch, forces=True) for sign in (1, -1)
        )
        change = float((up.energy - down.energy).detach()) / (2 * h) + float(e0 @ counts)
        changes.append(change)
        moved.append((up.forces - down.forces) / (2 * h))
    squares = torch.stack(moved).var(0).sum(1)
    atoms = structure()
    found = calculator.get_property("forces_spread", atoms)
    np.testing.assert_allclose(found, squares.sqrt(), rtol=0.02)
    energy = calculator.get_property("energy_spread", atoms)
    assert energy**2 - (6 * posterior.noise) ** 2 == pytest.approx(
        np.var(changes, ddof=1), rel=0.05
    )


def test_rotations_and_permutations_leave_them_alone(calculator):
    atoms = structure()
    spread = calculator.get_property("forces_spread", atoms)
    turned = atoms.copy()
    turned.positions = Rotation.random(rng=0).apply(turned.positions)
    np.testing.assert_allclose(calculator.get_property("forces_spread", turned), spread, rtol=1e-5)
    order = [3, 1, 5, 0, 2, 4]
    other = calculator.get_property("forces_spread", atoms[order])
    np.testing.assert_allclose(other, spread[order], rtol=1e-5)


def test_float32_is_good_enough(fitted, calculator):
    single = PotentialCalculator(fitted, error_bars=True)
    atoms = structure()
    wanted = calculator.get_property("forces_spread", atoms)
    np.testing.assert_allclose(single.get_property("forces_spread", atoms), wanted, rtol=0.03)
    wanted = calculator.get_property("energy_spread", atoms)
    assert single.get_property("energy_spread", atoms) == pytest.approx(wanted, rel=0.03)


def test_a_guard_takes_them(calculator):
    atoms = structure()
    limit = float(calculator.get_property("forces_spread", atoms).max())
    atoms.calc = GuardedCalculator(calculator, max_spread=1.01 * limit)
    atoms.get_forces()
    far = structure(1)
    far.rattle(0.3, seed=4)
    far.calc = GuardedCalculator(calculator, max_spread=1.01 * limit)
    with pytest.raises(ViolationError, match="spread"):
        far.get_forces()


def test_what_the_base_says_makes_it_no_surer(base):
    """Replayed frames move the fit, and are no labels: not of their elements either."""
    own = read_frames(f"{SMALL_CHO_GFN2}@:300")
    own = [f for f in own if 6 not in f.numbers][:8]
    replayed = [replace(f, weights=(0.03, 1.0, 1.0)) for f in FRAMES[:6]]
    found = gauss_newton(base, [*own, *replayed], iterations=1, posterior=own).posterior
    assert found.n_labels == len(own) == 8
    assert found.elements == (1, 8)
    every = gauss_newton(base, [*own, *replayed], iterations=1, posterior=[*own, *replayed])
    assert every.posterior.elements == (1, 6, 8)


def test_another_head_is_not_known(base):
    two = base.with_heads({"a": "Default", "b": "Default"})
    two.posterior = sample_posterior(_Fit(base, FRAMES[:6], free_e0=True).linear(1e-3))
    assert two.of_head("b").posterior is None
    assert two.of_head("a").posterior is two.posterior
    assert two.with_weights(flat_weights(two)).posterior is None


def test_models_and_elements_that_nothing_is_known_of(calculator, base):
    with pytest.raises(UserError, match="does not know how well labels fix it"):
        PotentialCalculator(base, error_bars=True)
    potential = load_potential(BASE_MODEL)
    potential.posterior = calculator.error_bars.posterior
    batch = collate([read_frames(METHANOL_TRAIN)[0].graph(potential.r_max)])
    batch.numbers[0] = 7
    with pytest.raises(UserError, match="no label of this model has N"):
        ErrorBars(potential)(batch, forces=True)


def test_a_damaged_posterior_is_one_line(fitted, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(fitted, framework="pt") as file:
        tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        header = file.metadata()
    for name, value in (
        ("posterior.index", tensors["posterior.index"] + 10**9),
        ("posterior.weights", tensors["posterior.weights"][:3]),
        ("posterior.weights", tensors["posterior.weights"] * float("nan")),
    ):
        save_file({**tensors, name: value}, tmp_path / "bad.safetensors", metadata=header)
        with pytest.raises(UserError, match=r"bad\.safetensors"):
            load_potential(tmp_path / "bad.safetensors")


def test_a_fit_gives_it_only_where_it_is_asked_for(base):
    assert gauss_newton(base, FRAMES[:8], iterations=1).posterior is None
    assert len(gauss_newton(base, FRAMES[:8], iterations=1, posterior=FRAMES[:8]).posterior) == 8


# --- expected errors in evaluate -------------------------------------------------------------


def test_evaluate_says_what_is_to_be_expected(fitted, cli, tmp_path):
    code, out, err = cli("evaluate", fitted, f"{METHANOL_TEST}@:20")
    assert code == 0
    said = json.loads(out)
    forces = said["expected_forces_rmse_mev_per_angstrom"]
    # Forty energies, no force: within a factor of two of what is true is not luck.
    assert 0.5 < forces / said["forces_rmse_mev_per_angstrom"] < 2.0
    assert "expected from the model's labels alone" in " ".join(err.split())
    potential = load_potential(fitted)
    frames = read_frames(f"{METHANOL_TEST}@:20")
    evaluation = evaluate_potential(potential, frames, error_bars=True)
    each = evaluation.expected_of_frames()
    assert [e for e, _ in each] == sorted((e for e, _ in each), reverse=True)
    mean = np.sqrt(np.mean(np.square([e for e, _ in each])))
    assert mean == pytest.approx(forces, rel=1e-4)
    code, out, _ = cli("evaluate", fitted, f"{METHANOL_TEST}@:2", "--no-error-bars")
    assert "expected_forces_rmse_mev_per_angstrom" not in json.loads(out)


def test_frames_without_labels_have_expected_errors(fitted, cli, tmp_path):
    import ase.io

    ase.io.write(tmp_path / "bare.xyz", [structure(k) for k in range(3)])
    code, out, err = cli("evaluate", fitted, tmp_path / "bare.xyz", "--out", tmp_path / "p.xyz")
    assert code == 0, err
    assert json.loads(out)["expected_forces_rmse_mev_per_angstrom"] > 0
    (first, *_) = ase.io.read(tmp_path / "p.xyz", ":")
    assert first.arrays["ase_ws_forces_spread"].shape == (6,)
    assert first.info["ase_ws_energy_spread"] > 0
    assert cli("evaluate", fitted, tmp_path / "bare.xyz")[0] == 0
    # A model that knows nothing of its errors wants labels.
    assert cli("evaluate", BASE_MODEL, tmp_path / "bare.xyz")[0] == 2
