"""`ase-ws md` where something is wrong: one line, exit 2, nothing lost."""

import errno
import os
import shutil
from pathlib import Path

import ase.io
import pytest
from ase.build import molecule
from ase.constraints import FixAtoms

from ase_ws.md import read_log
from ase_ws.md.checkpoint import NAME
from ase_ws.md.run_result import NotWrittenError
from ase_ws.potentials.files import save_potential
from ase_ws.testing import tiny_mace


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder with a structure, and a model all but without forces, so that no check fails."""
    monkeypatch.chdir(tmp_path)
    save_potential(_calm(0), "model.safetensors")
    ase.io.write("methanol.xyz", molecule("CH3OH"))
    return tmp_path


def _calm(seed):
    return tiny_mace(num_interactions=1, correlation=1, scale=(1e-6,), seed=seed)


def arguments(*more, steps=1001, structure="methanol.xyz", model="model.safetensors"):
    run = ("--steps", steps, "--timestep", "0.05", "--interval", "100", "--temperature", "30")
    return ("md", model, structure, *run, "--out", "md", *more)


def test_nose_hoover_with_fixed_atoms(cli, work):
    """As a file brings them: with a move_mask."""
    atoms = molecule("CH3OH")
    atoms.set_constraint(FixAtoms([0, 1]))
    ase.io.write("fixed.extxyz", atoms)
    code, _, err = cli(*arguments("-q", "--thermostat", "nose-hoover", structure="fixed.extxyz"))
    assert (code, err) == (0, "")
    frames = ase.io.read("md/trajectory.extxyz", ":")
    assert frames[-1].constraints[0].index.tolist() == [0, 1]
    assert (frames[-1].positions[:2] == frames[0].positions[:2]).all()
    # 2K = n_dof k_B T at the start, with the twelve degrees of freedom of four atoms.
    kinetic = frames[0].get_kinetic_energy()
    assert read_log("md/md.csv")["temperature_k"][0] == pytest.approx(30.0)
    assert 2 * kinetic / (12 * 8.617333e-5) == pytest.approx(30.0, rel=1e-3)


def test_resume_with_another_model(cli, work, listing):
    assert cli(*arguments("-q"))[0] == 0
    save_potential(_calm(5), "other.safetensors")
    before = listing(work)
    code, _, err = cli(*arguments("--resume", "-q", model="other.safetensors"))
    assert code == 2
    assert "potential" in err
    assert "Traceback" not in err
    assert listing(work) == before
    assert cli(*arguments("--resume", "-q", steps=1100))[0] == 0


def test_damaged_files(cli, work):
    assert cli(*arguments("-q"))[0] == 0
    Path("md").rename("whole")
    for name in (NAME, "trajectory.extxyz", "md.csv"):
        size = (Path("whole") / name).stat().st_size
        for left in (size // 3, 0, None):
            shutil.copytree("whole", "md", dirs_exist_ok=True)
            if left is not None:
                os.truncate(Path("md") / name, left)
            elif name == NAME:
                continue  # without a checkpoint it is a start
            else:
                (Path("md") / name).unlink()
            code, _, err = cli(*arguments("--resume", "-q"))
            assert code == 2
            assert len(err.strip().splitlines()) == 1
            assert f"md/{name}" in err


def test_the_summary_is_printed_before_the_error(cli, work, monkeypatch, capfd):
    from ase_ws.cli.md import md

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(NotWrittenError, match=r"md\.json"):
        md(Path("model.safetensors"), Path("methanol.xyz"), Path("md"), steps=3)
    assert "3 steps" in capfd.readouterr().out
