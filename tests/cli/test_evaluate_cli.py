"""`ase-ws evaluate`: predictions written down, and the picture of them."""

import json
import re
import stat

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import read, write

from ase_ws import PotentialCalculator
from ase_ws.frames import LabelKeys, read_frames
from ase_ws.potentials.files import save_potential


@pytest.fixture
def work(tmp_path, monkeypatch, frame_files, model_file):
    monkeypatch.chdir(tmp_path)
    for name in ("valid.xyz", "energies.xyz"):
        (tmp_path / name).write_bytes((frame_files / name).read_bytes())
    (tmp_path / "model.safetensors").write_bytes(model_file.read_bytes())
    write("bare.xyz", [molecule("CH3OH"), molecule("H2O")])
    write("nitrogen.xyz", [molecule("CH3OH"), molecule("NH3")])
    atom = Atoms("H", info={"energy": -13.6, "config_type": "IsolatedAtom"})
    frames = [*read("valid.xyz", ":"), molecule("H2O"), atom]
    for k, atoms in enumerate(frames[:4]):
        atoms.info["config_type"] = "even $x^2$" if k % 2 == 0 else "_odd"
    write("mixed.xyz", [frames[4], *frames[:2], frames[5], *frames[2:4]])
    (tmp_path / "there.xyz").write_text("precious")
    (tmp_path / "there.png").write_text("precious")
    (tmp_path / "folder.xyz").mkdir()
    return tmp_path


MODEL = "model.safetensors"


def test_every_structure_is_written_with_what_the_model_says(cli, work):
    plain = json.loads(cli("evaluate", MODEL, "mixed.xyz")[1])
    code, out, err = cli("evaluate", MODEL, "mixed.xyz", "--out", "p.xyz", "--json", "e.json")
    assert code == 0, err
    assert "predictions: p.xyz" in err
    # What is compared is the same: neither the isolated atom nor what has no labels counts more.
    assert json.loads(out) == json.loads((work / "e.json").read_text()) == plain
    given, found = read("mixed.xyz", ":"), read("p.xyz", ":")
    calculator = PotentialCalculator(MODEL)
    assert len(found) == len(given) == 6
    for old, new in zip(given, found, strict=True):
        assert new == old
        assert {k: v for k, v in new.info.items() if k != "ase_ws_energy"} == old.info
        assert getattr(new.calc, "results", {}).keys() == getattr(old.calc, "results", {}).keys()
        energy = calculator.get_potential_energy(old)
        assert new.info["ase_ws_energy"] == pytest.approx(energy, abs=1e-9)
        np.testing.assert_allclose(
            new.arrays["ase_ws_forces"], calculator.get_forces(old), rtol=0, atol=1e-8
        )
    again = read_frames("p.xyz", LabelKeys("ase_ws_energy"))
    assert all(frame.forces is not None for frame in again)
    assert stat.S_IMODE((work / "p.xyz").stat().st_mode) & 0o444
    # Held against its own predictions a model is right; there they are not overwritten.
    code, out, _ = cli("evaluate", MODEL, "p.xyz", "--energy-key", "ase_ws_energy")
    assert json.loads(out)["energy_rmse_mev_per_atom"] < 1e-6
    assert json.loads(out)["forces_rmse_mev_per_angstrom"] < 1e-4
    code, out, err = cli("evaluate", MODEL, "p.xyz", "--out", "q.xyz")
    assert (code, out) == (2, "")
    assert "p.xyz, frame 0: has 'ase_ws_energy' already; choose another --prefix" in err
    assert cli("evaluate", MODEL, "p.xyz", "--out", "q.xyz", "--prefix", "MACE_", "-q")[0] == 0
    assert {"ase_ws_energy", "MACE_energy"} <= read("q.xyz").info.keys()


def test_labels_are_not_needed_to_predict(cli, work):
    code, out, err = cli("evaluate", MODEL, "bare.xyz", "--out", "p.xyz.gz", "--quiet")
    assert (code, out, err) == (0, "", "")
    assert [a.info["ase_ws_energy"] < 0 for a in read("p.xyz.gz", ":")] == [True, True]
    code, out, err = cli("evaluate", MODEL, "bare.xyz", "--out", "more.xyz")
    assert code == 0
    assert json.loads(out)["energy_rmse_mev_per_atom"] is None
    assert "2 frames, no labels" in err


