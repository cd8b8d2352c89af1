"""What people bring to `finetune` and `evaluate`: named and taken, or refused in one line."""

import json
import os
import stat
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

from ase_ws import PotentialCalculator, finetune
from ase_ws.data import BASE_MODEL
from ase_ws.errors import UserError
from ase_ws.files.writing import write_text
from ase_ws.frames import read_frames
from ase_ws.graphs import tell_far
from ase_ws.pairs import edges
from ase_ws.potentials.files import load_potential, read_header
from ase_ws.testing import Morse, tiny_mace
from ase_ws.training.evaluate import evaluate_potential
from ase_ws.training.start import predicted_energies

QUICK = [
    *("--set", "model.hidden_irreps=8x0e", "--set", "model.num_bessel=4"),
    *("--set", "model.correlation=1", "--set", "model.num_interactions=1"),
    *("--set", "optimizer.valid_interval=2", "--max-steps", "2", "--device", "cpu"),
]


@pytest.fixture
def work(tmp_path, monkeypatch, labelled):
    monkeypatch.chdir(tmp_path)
    write("train.xyz", labelled(6))
    return tmp_path


def relabelled(path, change):
    """The training frames with their labels moved elsewhere."""
    frames = read("train.xyz", ":")
    for k, atoms in enumerate(frames):
        results, atoms.calc = atoms.calc.results, None
        change(k, atoms, results)
    write(path, frames)
    return path


def tune(cli, *arguments):
    return cli("finetune", "--out", "out", *QUICK, *arguments)


def one_line(code, err):
    assert code == 2, err
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("error:")
    return lines[0]


# Labels -----------------------------------------------------------------------------------------


def test_forces_under_another_name_are_told(work, cli):
    def change(k, atoms, results):
        atoms.info["energy"] = results["energy"]
        atoms.arrays["REF_forces"] = results["forces"]

    relabelled("mixed.xyz", change)
    code, _, err = tune(cli, "--train", "mixed.xyz")
    assert code == 0
    assert "there and not used: REF_forces (6 of 6 frames)" in err
    assert "--forces-key" in err
    code, _, err = tune(cli, "--train", "mixed.xyz", "--forces-key", "REF_forces", "--overwrite")
    assert code == 0
    assert "5 with energies, 5 with forces" in err
    assert "not used" not in err
    code, _, err = cli("evaluate", BASE_MODEL, "mixed.xyz")
    assert "not used: REF_forces" in err


def test_reference_labels_go_together(work, cli):
    def change(k, atoms, results):
        atoms.info["REF_energy"] = results["energy"]
        atoms.arrays["REF_forces"] = results["forces"]

    relabelled("ref.xyz", change)
    line = one_line(*tune(cli, "--train", "ref.xyz")[::2])
    assert "there are: REF_energy (6 of 6 frames), REF_forces (6 of 6 frames)" in line
    code, _, err = tune(cli, "--train", "ref.xyz", "--energy-key", "REF_energy")
    assert code == 0
    assert "5 with energies, 5 with forces" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--forces-key", "forcs"], "no frame has 'forcs', named for the forces"),
        (["--energy-key", "E_ref"], "no frame has 'E_ref', named for the energy"),
        (["--set", "data.stress_key=virials"], "no frame has 'virials', named for the stress"),
        (["--set", "loss.stress_weight=1"], "no frame has stress, and loss.stress_weight is 1"),
        (["--set", "loss.stress_weight=1", "--labels", "energy"], "give one of them"),
    ],
)
def test_what_is_named_and_nowhere_is_an_error(work, cli, listing, arguments, message):
    before = listing(work)
    assert message in one_line(*tune(cli, "--train", "train.xyz", *arguments)[::2])
    assert listing(work) == before


def test_a_force_weight_without_forces_is_an_error(work, cli, labelled):
    write("energies.xyz", labelled(6, forces=False))
    line = one_line(*tune(cli, "--train", "energies.xyz", "--set", "loss.forces_weight=5")[::2])
    assert "no frame has forces, and loss.forces_weight is 5" in line
    # What a run with forces wrote may be run again without them.
    arguments = ("--train", "train.xyz", "--set", "loss.forces_weight=5", "--labels", "energy")
    assert tune(cli, *arguments)[0] == 0


