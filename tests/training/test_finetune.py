"""Training on tiny models: it runs, it repeats, it resumes, and it refuses bad input whole."""

import csv
import logging
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from ase_ws import finetune, load_potential
from ase_ws.calculators import PotentialCalculator
from ase_ws.errors import UserError
from ase_ws.frames import read_frames
from ase_ws.potentials.files import read_header
from ase_ws.testing import tiny_mace
from ase_ws.training.config import FinetuneConfig
from ase_ws.training.config_files import load_config
from ase_ws.training.evaluate import evaluate_potential


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


FILES = ["config.yaml", "last.ckpt", "metrics.csv", "model.safetensors"]


def same(a, b, tolerance=0.0):
    one, two = a.state_dict(), b.state_dict()
    assert set(one) == set(two)
    for name in one:
        if one[name].is_floating_point():
            torch.testing.assert_close(one[name], two[name], rtol=0, atol=tolerance)
    torch.testing.assert_close(a.e0, b.e0, rtol=0, atol=tolerance)


def differ(a, b):
    return any(not torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


# --- what it does ----------------------------------------------------------------------------


def test_from_scratch_with_energies_and_forces(labelled, quick, tmp_path):
    out = tmp_path / "run"
    steps = []
    result = finetune(
        labelled(10),
        labelled(3, seed=50),
        config=quick(optimizer={"max_steps": 40, "valid_interval": 20, "ema_decay": 0.5}),
        out=out,
        progress=lambda done, total, row: steps.append((done, total)),
        notes={"purpose": "a test"},
    )
    assert names(out) == FILES
    assert steps == [(k + 1, 40) for k in range(40)]
    assert [row["step"] for row in result.history] == [0, 20, 40]
    first, last = result.history[0], result.history[-1]
    # It learns.
    assert last["forces_rmse_mev_per_angstrom"] < 0.8 * first["forces_rmse_mev_per_angstrom"]
    assert last["valid_loss"] < 0.8 * first["valid_loss"]
    assert last["train_loss"] > 0
    with (out / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [0, 20, 40]
    assert float(rows[-1]["valid_loss"]) == pytest.approx(last["valid_loss"])
    # What is returned is what was written, and it is the best.
    same(result.potential, load_potential(out / "model.safetensors"))
    found = evaluate_potential(result.potential, read_frames(labelled(3, seed=50))).metrics
    best = min(result.history, key=lambda row: row["valid_loss"])
    for name in ("energy_rmse_mev_per_atom", "forces_mae_mev_per_angstrom"):
        assert found[name] == pytest.approx(best[name], rel=1e-6)
    provenance = read_header(out / "model.safetensors")["provenance"]
    assert provenance["n_train"] == 10
    assert provenance["trained_on"] == ["CH4O"]
    assert provenance["notes"] == {"purpose": "a test"}
    assert provenance["largest_training_force_ev_per_angstrom"] > 0


def test_energies_alone(labelled, quick, tmp_path):
    result = finetune(
        labelled(9, forces=False), config=quick(data={"valid_fraction": 0.3}), out=tmp_path / "a"
    )
    assert result.history[-1]["energy_rmse_mev_per_atom"] > 0
    assert result.history[-1]["forces_rmse_mev_per_angstrom"] is None
    assert result.history[-1]["train_forces"] is None
    assert sum(row["train_loss"] is not None for row in result.history) == 2


def test_labels_energy_ignores_forces(labelled, quick, tmp_path):
    settings = quick(data={"labels": "energy"})
    with_forces = finetune(labelled(8), labelled(2, seed=9), config=settings, out=tmp_path / "a")
    without = finetune(
        labelled(8, forces=False), labelled(2, seed=9), config=settings, out=tmp_path / "b"
    )
    same(with_forces.potential, without.potential)


def test_mixed_labels_and_sizes(labelled, quick, tmp_path):
    """Forces on every third frame: no force target is ever made up for the others."""
    frames = labelled(9, kind=["CH3OH", "H2O", "CO2"], forces=lambda k: k % 3 == 0)
    result = finetune(
        frames, labelled(3, seed=40), config=quick(optimizer={"batch_size": 1}), out=tmp_path / "a"
    )
    assert np.isfinite(result.history[-1]["train_loss"])
    provenance = read_header(tmp_path / "a" / "model.safetensors")["provenance"]
    assert provenance["n_train_with_forces"] == 3


def test_forces_alone_in_some_frames(labelled, quick, tmp_path):
    """Frames with forces and no energy are labels as well."""
    frames = labelled(6)
    for atoms in frames[3:]:
        del atoms.calc.results["energy"]
    result = finetune(
        frames,
        labelled(2, seed=40),
        config=quick(optimizer={"batch_size": 1}, loss={"forces_weight": 0.0}),
        out=tmp_path / "a",
    )
    assert np.isfinite(result.history[-1]["valid_loss"])


@pytest.fixture(scope="module")
def base_file(tmp_path_factory):
    from ase_ws.potentials.files import save_potential

    potential = tiny_mace(
        e0=(-1.0, -2.0, -3.0), r_max=3.5, num_interactions=1, correlation=1, seed=3
    )
    return save_potential(potential, tmp_path_factory.mktemp("base") / "base.safetensors")


@pytest.mark.parametrize("as_object", [False, True], ids=["file", "object"])
def test_from_a_base_model_with_both_weak_losses(labelled, quick, tmp_path, base_file, as_object):
    model = load_potential(base_file) if as_object else base_file
    if as_object:
        before = {k: v.clone() for k, v in model.state_dict().items()}
        e0 = model.e0.clone()
    result = finetune(
        labelled(6, forces=False),
        labelled(3, seed=50),
        model=model,
        config=quick(weak={"kind": "both"}),
        out=tmp_path / "run",
    )
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert written["weak"]["reference"] == "base"
    assert written["weak"]["kind"] == "both"
    row = result.history[-1]
    assert row["train_pitc"] >= 0
    assert row["train_pisc"] >= 0
    assert differ(result.potential, load_potential(base_file, dtype="float64"))
    if as_object:
        assert torch.equal(model.e0, e0)
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_reference_energies_move_the_base_to_the_new_level(labelled, quick, tmp_path, base_file):
    """Before the first step the base already sits at the level of the labels."""
    frames = labelled(6, kind=["CH3OH", "H2O", "CO2"], forces=False)
    settings = quick(optimizer={"max_steps": 2, "valid_interval": 2})
    moved = finetune(frames, frames, model=base_file, config=settings, out=tmp_path / "a")
    assert moved.history[0]["energy_rmse_mev_per_atom"] < 2000
    kept = finetune(
        frames,
        frames,
        model=base_file,
        config={**settings, "data": {"e0s": "keep"}},
        out=tmp_path / "b",
    )
    assert kept.history[0]["energy_rmse_mev_per_atom"] > 1e5
    assert torch.equal(kept.potential.e0, load_potential(base_file).e0)


def isolated(symbol, energy):
    atoms = Atoms(symbol)
    atoms.calc = SinglePointCalculator(atoms, energy=energy)
    return atoms


@pytest.mark.parametrize("base", [False, True], ids=["scratch", "base"])
def test_isolated_atoms_fix_the_reference_energies(labelled, quick, tmp_path, base, base_file):
    e0 = {"H": -13.7, "C": -1029.5, "O": -2041.25}
    frames = [*labelled(6), *(isolated(s, e) for s, e in e0.items())]
    result = finetune(
        frames,
        labelled(2, seed=9),
        model=base_file if base else None,
        config=quick(
            data={"e0s": "atoms"},
            optimizer={"max_steps": 1, "valid_interval": 1, "learning_rate": 1e-12},
        ),
        out=tmp_path / "a",
    )
    if base:
        # The energy of the lone atom, network included, is the label.
        for symbol, energy in e0.items():
            atoms = Atoms(symbol, calculator=PotentialCalculator(result.potential))
            assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-6)
    else:
        assert result.potential.e0.tolist() == pytest.approx(list(e0.values()), abs=1e-12)
    assert read_header(tmp_path / "a" / "model.safetensors")["provenance"]["n_train"] == 6


def lone_atoms(potential, shift):
    """Isolated atoms at what the potential gives them, shifted by an energy for each element."""
    calculator = PotentialCalculator(potential)
    return [
        isolated(s, float(calculator.get_potential_energy(Atoms(s))) + e) for s, e in shift.items()
    ]


def at_the_base(base_file, frames, shift):
    """Give frames labelled by the base model, shifted by an energy for each element."""
    potential = load_potential(base_file)
    calculator = PotentialCalculator(potential)
    labelled = []
    for frame in frames:
        atoms = Atoms(frame.numbers, frame.positions)
        energy = float(calculator.get_potential_energy(atoms))
        energy += sum(shift[s] for s in atoms.symbols)
        atoms.calc = SinglePointCalculator(atoms, energy=energy)
        labelled.append(atoms)
    return labelled, lone_atoms(potential, shift)


SHIFT = {"H": -1.5, "C": -100.0, "O": 20.0}


@pytest.mark.parametrize("suited", [True, False])
def test_isolated_atoms_are_taken_where_they_suit_the_base(labelled, tmp_path, suited, base_file):
    """A base model whose own E0 were fitted would start off by the energy of atomization."""
    frames, atoms = at_the_base(base_file, labelled(6, kind=["CH3OH", "H2O", "CO2"]), SHIFT)
    if not suited:
        for atom in atoms:
            atom.calc.results["energy"] += 2.0
    said = []
    result = finetune(
        [*frames, *atoms],
        frames[:2],
        model=base_file,
        config={"optimizer": {"kind": "adam", "max_steps": 1}},
        out=tmp_path / "a",
        announce=said.append,
    )
    source = read_header(result.path / "model.safetensors")["provenance"]["e0"]["source"]
    assert source == ("atoms" if suited else "fit")
    assert any("data.e0s=atoms insists" in line for line in said) is not suited
    # Either way the base starts at the labels.
    assert result.history[0]["energy_rmse_mev_per_atom"] < 1.0


def test_isolated_atoms_that_are_missing(labelled, quick, tmp_path, base_file):
    frames = [*labelled(6, kind=["CH3OH", "H2O", "CO2"]), isolated("H", -13.6)]
    said = []
    finetune(
        frames,
        labelled(2, seed=9),
        model=base_file,
        config=quick(),
        out=tmp_path / "a",
        announce=said.append,
    )
    assert any("none of C, O" in line for line in said)
    for model in (base_file, None):
        with pytest.raises(UserError, match="no isolated atom of C, O"):
            finetune(
                frames,
                labelled(2, seed=9),
                model=model,
                config=quick(data={"e0s": "atoms"}),
                out=tmp_path / "b",
            )
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(("kind", "apart"), [("CH3OH", False), (["CH3OH", "H2O", "CO2"], True)])
def test_one_composition_does_not_tell_elements_apart(
    labelled, quick, tmp_path, kind, apart, base_file
):
    for model in (base_file, None):
        said = []
        result = finetune(
            labelled(6, kind=kind),
            labelled(2, seed=9),
            model=model,
            config=quick(),
            out=tmp_path / str(model is None),
            announce=said.append,
        )
        assert any("too few compositions" in line for line in said) is not apart
        header = read_header(result.path / "model.safetensors")
        assert header["provenance"]["e0"] == {"source": "fit", "separable": apart}


def test_periodic_data_with_stress(labelled, quick, tmp_path):
    result = finetune(
        labelled(5, kind="Si", stress=True),
        labelled(2, kind="Si", seed=30, stress=True),
        config=quick(loss={"stress_weight": 100.0}, weak={"kind": "both"}),
        out=tmp_path / "a",
    )
    assert result.history[-1]["train_stress"] > 0
    assert np.isfinite(result.history[-1]["valid_loss"])


def test_without_averaging_the_weights(labelled, quick, tmp_path):
    frames = labelled(6)
    results = [
        finetune(
            frames, frames, config=quick(optimizer={"ema_decay": decay}), out=tmp_path / str(decay)
        )
        for decay in (0.0, 0.9)
    ]
    assert differ(results[0].potential, results[1].potential)


def test_patience_stops_the_run(labelled, quick, tmp_path):
    frames = labelled(4)
    steps = []
    finetune(
        frames,
        labelled(2, seed=20),
        # A learning rate that changes nothing: no validation ever improves.
        config=quick(
            optimizer={
                "max_steps": 60,
                "valid_interval": 2,
                "patience": 3,
                "learning_rate": 1e-15,
                "ema_decay": 0.0,
            }
        ),
        out=tmp_path / "a",
        progress=lambda done, total, row: steps.append(done),
    )
    assert steps[-1] < 20


@pytest.mark.parametrize(("steps", "interval"), [(3, None), (3, 10), (7, 3)])
def test_the_last_steps_are_never_lost(labelled, quick, tmp_path, steps, interval):
    """Whatever the interval, the end of the run is validated and can be gone on from."""
    result = finetune(
        labelled(6),
        labelled(2, seed=20),
        config=quick(optimizer={"max_steps": steps, "valid_interval": interval}),
        out=tmp_path / "a",
    )
    assert result.history[-1]["step"] == steps
    assert names(tmp_path / "a") == FILES
    checkpoint = torch.load(tmp_path / "a" / "last.ckpt", weights_only=True)
    assert checkpoint["step"] == steps


# --- it repeats ------------------------------------------------------------------------------


def test_a_seed_is_a_run(labelled, quick, tmp_path):
    frames, valid = labelled(7), labelled(2, seed=20)

    def run(seed, name):
        torch.manual_seed(hash(name) % 1000)  # the caller's state must not matter
        settings = quick(seed=seed, weak={"kind": "both"})
        return finetune(frames, valid, config=settings, out=tmp_path / name).potential

    first = run(1, "a")
    same(first, run(1, "b"))
    assert differ(first, run(2, "c"))


def test_the_written_configuration_runs_again(frame_files, quick, tmp_path):
    first = finetune(
        frame_files / "train.xyz",
        frame_files / "valid.xyz",
        config=quick(weak={"kind": "pitc"}, seed=4),
        out=tmp_path / "a",
    )
    second = finetune(config=tmp_path / "a" / "config.yaml", out=tmp_path / "b")
    same(first.potential, second.potential)
    written = [(tmp_path / name / "config.yaml").read_text() for name in "ab"]
    assert written[0] == written[1]
    assert load_config(tmp_path / "a" / "config.yaml").optimizer.max_steps == 8


@pytest.mark.parametrize("stop", [8, 11], ids=["after a checkpoint", "between checkpoints"])
def test_resuming_equals_never_having_stopped(labelled, quick, tmp_path, stop):
    frames, valid = labelled(8), labelled(2, seed=20)
    # 3 batches an epoch (8 frames, 3 a batch, the rest dropped: 2), so epochs end in between.
    settings = quick(
        optimizer={"max_steps": 15, "valid_interval": 4, "ema_decay": 0.8}, weak={"kind": "pitc"}
    )
    whole = finetune(frames, valid, config=settings, out=tmp_path / "whole")
    handler = signal.getsignal(signal.SIGINT)

    def interrupt(done, _total, _row):
        if done == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(frames, valid, config=settings, out=tmp_path / "cut", progress=interrupt)
    # Ctrl-C must still work afterwards.
    assert signal.getsignal(signal.SIGINT) is handler
    assert (tmp_path / "cut" / "last.ckpt").is_file()
    resumed = finetune(frames, valid, config=settings, out=tmp_path / "cut", resume=True)
    wanted = [(r["step"], r["valid_loss"]) for r in whole.history]
    found = [(r["step"], r["valid_loss"]) for r in resumed.history]
    assert [s for s, _ in found] == [s for s, _ in wanted]
    np.testing.assert_allclose([v for _, v in found], [v for _, v in wanted], rtol=1e-9)
    same(resumed.potential, whole.potential, 1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 7}, "the run had seed = 0, now it is 7"),
        ({"weak": {"kind": "both"}}, r"weak\.kind = 'none', now it is 'both'"),
        (
            {"optimizer": {"learning_rate": 0.1}},
            r"learning_rate = 0\.005, now it is 0\.1",
        ),
        ({"optimizer": {"max_steps": 5}}, "at step 8 already, beyond"),
    ],
)
def test_a_run_goes_on_as_it_was_set_up(labelled, quick, tmp_path, change, message):
    """Its files would claim what the training did not heed."""
    frames, valid, out = labelled(6), labelled(2, seed=9), tmp_path / "a"
    finetune(frames, valid, config=quick(), out=out)
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(UserError, match=message):
        finetune(frames, valid, config=quick(**change), out=out, resume=True)
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_a_run_that_went_on_names_all_its_commands(labelled, quick, tmp_path):
    frames, valid, out = labelled(6), labelled(2, seed=9), tmp_path / "a"
    finetune(frames, valid, config=quick(), out=out, notes={"command": "one"})
    longer = quick(optimizer={"max_steps": 16, "learning_rate": 5e-3})
    finetune(frames, valid, config=longer, out=out, resume=True, notes={"command": "two"})
    provenance = read_header(out / "model.safetensors")["provenance"]
    assert provenance["notes"]["command"] == "one && two"


