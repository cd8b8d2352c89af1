"""The command line: what it promises to programs, and one line for every mistake."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

import ase_ws.training
from ase_ws import PotentialCalculator, load_potential, run_md
from ase_ws.potentials.files import save_potential
from ase_ws.testing import Morse, tiny_mace


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


QUICK = [
    *("--set", "model.hidden_irreps=8x0e", "--set", "model.num_bessel=4"),
    *("--set", "model.correlation=1", "--set", "model.num_interactions=1"),
    *("--set", "optimizer.valid_interval=2"),
    *("--max-steps", "4", "--device", "cpu"),
]


@pytest.fixture
def work(tmp_path, monkeypatch, frame_files):
    """A folder to work in, with everything that a command may need."""
    monkeypatch.chdir(tmp_path)
    for name in ("train.xyz", "valid.xyz"):
        (tmp_path / name).write_bytes((frame_files / name).read_bytes())
    write("structure.xyz", molecule("CH3OH"))
    write("unlabelled.xyz", [molecule("CH3OH")] * 3)
    write("nitrogen.xyz", [_labelled("NH3"), _labelled("CH3OH")])
    lines = (tmp_path / "train.xyz").read_text().splitlines()
    (tmp_path / "broken.xyz").write_text("\n".join([*lines[:11], "H a b c", *lines[12:]]) + "\n")
    bad = [line.replace("energy=", "energy=NaN was=") for line in lines]
    (tmp_path / "nan.xyz").write_text("\n".join(bad) + "\n")
    (tmp_path / "empty.xyz").write_text("")
    (tmp_path / "corrupt.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00garbage")
    (tmp_path / "corrupt.model").write_bytes(b"PK\x03\x04garbage")
    (tmp_path / "bad.yaml").write_text("data: [\n")
    (tmp_path / "wrong.yaml").write_text("optimizer:\n  lr: 1\n")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").write_text("precious")
    return tmp_path


def _labelled(name):
    atoms = molecule(name)
    atoms.info["energy"] = -1.0
    return atoms


@pytest.fixture
def model(work, model_file):
    (work / "model.safetensors").write_bytes(model_file.read_bytes())
    return "model.safetensors"


# --- bad input -------------------------------------------------------------------------------

FINETUNE = ("finetune", "--train", "train.xyz", "--valid", "valid.xyz", "--out", "out")


def with_(**options):
    """The good command with other options."""
    arguments = list(FINETUNE)
    for name, value in options.items():
        option = "--" + name.rstrip("_").replace("_", "-")
        if option in arguments and option != "--set":
            arguments[arguments.index(option) + 1] = value
        else:
            arguments += [option, value]
    return arguments


BAD = {
    "missing training file": (with_(train="none.xyz"), "none.xyz: no such file"),
    "unreadable frame": (with_(train="broken.xyz"), r"broken.xyz, frame 1: cannot be read"),
    "no energies": (with_(train="unlabelled.xyz"), "no frame has an energy"),
    "wrong key": (with_(set="data.energy_key=E_ref"), "E_ref"),
    "NaN labels": (with_(train="nan.xyz"), "nan.xyz, frame 0.*NaN"),
    "unknown element": (with_(valid="nitrogen.xyz"), r"nitrogen.xyz, frame 0.*\bN\b"),
    "unknown element for the base": (
        with_(train="nitrogen.xyz", model="model.safetensors"),
        r"model.safetensors does not know.*\bN\b",
    ),
    "empty validation file": (with_(valid="empty.xyz"), "empty.xyz"),
    "corrupt model": (with_(model="corrupt.safetensors"), "corrupt.safetensors"),
    "corrupt upstream model": (with_(model="corrupt.model"), "corrupt.model"),
    "missing model": (with_(model="none.model"), "none.model: no such model file"),
    "folder in use": (with_(out="full"), "full: exists and is not empty.*--overwrite"),
    "folder is a file": (with_(out="train.xyz"), "train.xyz: is a file"),
    "no folder": (["finetune", "--train", "train.xyz"], "--out"),
    "no data": (["finetune", "--out", "out"], "--train"),
    "bad --set": (with_(set="optimizer.speed=1"), "optimizer.speed"),
    "malformed --set": (with_(set="speed"), "section.field=value"),
    "bad value": (with_(set="optimizer.batch_size=0"), "optimizer.batch_size.*0"),
    "bad steps": (with_(max_steps="-3"), "optimizer.max_steps.*-3"),
    "bad irreps": (with_(set="model.hidden_irreps=lots"), "irreps"),
    "bad YAML": (with_(config="bad.yaml"), "bad.yaml: not valid YAML"),
    "wrong YAML": (with_(config="wrong.yaml"), "optimizer.lr"),
    "missing YAML": (with_(config="none.yaml"), "none.yaml"),
    "bad device": (with_(device="abacus"), "device 'abacus'"),
    "direct forces without labels": (with_(forces="direct", labels="energy"), "no training frame"),
    "unknown forces": (with_(forces="magic"), "conservative"),
    "nothing to resume": (["finetune", "--resume", "full"], "full"),
    "unknown option": (["finetune", "--trian", "x"], "--trian"),
    "unknown choice": (with_(weak="strong"), "strong"),
    "unknown command": (["fine-tune"], "fine-tune"),
    "evaluate: missing model": (["evaluate", "none.safetensors", "train.xyz"], "no such model"),
    "evaluate: missing data": (["evaluate", "model.safetensors", "none.xyz"], "no such file"),
    "evaluate: no labels": (
        ["evaluate", "model.safetensors", "unlabelled.xyz"],
        "unlabelled.xyz: no frame has.*--energy-key",
    ),
    "evaluate: unknown element": (["evaluate", "model.safetensors", "nitrogen.xyz"], r"\bN\b"),
    "evaluate: bad dtype": (
        ["evaluate", "model.safetensors", "train.xyz", "--dtype", "float1"],
        "dtype 'float1'",
    ),
    "evaluate: bad device": (
        ["evaluate", "model.safetensors", "train.xyz", "--device", "abacus"],
        "device 'abacus'",
    ),
    "evaluate: no folder for the JSON": (
        ["evaluate", "model.safetensors", "train.xyz", "--json", "nowhere/e.json"],
        "nowhere",
    ),
    "info: corrupt": (["info", "corrupt.safetensors"], "corrupt.safetensors"),
    "info: a folder": (["info", "full"], "full"),
    "export: exists": (["export", "model.safetensors", "train.xyz"], "train.xyz: exists"),
    "export: missing": (["export", "none.safetensors", "new.model"], "no such model"),
    "md: unknown element": (
        ["md", "model.safetensors", "nitrogen2.xyz", "--out", "out"],
        "nitrogen2.xyz|does not know",
    ),
    "md: folder in use": (
        ["md", "model.safetensors", "structure.xyz", "--out", "full"],
        "full: exists",
    ),
    "md: bad steps": (
        ["md", "model.safetensors", "structure.xyz", "--out", "out", "--steps", "-1"],
        "steps",
    ),
    "stability: missing structure": (
        ["stability", "model.safetensors", "none.xyz"],
        "none.xyz: no such file",
    ),
    "stability: bad temperature": (
        ["stability", "model.safetensors", "structure.xyz", "--temperature", "-5"],
        "temperature",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_is_one_line_and_exit_2(cli, work, model, listing, name):
    arguments, message = BAD[name]
    write("nitrogen2.xyz", molecule("NH3"))
    before = listing(work)
    code, out, err = cli(*arguments)
    assert code == 2, err
    assert out == ""
    assert len(err.strip().splitlines()) == 1, err
    assert "Traceback" not in err
    assert re.search(message, err), err
    assert listing(work) == before
    assert not (work / "out").exists()


def test_a_mistake_in_a_real_process(work):
    """The same through the installed program, where nothing is simulated."""
    found = subprocess.run(
        [sys.executable, "-m", "ase_ws.cli", *with_(train="none.xyz")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 2
    assert found.stdout == ""
    assert found.stderr == (
        "error: none.xyz: no such file; expected a structure file that ASE can read\n"
    )


# --- finetune --------------------------------------------------------------------------------


def test_finetune_and_evaluate(cli, work):
    code, out, err = cli(*FINETUNE, *QUICK, "--weak", "pitc", "--seed", "3")
    assert code == 0, err
    assert "validation errors" in out
    assert "model.safetensors" in out
    assert names("out") == [
        "config.yaml",
        "last.ckpt",
        "metrics.csv",
        "model.safetensors",
    ]
    written = yaml.safe_load((work / "out" / "config.yaml").read_text())
    assert written["weak"]["kind"] == "pitc"
    assert written["seed"] == 3
    assert written["optimizer"]["max_steps"] == 4
    assert written["model"]["hidden_irreps"] == "8x0e"

    code, out, err = cli("evaluate", "out/model.safetensors", "valid.xyz", "--json", "e.json", "-q")
    assert (code, out, err) == (0, "", "")
    found = json.loads((work / "e.json").read_text())
    assert found["n_frames"] == 4
    assert found["forces_rmse_mev_per_angstrom"] > 0

    # Going on where it ended, with more steps.
    code, out, err = cli("finetune", "--resume", "out", "--max-steps", "6", "--quiet")
    assert (code, out, err) == (0, "", "")
    rows = (work / "out" / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", "0", "2", "4", "6"]

    # The written configuration is a run.
    code, out, err = cli("finetune", "--config", "out/config.yaml", "--out", "again", "-q")
    assert (code, out, err) == (0, "", "")
    a, b = ((work / d / "metrics.csv").read_text() for d in ("out", "again"))
    assert len(a.splitlines()) == len(b.splitlines())


def test_options_win_over_the_file_and_set_over_options(cli, work):
    (work / "run.yaml").write_text("seed: 1\noptimizer:\n  max_steps: 50\n  batch_size: 2\n")
    arguments = [*FINETUNE, *QUICK, "--config", "run.yaml", "--set", "optimizer.max_steps=2", "-q"]
    code, out, err = cli(*arguments)
    assert (code, out, err) == (0, "", "")
    written = yaml.safe_load((work / "out" / "config.yaml").read_text())
    assert written["optimizer"]["max_steps"] == 2
    assert written["optimizer"]["batch_size"] == 2
    assert written["seed"] == 1


# --- evaluate --------------------------------------------------------------------------------


def test_evaluate_json(cli, work, model, frame_files):
    code, out, _ = cli("evaluate", model, frame_files / "energies.xyz", "--json", "e.json")
    assert code == 0
    found = json.loads((work / "e.json").read_text())
    assert list(found) == [
        "n_frames",
        "energy_rmse_mev_per_atom",
        "energy_mae_mev_per_atom",
        "forces_rmse_mev_per_angstrom",
        "forces_mae_mev_per_angstrom",
        "force_consistency_rmse_mev_per_angstrom",
    ]
    assert found["n_frames"] == 8
    assert found["energy_rmse_mev_per_atom"] >= found["energy_mae_mev_per_atom"] > 0
    assert [found[k] for k in list(found)[3:]] == [None, None, None]
    assert json.loads(out) == found
    # The figure is the RMSE per atom that one computes by hand.
    frames = read(frame_files / "energies.xyz", ":")
    calculator = PotentialCalculator(model)
    errors = [
        (calculator.get_potential_energy(a) - a.get_potential_energy()) / len(a) for a in frames
    ]
    assert found["energy_rmse_mev_per_atom"] == pytest.approx(
        1e3 * np.sqrt(np.mean(np.square(errors))), rel=1e-9
    )


def test_evaluate_says_where_the_level_is_another(cli, work, model):
    """The offset of a constant per element hides what a model is worth."""
    calculator = PotentialCalculator(model)
    rng = np.random.default_rng(0)
    for name, offset in (("same.xyz", 0.0), ("other.xyz", 50.0)):
        frames = []
        for _ in range(6):
            atoms = molecule("CH3OH")
            atoms.rattle(0.05, rng=rng)
            energy = float(calculator.get_potential_energy(atoms)) + rng.normal(scale=0.02)
            atoms.calc = SinglePointCalculator(atoms, energy=energy + offset)
            frames.append(atoms)
        write(name, frames)
    assert "another level" not in cli("evaluate", model, "same.xyz")[2]
    code, out, err = cli("evaluate", model, "other.xyz")
    assert code == 0
    assert json.loads(out)["energy_rmse_mev_per_atom"] > 8000
    assert "another level of theory" in err


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_devices_are_called_the_same_everywhere(cli, model, device):
    code, _, err = cli("evaluate", model, "valid.xyz", "--device", device, "--quiet")
    assert (code, err) == (0, "")


def test_evaluate_with_other_keys(cli, work, model):
    atoms = molecule("CH3OH")
    atoms.info["E_cc"] = -3000.0
    write("keys.xyz", [atoms])
    code, out, _ = cli("evaluate", model, "keys.xyz", "--energy-key", "E_cc")
    assert code == 0
    assert json.loads(out)["energy_rmse_mev_per_atom"] > 0


# --- info and export -------------------------------------------------------------------------


def test_info(cli, model, small_mace):
    code, out, err = cli("info", model)
    assert (code, err) == (0, "")
    for text in ("H C O", "4.0 Å", "8x0e+8x1o", "-13.6", "float64"):
        assert text in out
    code, out, _ = cli("info", model, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["elements"] == ["H", "C", "O"]
    assert found["e0_ev"] == {"H": -13.6, "C": -1030.0, "O": -2040.0}
    assert found["parameters"] == sum(p.numel() for p in small_mace.parameters())
    assert found["conservative"] is True


def test_info_after_training(cli, work):
    assert cli(*FINETUNE, *QUICK, "-q")[0] == 0
    code, out, _ = cli("info", "out/model.safetensors")
    assert code == 0
    assert "10 frames (10 with forces): CH4O" in out
    assert "ase-ws finetune --train train.xyz" in out


def test_export(cli, work, model, small_mace):
    code, out, err = cli("export", model, "--format", "mace", "new/out.model")
    assert (code, err) == (0, "")
    assert "new/out.model" in out
    atoms = molecule("CH3OH")
    expected = PotentialCalculator(small_mace).get_potential_energy(atoms)
    found = PotentialCalculator("new/out.model").get_potential_energy(atoms)
    assert found == pytest.approx(expected, abs=1e-9)
    assert cli("export", model, "new/out.model")[0] == 2
    assert cli("export", model, "new/out.model", "--overwrite")[0] == 0
    code, out, _ = cli("info", "new/out.model")
    assert code == 0
    assert "upstream" in out


# --- md and stability ------------------------------------------------------------------------


@pytest.fixture
def wild(work):
    """A model whose forces are far too large for any time step: whatever it does is unstable."""
    potential = tiny_mace(num_interactions=1, correlation=1, scale=(3000.0,))
    return save_potential(potential, "wild.safetensors")


@pytest.fixture
def calm(work):
    """A model without forces: atoms that hardly move in so short a time."""
    potential = tiny_mace(num_interactions=1, correlation=1, scale=(1e-6,))
    return save_potential(potential, "calm.safetensors")


def test_md_runs_and_writes(cli, work, calm):
    arguments = ["md", calm, "structure.xyz", "--steps", "4", "--interval", "2", "--out", "md"]
    code, out, err = cli(*arguments, "--ensemble", "nve", "--temperature", "10", "--quiet")
    assert (code, out, err) == (0, "", "")
    assert names("md") == ["md.csv", "md.json", "trajectory.extxyz"]
    assert len(read("md/trajectory.extxyz", ":")) == 3


@pytest.mark.parametrize(("kind", "code"), [("calm", 1), ("wild", 3)])
def test_the_verdict_is_the_exit_code(cli, work, kind, code, request):
    path = request.getfixturevalue(kind)
    arguments = ["stability", path, "structure.xyz", "--temperature", "20", "--ps", "0.005"]
    found, out, err = cli(*arguments, "--json", "s.json", "--quiet")
    assert (found, out, err) == (code, "", "")
    report = json.loads((work / "s.json").read_text())
    assert report["verdict"] == {1: "inconclusive", 3: "unstable"}[code]
    assert {"failures", "total_ps", "failure_rate_per_ps", "checks"} <= set(report)
    assert "failure_rate_95_upper_per_ps" in report


# --- the rest --------------------------------------------------------------------------------


def test_help_and_version(cli):
    import ase_ws

    code, out, err = cli("--version")
    assert (code, out.strip(), err) == (0, f"ase-ws {ase_ws.__version__}", "")
    code, out, _ = cli("--help")
    assert code == 0
    for command in ("finetune", "evaluate", "md", "stability", "info", "export"):
        assert command in out
        assert cli(command, "--help")[0] == 0


def test_the_model_that_is_written_is_the_model_that_is_loaded(cli, work):
    assert cli(*FINETUNE, *QUICK, "-q", "--set", "dtype=float64")[0] == 0
    potential = load_potential("out/model.safetensors")
    assert str(potential.dtype) == "torch.float64"


def test_an_interruption_says_how_to_go_on(cli, work, monkeypatch):
    def interrupted(*, out, **options):
        out.mkdir()
        (out / "last.ckpt").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(ase_ws.training, "finetune", interrupted)
    code, _, err = cli("finetune", "--train", "train.xyz", "--out", "run")
    assert code == 130
    assert "--resume run" in err


def test_a_trajectory_and_what_is_written(cli, tmp_path):
    calculator = PotentialCalculator(Morse(depth=4.0, r_max=2.0))
    run_md(molecule("H2O"), calculator, temperature=100, steps=200, out=tmp_path / "md")
    file = tmp_path / "md" / "trajectory.extxyz"
    code, _, _ = cli("stability", "--trajectory", file, "--out", tmp_path / "a")
    assert code == 1  # 0.1 ps are not enough
    assert json.loads((tmp_path / "a" / "stability.json").read_text())["name"] == "trajectory"
    frames = read(file, ":")
    for k, frame in enumerate(frames):
        frame.positions[1] += [0.0, 0.1 * k, 0.0]
    write(tmp_path / "broken.xyz", frames)
    code, out, _ = cli(
        "stability", "--trajectory", tmp_path / "broken.xyz", "--out", tmp_path / "b"
    )
    assert code == 3
    assert "bond" in out
    assert (tmp_path / "b" / "candidates.xyz").is_file()
    for arguments, message in (
        (["--trajectory", tmp_path / "none.xyz"], "none.xyz"),
        ([], "give MODEL and STRUCTURE"),
        (["model.safetensors"], "give MODEL and STRUCTURE"),
        (["--trajectory", file, "--temperature", "3", "--temperature", "4"], "one temperature"),
        (["a", "b", "--frame-interval", "3"], "--frame-interval"),
    ):
        code, _, err = cli("stability", *arguments)
        assert (code, message in err) == (2, True), err