def test_evaluate_refuses_a_key_that_is_nowhere(work, cli):
    for option in ("--energy-key", "--forces-key"):
        line = one_line(*cli("evaluate", BASE_MODEL, "train.xyz", option, "nowhere")[::2])
        assert "no frame has 'nowhere'" in line


def test_an_energy_on_one_frame_of_many(work, cli, labelled):
    frames = labelled(6)
    for atoms in frames[1:]:
        del atoms.calc.results["energy"]
    write("few.xyz", frames)
    code, _, err = tune(cli, "--train", "few.xyz")
    assert code == 0
    assert "training: 5 frames, 1 with energies, 5 with forces" in err


def test_stress_weights_and_heads_are_told(work, cli, labelled):
    frames = labelled(6, kind="Si", stress=True)
    for atoms in frames:
        atoms.info.update(config_weight=2.0, head="dft")
    write("si.xyz", frames)
    code, _, err = tune(cli, "--train", "si.xyz")
    assert code == 0
    assert "of head dft" in err and "6 of 6 frames have weights of their own" in err
    code, _, err = tune(cli, "--train", "si.xyz", "--set", "loss.stress_weight=0", "--overwrite")
    assert code == 0
    assert "stress: there and not used (loss.stress_weight is 0)" in err


def test_virials_train_what_stress_trains(work, labelled, quick):
    stressed = labelled(4, kind="Si", stress=True)
    virials = []
    for atoms in stressed:
        other = atoms.copy()
        results = atoms.calc.results
        other.info["energy"], other.arrays["forces"] = results["energy"], results["forces"]
        other.info["virials"] = -atoms.get_stress(voigt=False) * atoms.get_volume()
        virials.append(other)
    weights = {"loss": {"stress_weight": 1.0}}
    one = finetune(stressed, config=quick(**weights), out="one")
    config = quick(**weights, data={"stress_key": "virials"})
    two = finetune(virials, config=config, out="two")
    assert one.history[-1]["train_stress"] > 0
    assert two.history[-1]["valid_loss"] == pytest.approx(one.history[-1]["valid_loss"], rel=1e-9)


# Files ------------------------------------------------------------------------------------------


def test_every_training_file_counts(work, cli, labelled):
    write("more.xyz", labelled(4, seed=50))
    for arguments in (["--train", "train.xyz", "--train", "more.xyz"], ["--train", "*.xyz"]):
        code, _, err = tune(cli, *arguments, "--overwrite")
        assert code == 0
        assert "training: 9 frames" in err
        assert "validation: 1 frame," in err
    # The written configuration names them all, and runs again.
    code, _, err = cli("finetune", "--config", "out/config.yaml", "--out", "again")
    assert code == 0
    assert "training: 9 frames" in err
    result = finetune(["train.xyz", work / "more.xyz"], config="out/config.yaml", out="python")
    assert result.history[-1]["valid_loss"] is not None
    code, out, _ = cli("evaluate", BASE_MODEL, "train.xyz", "more.xyz")
    assert json.loads(out[out.index("{") :])["n_frames"] == 10


def test_validation_on_training_frames_is_told(work, cli):
    _, _, err = tune(cli, "--train", "train.xyz", "--valid", "train.xyz")
    assert "6 of 6 validation frames are training frames too" in err


# Isolated atoms ---------------------------------------------------------------------------------


def with_atoms(frames, box=None):
    level = {"H": -13.6, "C": -1030.0, "O": -2040.0}
    atoms = []
    for symbol, energy in level.items():
        atom = Atoms(symbol, cell=box and [box] * 3, pbc=box is not None)
        atom.calc = SinglePointCalculator(atom, energy=energy)
        atoms.append(atom)
    return [*atoms, *frames]


@pytest.mark.parametrize("box", [None, 15.0])
def test_isolated_atoms_in_any_box_are_reference_energies(work, cli, labelled, box):
    write("atoms.xyz", with_atoms(labelled(6), box))
    code, _, err = tune(cli, "--train", "atoms.xyz")
    assert code == 0
    assert "isolated atoms, no structures: H -13.6 eV, C -1030 eV, O -2040 eV" in err
    assert "a lone atom is off by the mean binding energy" in err
    potential = load_potential("out/model.safetensors")
    assert potential.e0.tolist() == pytest.approx([-13.6, -1030.0, -2040.0])
    # Evaluated on its own training file, they do not count either.
    _, out, err = cli("evaluate", "out/model.safetensors", "atoms.xyz")
    found = json.loads(out[out.index("{") :])
    assert found["n_frames"] == 6
    assert found["energy_rmse_mev_per_atom"] < 5000
    assert "isolated atoms, no structures" in err