def test_nothing_to_resume(labelled, quick, tmp_path):
    with pytest.raises(UserError, match="nothing to resume"):
        finetune(labelled(4), config=quick(), out=tmp_path / "a", resume=True)
    assert not (tmp_path / "a").exists()


def test_the_world_is_left_as_it_was(labelled, quick, tmp_path):
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.get_rng_state(), np.random.get_state()[1].copy()
    environment, cwd = dict(os.environ), Path.cwd()
    handlers, level = list(logging.root.handlers), logging.root.level
    finetune(labelled(5), config=quick(), out=tmp_path / "a")
    assert torch.equal(torch.get_rng_state(), expected[0])
    assert np.array_equal(np.random.get_state()[1], expected[1])
    assert dict(os.environ) == environment
    assert (Path.cwd(), logging.root.handlers, logging.root.level) == (cwd, handlers, level)
    assert torch.is_grad_enabled()
    assert not torch.are_deterministic_algorithms_enabled()


# --- bad input -------------------------------------------------------------------------------


def test_a_folder_that_is_not_empty(labelled, quick, tmp_path, listing):
    out = tmp_path / "run"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    before = listing(tmp_path)
    with pytest.raises(UserError, match=r"not empty.*--resume.*--overwrite"):
        finetune(labelled(4), config=quick(), out=out)
    assert listing(tmp_path) == before
    finetune(labelled(4), config=quick(), out=out, overwrite=True)
    assert (out / "thesis.tex").read_text() == "years of work"
    assert set(FILES) <= set(names(out))
    with pytest.raises(UserError, match="is a file"):
        finetune(labelled(4), config=quick(), out=out / "thesis.tex")