def test_frames_of_another_head_are_predicted_but_not_compared(cli, work):
    frames = read("energies.xyz", ":")
    for k, atoms in enumerate(frames):
        atoms.info["head"] = "other" if k < 5 else "Default"
    write("heads.xyz", frames)
    arguments = ("evaluate", MODEL, "heads.xyz", "--head", "Default")
    code, out, _ = cli(*arguments, "--out", "p.xyz")
    assert code == 0
    assert json.loads(out)["n_frames"] == 3
    assert len(read("p.xyz", ":")) == 8


def test_stress_of_crystals_is_written(cli, work, silicon_mace, labelled):
    save_potential(silicon_mace, "si.safetensors")
    write("si.xyz", labelled(2, kind="Si", stress=True))
    code, out, err = cli("evaluate", "si.safetensors", "si.xyz", "--out", "p.xyz", "-q")
    assert (code, out, err) == (0, "", "")
    for atoms in read("p.xyz", ":"):
        calculator = PotentialCalculator("si.safetensors")
        expected = calculator.get_stress(atoms)[[0, 5, 4, 5, 1, 3, 4, 3, 2]].reshape(3, 3)
        np.testing.assert_allclose(atoms.info["ase_ws_stress"], expected, rtol=0, atol=1e-10)
        assert "stress" in atoms.calc.results


@pytest.mark.parametrize("name", ["p.png", "p.svg", "p.PDF"])
def test_a_picture(cli, work, name):
    code, out, err = cli("evaluate", MODEL, "mixed.xyz", "--plot", name)
    assert code == 0, err
    assert json.loads(out)["n_frames"] == 5
    assert f"picture: {name}" in err
    begin = (work / name).read_bytes()[:60]
    assert begin.startswith((b"\x89PNG", b"%PDF", b"<?xml"))
    assert cli("evaluate", MODEL, "mixed.xyz", "--plot", name, "--overwrite", "-q")[0] == 0


BAD = {
    "exists": (("--out", "there.xyz"), "there.xyz: exists; use --overwrite"),
    "picture exists": (("--plot", "there.png"), "there.png: exists; use --overwrite"),
    "input": (("--out", "valid.xyz", "--overwrite"), "valid.xyz: is what is read"),
    "name": (("--out", "p.traj"), r"p.traj: expected a name that ends in .xyz"),
    "name of a picture": (("--plot", "p.gif"), r"p.gif: expected a name that ends in .png"),
    "folder": (("--out", "folder.xyz"), "folder.xyz: is a folder"),
    "no folder": (("--out", "nowhere/p.xyz"), "there is no folder nowhere"),
    "no folder for the picture": (("--plot", "nowhere/p.png"), "there is no folder nowhere"),
    "prefix": (("--out", "p.xyz", "--prefix", "a b"), "--prefix 'a b': expected letters"),
    "no file": (("none.xyz", "--out", "p.xyz"), "none.xyz: no such file"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_costs_nothing(cli, work, listing, name):
    arguments, message = BAD[name]
    before = listing(work)
    code, out, err = cli("evaluate", MODEL, "valid.xyz", *arguments)
    assert (code, out) == (2, "")
    assert len(err.strip().splitlines()) == 1
    assert re.search(message, err)
    assert listing(work) == before


def test_mistakes_in_frames_that_are_only_predicted(cli, work, listing):
    before = listing(work)
    for arguments, message in (
        (("nitrogen.xyz", "--out", "p.xyz"), r"nitrogen.xyz, frame 1: the model does not know.* N"),
        (("bare.xyz", "--plot", "p.png"), "bare.xyz: no frame has an energy or forces"),
        (("bare.xyz", "--out", "p.xyz", "--plot", "p.png"), "bare.xyz: no frame has an energy"),
        (("bare.xyz@:1", "--out", "bare.xyz", "--overwrite"), "bare.xyz: is what is read"),
    ):
        code, out, err = cli("evaluate", MODEL, *arguments)
        assert (code, out) == (2, "")
        assert re.search(message, err.strip().splitlines()[-1])
    assert listing(work) == before


def test_what_was_there_stays_until_the_new_file_is_whole(cli, work, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ase_ws.training.predict.ase.io.write", full)
    code, _, err = cli("evaluate", MODEL, "valid.xyz", "--out", "there.xyz", "--overwrite")
    assert code == 2
    assert "there.xyz: No space left on device" in err.splitlines()[-1]
    assert (work / "there.xyz").read_text() == "precious"
    assert not [path for path in work.iterdir() if path.name.startswith(".")]