def test_isolated_atoms_alone_can_be_evaluated():
    frames = read_frames(with_atoms([]))
    assert evaluate_potential(Morse(), frames).metrics["n_frames"] == 3


# NaN --------------------------------------------------------------------------------------------


class Broken(Morse):
    """Answers NaN for water."""

    def __call__(self, batch, **asked):
        found = super().__call__(batch, **asked)
        wet = torch.bincount(batch.batch[batch.numbers == 8], minlength=batch.n_graphs) > 0
        return found._replace(energy=torch.where(wet, torch.nan, found.energy))


def test_a_frame_that_the_model_answers_with_nan_is_named(labelled):
    frames = read_frames([*labelled(2, kind="CH4"), *labelled(1, kind="H2O")])
    with pytest.raises(UserError, match=r"frame 2 \(H2O\): the model's energy or forces are NaN"):
        evaluate_potential(Broken(), frames, batch_size=3)
    with pytest.raises(UserError, match=r"frame 2 \(H2O\)"):
        evaluate_potential(Broken(), frames, batch_size=1)


def test_overlapping_atoms_are_named_before_anything_is_written(work, cli, labelled, listing):
    frames = labelled(6)
    frames[3].positions[1] = frames[3].positions[0]
    write("overlap.xyz", frames)
    before = listing(work)
    for command in (("evaluate", BASE_MODEL, "overlap.xyz"),):
        code, out, err = cli(*command)
        assert (code, out) == (2, "")
        assert "overlap.xyz, frame 3: atoms C0 and O1 are 0 Å apart" in err
    code, _, err = tune(cli, "--train", "overlap.xyz")
    assert code == 2
    assert "frame 3: atoms C0 and O1" in err
    assert listing(work) == before


def test_a_diverging_run_names_its_frames(work, cli):
    code, _, err = tune(cli, "--train", "train.xyz", "--set", "optimizer.learning_rate=1e30")
    assert code == 2
    assert "train.xyz, frame" in err


# Precision --------------------------------------------------------------------------------------


def far(atoms, distance=3e5):
    moved = atoms.copy()
    moved.positions += distance
    moved.calc = SinglePointCalculator(moved, **atoms.calc.results)
    return moved


def unwrapped(atoms, seed):
    """The same crystal with its atoms in other cells, as MD leaves them."""
    moved = atoms.copy()
    cells = np.random.default_rng(seed).integers(-20000, 20000, (len(atoms), 3))
    moved.positions += cells @ atoms.cell.array
    moved.calc = SinglePointCalculator(moved, **atoms.calc.results)
    return moved