def test_overwriting_the_run_that_holds_the_base(labelled, quick, tmp_path, base_file):
    out = tmp_path / "run"
    out.mkdir()
    base = out / "model.safetensors"
    base.write_bytes(base_file.read_bytes())
    result = finetune(labelled(4), model=base, config=quick(), out=out, overwrite=True)
    assert len(result.history) == 3


def nan_energy():
    atoms = molecule("H2O")
    atoms.info["energy"] = np.nan
    return atoms


BAD = {
    "no frames": (lambda lab: {"train": []}, "no frames found"),
    "no training data": (lambda lab: {"train": None}, "no training frames"),
    "no validation frames": (lambda lab: {"valid": []}, "no frames found"),
    "NaN": (lambda lab: {"train": [*lab(2), nan_energy()]}, "frame 2.*NaN"),
    "no energies": (lambda lab: {"train": [molecule("H2O")] * 3}, "no frame has an energy"),
    "no energies in validation": (
        lambda lab: {"valid": [molecule("H2O")]},
        "validation frames.*no frame has an energy",
    ),
    "an unlabelled frame": (
        lambda lab: {"train": [*lab(3), molecule("H2O")]},
        "frame 3.*neither energy nor forces",
    ),
    "only isolated atoms": (lambda lab: {"train": [isolated("H", -1.0)]}, "only isolated atoms"),
    "element in validation": (
        lambda lab: {"valid": lab(2, kind="NH3")},
        r"frame 0.*does not know.*\bN\b",
    ),
    "one frame to split": (lambda lab: {"train": lab(1), "valid": None}, "cannot be split"),
    "unknown setting": (lambda lab: {"config": {"speed": 3}}, "setting 'speed'"),
    "wrong setting": (
        lambda lab: {"config": {"optimizer": {"max_steps": -1}}},
        r"optimizer\.max_steps.*-1",
    ),
    "irreps": (
        lambda lab: {"config": {"model": {"hidden_irreps": "many"}}},
        "irreps|hidden_irreps",
    ),
    "device": (lambda lab: {"config": {"device": "abacus"}}, "device 'abacus'"),
    "all weights zero": (
        lambda lab: {"config": {"loss": {"energy_weight": 0, "forces_weight": 0}}},
        "weight",
    ),
    "reference without a base": (
        lambda lab: {"config": {"weak": {"reference": "base", "kind": "pitc"}}},
        "base model",
    ),
    "another kind of base": (
        lambda lab: {"model": tiny_mace(), "config": {"model": {"kind": "painn"}}},
        "model.kind=painn is for new models",
    ),
    "missing base": (lambda lab: {"model": "none.safetensors"}, "no such model file"),
    "missing file": (lambda lab: {"train": "none.xyz"}, "no such file"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_writes_nothing(labelled, quick, tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, message = BAD[name]
    arguments = {"train": labelled(3), "valid": labelled(2, seed=9), "config": quick()}
    with pytest.raises(UserError, match=message) as error:
        finetune(**{**arguments, **make(labelled)}, out=tmp_path / "out" / "run")
    assert "\n" not in str(error.value)
    assert names(tmp_path) == []


def test_elements_that_the_base_does_not_know(labelled, quick, tmp_path, base_file):
    for train, valid in ((["CH3OH", "NH3"], "H2O"), ("H2O", "NH3")):
        with pytest.raises(UserError, match=r"base\.safetensors does not know.*\bN\b"):
            finetune(
                labelled(4, kind=train),
                labelled(2, kind=valid),
                model=base_file,
                config=quick(),
                out=tmp_path / "a",
            )
    assert names(tmp_path) == []


def test_a_loss_that_explodes_ends_in_one_line_and_keeps_the_best(labelled, quick, tmp_path):
    with pytest.raises(UserError, match="learning rate"):
        finetune(
            labelled(4),
            labelled(2, seed=9),
            config=quick(
                optimizer={"learning_rate": 1e300, "warmup_steps": 0, "gradient_clip": 1e300}
            ),
            out=tmp_path / "a",
        )
    kept = load_potential(tmp_path / "a" / "model.safetensors")
    assert all(torch.isfinite(p).all() for p in kept.parameters())


# --- the configuration -----------------------------------------------------------------------


def test_settings_are_merged_in_order(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("seed: 3\noptimizer:\n  max_steps: 7\n  batch_size: 2\nweak:\n")
    config = load_config(
        path, ["optimizer.batch_size=4", "model.base=null"], {"seed": 5, "weak.kind": None}
    )
    assert (config.seed, config.optimizer.max_steps, config.optimizer.batch_size) == (5, 7, 4)
    assert config.weak.kind == "none"


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("seed", "expected section.field=value"),
        ("optimizer.lr=1", "'optimizer.lr': no such setting; there are kind, "),
        ("optimizer.max_step=1", r"did you mean 'optimizer\.max_steps'\?"),
        ("optimiser.max_steps=1", r"did you mean 'optimizer'\?"),
        ("max_steps=1", r"did you mean 'optimizer\.max_steps'\?"),
        ("seed=many", "setting 'seed'.*'many'"),
        ("seed.x.y=1", "seed"),
        ("seed=[", "not valid YAML"),
    ],
)
def test_wrong_settings_are_named(item, message):
    with pytest.raises(UserError, match=message):
        load_config(None, [item], {"seed": 0} if item.startswith("seed.") else {})


@pytest.mark.parametrize("text", ["a: [", "- 1\n", "7", "\tx: 1", "data: 3"])
def test_wrong_configuration_files(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError):
        load_config(tmp_path / "c.yaml")


def test_defaults_follow_the_task():
    scratch = FinetuneConfig().resolved(has_forces=True)
    assert scratch.weak.reference == "none"
    assert (scratch.weak.pitc_weight, scratch.weak.pisc_weight) == (0.0, 0.0)
    tuned = FinetuneConfig.model_validate({"model": {"base": "x"}, "weak": {"kind": "pitc"}})
    resolved = tuned.resolved(has_forces=False)
    assert resolved.weak.reference == "base"
    assert (resolved.weak.order, resolved.weak.epsilon) == (1, 0.15)
    assert resolved.weak.pitc_weight == 0.001
    assert resolved.weak.pisc_weight == 0.0
    assert resolved.optimizer.learning_rate == 1e-3
    assert tuned.weak.epsilon is None


def test_configuration_files_survive_writing(tmp_path):
    config = FinetuneConfig().resolved(has_forces=True)
    config.write(tmp_path / "c.yaml")
    assert load_config(tmp_path / "c.yaml") == config


# --- evaluation ------------------------------------------------------------------------------


def test_errors_by_hand(labelled):
    from ase_ws.testing import Morse

    frames = read_frames(
        labelled(3, kind=["H2O", "CH3OH", "CO2"], level=dict.fromkeys(range(20), 0.1))
    )
    found = evaluate_potential(Morse(), frames, batch_size=2).metrics
    # The teacher itself, but for 0.1 eV an atom.
    assert found["n_frames"] == 3
    assert found["energy_rmse_mev_per_atom"] == pytest.approx(100.0)
    assert found["energy_mae_mev_per_atom"] == pytest.approx(100.0)
    assert found["forces_rmse_mev_per_angstrom"] == pytest.approx(0.0, abs=1e-9)
    assert found["force_consistency_rmse_mev_per_angstrom"] is None


def test_absent_labels_give_none(labelled):
    from ase_ws.testing import Morse

    found = evaluate_potential(Morse(), read_frames(labelled(2, forces=False))).metrics
    assert found["energy_mae_mev_per_atom"] > 0
    assert found["forces_rmse_mev_per_angstrom"] is None
    with pytest.raises(UserError, match="nothing to compare"):
        evaluate_potential(Morse(), read_frames([molecule("H2O")]))
    with pytest.raises(UserError, match=r"\bS\b"):
        evaluate_potential(Morse(), read_frames([*labelled(1), with_energy("CH3SH")]))


def with_energy(name):
    atoms = molecule(name)
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0)
    return atoms


def test_training_files_may_hold_isolated_atoms(labelled, quick, tmp_path):
    write(tmp_path / "t.xyz", [isolated("H", -13.0), *labelled(4)])
    finetune(tmp_path / "t.xyz", config=quick(), out=tmp_path / "a")
    assert (tmp_path / "a" / "model.safetensors").is_file()


def test_stress_counts_in_the_choice_of_the_model(labelled, quick, tmp_path):
    frames = labelled(3, kind="Si", stress=True)
    losses = []
    for weight in (0.0, 1e6):
        result = finetune(
            frames,
            frames,
            config=quick(
                loss={"stress_weight": weight}, optimizer={"max_steps": 1, "valid_interval": 1}
            ),
            out=tmp_path / str(weight),
        )
        losses.append(result.history[0]["valid_loss"])
    assert losses[1] > losses[0] * (1 + 1e-6)
