"""Places that cannot be written: found out before the work, nothing lost where it comes later."""

import errno
import json
import os
import sys
from pathlib import Path

import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import write
from toys import NaNSprings, ethanol

import ase_ws.files.writing
from ase_ws.cli.app import main
from ase_ws.errors import UserError
from ase_ws.files.folders import require_free, require_writable
from ase_ws.potentials.files import save_potential
from ase_ws.results.report import UnwrittenError
from ase_ws.stability import check_stability
from ase_ws.testing import tiny_mace


def tree(folder):
    return sorted(str(path) for path in folder.rglob("*"))


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    save_potential(tiny_mace((1, 8), hidden_irreps="4x0e", num_bessel=3), path)
    return path


@pytest.fixture
def place(tmp_path, monkeypatch, tiny_file):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("precious")
    Path("folder").mkdir()
    Path("m.safetensors").write_bytes(tiny_file.read_bytes())
    write("water.xyz", molecule("H2O"))
    Path("campaign.yaml").write_text(
        "models: [m.safetensors]\nstructures: [water.xyz]\ntemperatures: 50\nps: 0.002\n"
    )
    return tmp_path


FILES = {
    "folder": "is a folder",
    "file/x.json": "there is no folder file",
    "none/x.json": "there is no folder none",
    "x" * 300 + ".json": "cannot be written",
    "x" * 250 + ".json": "cannot be written",
    "/proc/x.json": "cannot be written",
}
FOLDERS = {
    "file": "is a file",
    "file/x": "cannot be written",
    "file/x/y": "cannot be written",
    "x" * 300: "cannot be written",
    "new/" + "x" * 300 + "/new": "cannot be written",
    "/proc/x": "cannot be written",
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_cannot_be_written(name, place):
    before = tree(place)
    with pytest.raises(UserError, match=FILES[name]):
        require_writable(Path(name))
    assert tree(place) == before


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_that_cannot_be_written(name, place):
    before = tree(place)
    with pytest.raises(UserError, match=FOLDERS[name]):
        require_writable(Path(name), folder=True)
    with pytest.raises(UserError, match=FOLDERS[name]):
        require_free(Path(name), overwrite=True)
    assert tree(place) == before


def test_a_read_only_file_system_is_found_out(place, monkeypatch):
    def no(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("tempfile.NamedTemporaryFile", no)
    monkeypatch.setattr("tempfile.TemporaryDirectory", no)
    with pytest.raises(UserError, match=r"x.json: cannot be written .Read-only"):
        require_writable(Path("x.json"))
    with pytest.raises(UserError, match=r"new: cannot be written .Read-only"):
        require_writable(Path("new"), folder=True)


def test_what_can_be_written_stays_as_it_is(place):
    before = tree(place)
    for name in ("file", "new.json", "folder/new.json", "x" * 200 + ".json"):
        require_writable(Path(name))
    for name in ("folder", "new", "new/newer/newest", "."):
        require_writable(Path(name), folder=True)
    assert tree(place) == before
    assert Path("file").read_text() == "precious"


COMMANDS = {
    "stability": ["stability", "m.safetensors", "water.xyz", "--ps", "0.002", "--no-static"],
    "trajectory": ["stability", "--trajectory", "water.xyz", "--temperature", "300"],
    "campaign": ["campaign", "campaign.yaml", "--workers", "1"],
    "report": ["report", "run"],
}
OPTIONS = [
    (command, option, name)
    for command in COMMANDS
    for option, names in (("--out", FOLDERS), ("--json", FILES))
    for name in names
    if (command, option) != ("report", "--json")
]


def run(monkeypatch, capsys, arguments):
    monkeypatch.setattr(sys, "argv", ["ase-ws", *arguments])
    with pytest.raises((SystemExit, OSError)) as ended:
        main()
    told = capsys.readouterr()
    return getattr(ended.value, "code", ended.value), told.out, told.err


@pytest.mark.parametrize(("command", "option", "name"), OPTIONS)
def test_it_is_found_out_before_the_work(command, option, name, place, monkeypatch, capsys):
    def work(*_, **__):
        raise AssertionError("work was done")

    monkeypatch.setattr("ase_ws.stability.runs.replicas.run_md", work)
    monkeypatch.setattr("ase_ws.stability.campaign.run._executor", work)
    monkeypatch.setattr("ase_ws.report.stability.collect.collect_runs", work)
    more = ["--out", "new"] if command == "campaign" and option == "--json" else []
    before = tree(place)
    code, _, err = run(monkeypatch, capsys, [*COMMANDS[command], option, name, *more])
    assert code == 2
    assert (FOLDERS if option == "--out" else FILES)[name] in " ".join(err.split())
    assert tree(place) == before


def full(monkeypatch):
    """No more files can be written, at least none that hold results."""

    def no(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(ase_ws.files.writing.tempfile, "mkstemp", no)


@pytest.mark.parametrize("option", ["--out", "--json"])
def test_a_disk_that_is_full_at_the_end_loses_nothing(option, place, monkeypatch, capsys):
    campaign = sys.modules["ase_ws.stability.trial"]

    real = campaign.assemble

    def filling(*given, **more):
        full(monkeypatch)
        return real(*given, **more)

    monkeypatch.setattr(campaign, "assemble", filling)
    code, out, _ = run(monkeypatch, capsys, [*COMMANDS["stability"], option, "new"])
    assert code == 2 or code.errno == errno.ENOSPC
    assert out.startswith("unstable: ")
    assert "blame: " in out


def test_a_full_disk_ends_no_run(tmp_path, monkeypatch):
    """Candidates are written while replicas still run."""
    full(monkeypatch)
    with pytest.raises(UnwrittenError, match="No space") as ended:
        check_stability(
            ethanol(), NaNSprings(ethanol()), temperature=300, ps=0.3, replicas=2, static=False,
            blame=False, out=tmp_path,
        )  # fmt: skip
    assert ended.value.report.failed_replicas == 2
    json.dumps(ended.value.report.to_dict(), allow_nan=False)


def test_python_is_told_too(place):
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 1.3]])
    with pytest.raises(UserError, match="file: is a file"):
        check_stability(atoms, NaNSprings(atoms), temperature=50, ps=0.01, out="file")