@pytest.mark.parametrize("kind", ["CH3OH", "Si"])
def test_training_and_evaluation_do_not_depend_on_where_the_atoms_are(
    kind, labelled, quick, tmp_path
):
    near = labelled(4, kind=kind)
    away = [far(a) if kind != "Si" else unwrapped(a, k) for k, a in enumerate(near)]
    numbers = tuple(sorted(set(near[0].numbers.tolist())))
    potential = tiny_mace(numbers, r_max=4.0, avg_num_neighbors=10.0).to(torch.float32)
    one, two = (predicted_energies(potential, read_frames(frames)) for frames in (near, away))
    np.testing.assert_allclose(one, two, rtol=0, atol=2e-5)
    found = [evaluate_potential(potential, read_frames(frames)).metrics for frames in (near, away)]
    for name in ("energy_rmse_mev_per_atom", "forces_rmse_mev_per_angstrom"):
        assert found[0][name] == pytest.approx(found[1][name], rel=1e-5)
    runs = [
        finetune(frames, config={**quick(), "dtype": "float32"}, out=tmp_path / name)
        for name, frames in (("near", near), ("away", away))
    ]
    losses = [run.history[-1]["train_loss"] for run in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_fragments_that_float32_cannot_place_are_told():
    tell_far.cache_clear()
    atoms = molecule("CH3OH") + far(molecule_with_energy("CH3OH"), 15_000.0)
    atoms.calc = PotentialCalculator(BASE_MODEL, dtype="float32")
    with pytest.warns(UserWarning, match="use float64"):
        rounded = atoms.get_forces()
    atoms.calc.reset()
    atoms.get_forces()  # told once, not at every list
    exact = atoms.calc.in_float64().get_property("forces", atoms)
    assert abs(rounded - exact).max() < 0.05


def molecule_with_energy(name):
    atoms = molecule(name)
    atoms.calc = SinglePointCalculator(atoms, energy=0.0)
    return atoms


def test_edges_of_unwrapped_atoms_are_those_of_wrapped_ones(labelled):
    for seed, atoms in enumerate(labelled(3, kind="Si")):
        moved = unwrapped(atoms, seed)
        lengths = []
        for a in (atoms, moved):
            (i, j), shifts = edges(a.positions, a.cell.array, a.pbc, 4.0)
            vectors = a.positions[j] - a.positions[i] + shifts @ a.cell.array
            lengths.append(np.sort(np.linalg.norm(vectors, axis=1)))
        np.testing.assert_allclose(*lengths, atol=1e-5)


@pytest.mark.parametrize("size", [1e-200, 1e-5, 0.01])
def test_cells_in_another_unit_are_refused_by_frame(size):
    atoms = Atoms("H", cell=[size] * 3, pbc=True)
    atoms.info["energy"] = 1.0
    with pytest.raises(UserError, match=r"frame 0: .*(set the cell|lattice vectors in Å)"):
        read_frames([atoms])[0].graph(5.0)


def test_stress_is_compared_where_there_are_labels(labelled):
    silicon = labelled(3, kind="Si", stress=True)
    morse = Morse(r_max=3.5, r0=2.2)
    found = evaluate_potential(morse, read_frames(silicon)).metrics
    assert found["stress_rmse_mev_per_angstrom3"] == pytest.approx(0, abs=1e-3)
    for atoms in silicon:
        atoms.calc.results["stress"] = -atoms.calc.results["stress"]
    mirrored = evaluate_potential(morse, read_frames(silicon)).metrics
    expected = 2e3 * np.sqrt(np.mean([a.get_stress(voigt=False) ** 2 for a in silicon]))
    assert mirrored["stress_rmse_mev_per_angstrom3"] == pytest.approx(expected, rel=1e-3)
    mixed = read_frames([*silicon[:1], *labelled(1, kind="Si")])
    assert np.isfinite(evaluate_potential(morse, mixed).metrics["stress_rmse_mev_per_angstrom3"])
    assert "stress_rmse_mev_per_angstrom3" not in evaluate_potential(morse, mixed[1:]).metrics


def test_elements_that_no_label_has_are_told(work, cli, labelled):
    write("ch4.xyz", labelled(6, kind="CH4", forces=False))
    code, _, err = tune(cli, "--train", "ch4.xyz", "--model", BASE_MODEL, "--device", "cpu")
    assert code == 0
    assert "no label has O: reference energies of these stay at the base model's level" in err
    provenance = read_header("out/model.safetensors")["provenance"]
    assert provenance["e0"]["not_among_the_labels"] == ["O"]


# Where results go -------------------------------------------------------------------------------


def test_a_link_stays_a_link(work, cli):
    (work / "kept.json").write_text("old")
    (work / "link.json").symlink_to("kept.json")
    (work / "dangling.json").symlink_to("nowhere/kept.json")
    assert "there is no folder" in one_line(
        *cli("evaluate", BASE_MODEL, "train.xyz", "--json", "dangling.json")[::2]
    )
    assert cli("evaluate", BASE_MODEL, "train.xyz", "--json", "link.json")[0] == 0
    assert (work / "link.json").is_symlink()
    assert json.loads((work / "kept.json").read_text())["n_frames"] == 6


def test_a_pipe_gets_the_whole_file(work):
    os.mkfifo("pipe")
    found = []
    reader = threading.Thread(target=lambda: found.append((work / "pipe").read_text()))
    reader.start()
    write_text("pipe", "all of it\n")
    reader.join(10)
    assert found == ["all of it\n"]
    assert stat.S_ISFIFO((work / "pipe").stat().st_mode)


def test_json_is_plain_whatever_the_terminal(work):
    environment = {**os.environ, "FORCE_COLOR": "1", "PYTHONIOENCODING": "ascii"}
    run = subprocess.run(
        [sys.executable, "-m", "ase_ws.cli", "evaluate", str(BASE_MODEL), "train.xyz"],
        env=environment,
        capture_output=True,
        check=True,
    )
    assert json.loads(run.stdout)["n_frames"] == 6


# Resume -----------------------------------------------------------------------------------------


@pytest.fixture
def half_done(work, cli, labelled):
    write("valid.xyz", labelled(2, seed=70))
    base = work / "base.safetensors"
    base.write_bytes(BASE_MODEL.read_bytes())
    arguments = ("--train", "train.xyz", "--valid", "valid.xyz", "--model", base)
    assert tune(cli, *arguments)[0] == 0
    return work


def go_on(cli):
    return cli("finetune", "--resume", "out", "--max-steps", "4")


def test_resume_goes_on_with_the_same_inputs_under_other_names(half_done, cli):
    (half_done / "train.xyz").rename("elsewhere.xyz")
    assert one_line(*go_on(cli)[::2])
    code, _, err = cli(
        "finetune", "--resume", "out", "--max-steps", "4", "--train", "elsewhere.xyz"
    )
    assert code == 0, err


@pytest.mark.parametrize("what", ["label", "order", "validation", "model"])
def test_resume_refuses_inputs_that_changed(half_done, cli, listing, what):
    name = "valid.xyz" if what == "validation" else "train.xyz"
    frames = read(name, ":")
    if what == "order":
        frames = frames[::-1]
    elif what == "model":
        (half_done / "base.safetensors").write_bytes(
            (half_done / "out/model.safetensors").read_bytes()
        )
    else:
        frames[0].calc.results["energy"] += 1e-3
    if what != "model":
        write(name, frames)
    before = listing(half_done)
    line = one_line(*go_on(cli)[::2])
    named = {"validation": "validation frames", "model": "base model"}.get(what, "training frames")
    assert f"out: the {named} have changed since the run began" in line
    assert listing(half_done) == before


def test_resume_refuses_other_reference_energies(work, cli, labelled):
    def write_with(energy_of_h):
        frames = with_atoms(labelled(6))
        frames[0].calc.results["energy"] = energy_of_h
        write("atoms.xyz", frames)

    write_with(-13.6)
    assert tune(cli, "--train", "atoms.xyz")[0] == 0
    write_with(-50.0)
    assert "the isolated atoms have changed" in one_line(*go_on(cli)[::2])


def test_resume_needs_to_know_how_the_run_was_set_up(half_done, quick):
    (half_done / "out" / "config.yaml").unlink()
    with pytest.raises(UserError, match=r"config\.yaml: no such configuration file"):
        finetune("train.xyz", "valid.xyz", config=quick(), out="out", resume=True)


@pytest.mark.parametrize("content", [torch.zeros(3), [1, 2], {"step": "x"}])
def test_another_file_than_a_checkpoint_is_one_line(half_done, cli, content):
    torch.save(content, "out/last.ckpt")
    assert "last.ckpt: cannot be read" in one_line(*go_on(cli)[::2])


def test_reference_energies_go_on_as_they_were(half_done, cli):
    checkpoint = torch.load("out/last.ckpt", weights_only=True)
    checkpoint["reference_energies"] += 1e-4
    torch.save(checkpoint, "out/last.ckpt")
    before = load_potential("out/model.safetensors").e0
    assert go_on(cli)[0] == 0
    after = load_potential("out/model.safetensors").e0
    assert (after - before).tolist() == pytest.approx([1e-4] * 3, rel=1e-3)


def test_isolated_atoms_of_the_validation_file_count_too(work, cli, labelled):
    write("atoms.xyz", with_atoms(labelled(6)))
    other = with_atoms(labelled(2, seed=40))
    other[0].calc.results["energy"] = -50.0
    write("valid.xyz", other)
    line = one_line(*tune(cli, "--train", "atoms.xyz", "--valid", "valid.xyz")[::2])
    assert "an isolated H atom with -50 eV" in line
    # To compare with, both may stand there.
    code, _, err = cli("evaluate", BASE_MODEL, "atoms.xyz", "valid.xyz")
    assert code == 0
    assert "isolated atoms, no structures: H -50 eV, H -13.6 eV" in err


def test_a_head_needs_a_base_model_with_it(work, cli, labelled):
    line = one_line(*tune(cli, "--train", "train.xyz", "--head", "nonsense")[::2])
    assert "head 'nonsense' is of a base model, and there is none" in line
    base = load_potential(BASE_MODEL)
    with pytest.raises(UserError, match="the base model is there with its head 'Default'"):
        finetune("train.xyz", model=base, config={"model": {"head": "B"}}, out="out")


def test_a_stress_in_kilobar_stops_only_who_uses_it(work, cli, labelled):
    frames = labelled(6, kind="Si", stress=True)
    for atoms in frames:
        atoms.calc.results["stress"] = 1e5 * atoms.calc.results["stress"]
    write("kbar.xyz", frames)
    for arguments in ((), ("--labels", "energy")):
        assert tune(cli, "--train", "kbar.xyz", "--overwrite", *arguments)[0] == 0
    weight = ("--set", "loss.stress_weight=1")
    line = one_line(*tune(cli, "--train", "kbar.xyz", *weight, "--overwrite")[::2])
    assert "expected less than 10: divide GPa" in line


def test_an_occupied_folder_is_found_before_the_work(work, cli, monkeypatch):
    (work / "out").mkdir()
    (work / "out" / "precious.txt").write_text("precious")
    module = sys.modules["ase_ws.training.finetune"]
    monkeypatch.setattr(module, "prepare", lambda *_: pytest.fail("work was done"))
    assert "exists and is not empty" in one_line(*tune(cli, "--train", "train.xyz")[::2])


# The operating system ---------------------------------------------------------------------------


@pytest.mark.parametrize("out", ["train.xyz/out", "train.xyz", "x" * 300])
def test_places_that_cannot_be_written_are_found_before_the_work(work, cli, listing, out):
    before = listing(work)
    code, _, err = cli("finetune", "--train", "train.xyz", "--out", out, *QUICK)
    one_line(code, err)
    assert listing(work) == before


@pytest.mark.parametrize("out", [".", "train.xyz/a.json", "nowhere/a.json", "x" * 300])
def test_evaluate_finds_out_before_the_work_that_its_file_cannot_be_written(work, cli, out):
    code, printed, err = cli("evaluate", BASE_MODEL, "train.xyz", "--json", out)
    one_line(code, err)
    assert printed == ""


def test_a_disk_that_fills_up_is_one_line_after_the_summary(work, cli, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "errors.json")

    monkeypatch.setattr("ase_ws.cli.evaluate.write_text", full)
    code, printed, err = cli("evaluate", BASE_MODEL, "train.xyz", "--json", "errors.json")
    assert code == 2
    assert "energy_rmse" in printed
    assert "error: errors.json: No space left on device; free some space" in err
    assert "Traceback" not in err


def test_a_disk_that_fills_up_while_training_keeps_what_was_written(work, cli, monkeypatch):
    from ase_ws.training import history

    saved = history.save_potential
    calls = []

    def once(*arguments):
        calls.append(1)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return saved(*arguments)

    monkeypatch.setattr(history, "save_potential", once)
    code, _, err = tune(cli, "--train", "train.xyz", "--set", "optimizer.max_steps=40")
    assert code == 2
    assert "No space left on device" in err.strip().splitlines()[-1]
    assert "Traceback" not in err
    load_potential("out/model.safetensors")


def test_no_thread_is_no_number_of_threads(work, cli):
    code, _, err = tune(cli, "--train", "train.xyz", "--threads", "0")
    assert code == 2
    assert "--threads" in err


def test_warnings_are_notes_of_one_line(work, cli, monkeypatch):
    import warnings

    monkeypatch.setattr(
        "ase_ws.frames.read_frames",
        lambda *_: (
            warnings.warn("odd units", UserWarning, stacklevel=1) or read_frames("train.xyz")
        ),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        code, _, err = cli("evaluate", BASE_MODEL, "train.xyz")
    assert code == 0
    assert "note: odd units\n" in err
    assert ".py:" not in err


def test_molecules_of_ase_still_read():
    assert read_frames([molecule("H2O")])[0].formula == "H2O"
