"""Sets in HDF5 and LMDB, written by the programs that people use, read as extended XYZ is."""

import json
import os
import pickle
import subprocess
import sys
import zlib
from pathlib import Path

import h5py
import lmdb
import numpy as np
import pytest
from ase.build import molecule
from ase.constraints import FixAtoms, FixBondLength
from ase.io import read, write

from ase_ws.errors import UnsafeFileError, UserError
from ase_ws.frames import LabelKeys, read_frames, read_structure, sets

REFERENCE = LabelKeys("REF_energy")
KINDS = ["Si", "CH3OH", "H2O"]


def reference(frames):
    """Labels under the names that `mace_run_train` goes by, and all else that a frame may say."""
    stresses = np.random.default_rng(0).normal(0, 0.01, (len(frames), 3, 3))
    for k, (atoms, stress) in enumerate(zip(frames, stresses, strict=True)):
        results, atoms.calc = atoms.calc.results, None
        atoms.info["REF_energy"] = float(results["energy"])
        atoms.info["config_type"] = f"kind{k % 3}"
        if k % 4 != 1:
            atoms.arrays["REF_forces"] = results["forces"]
        if atoms.pbc.all() and k % 2 == 0:
            atoms.info["REF_stress"] = stress + stress.T
            atoms.info["config_stress_weight"] = 3.0
        atoms.info |= {2: {"config_weight": 0.5}, 4: {"config_forces_weight": 0.0}}.get(k, {})
    frames[3].info["REF_virials"] = stresses[3] + stresses[3].T
    frames[3].info["config_virials_weight"] = 0.25
    frames[-1].pbc, frames[-1].cell = (True, True, False), (5.0, 5.0, 9.0)
    del frames[-2].info["config_type"]
    return frames


@pytest.fixture(scope="module")
def prepared(labelled, tmp_path_factory):
    """`train.xyz` and what `mace_prepare_data` makes of it, in `h5`."""
    folder = tmp_path_factory.mktemp("prepared")
    write(folder / "train.xyz", reference(labelled(25, KINDS)))
    write(folder / "val.xyz", reference(labelled(6, KINDS, seed=50)))
    arguments = "--train_file train.xyz --valid_file val.xyz --num_process 2 --r_max 3"
    command = [sys.executable, "-m", "mace.cli.preprocess_data", *arguments.split()]
    options = ["--h5_prefix", "h5/", "--shuffle", "false"]
    subprocess.run([*command, *options], check=True, cwd=folder, capture_output=True)
    return folder


def same(ours, theirs):
    """Compare all that training takes of a frame; a label that is absent has no weight."""
    for name in ("numbers", "positions", "cell", "pbc", "energy", "forces", "stress"):
        one, other = getattr(ours, name), getattr(theirs, name)
        assert (one is None) == (other is None), name
        if one is not None:
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12, err_msg=name)
    assert (ours.config_type, ours.head) == (theirs.config_type, theirs.head)
    assert ours.state == theirs.state
    labels = (ours.energy, ours.forces, ours.stress)
    for label, one, other in zip(labels, ours.weights, theirs.weights, strict=True):
        assert label is None or one == other


# HDF5 -------------------------------------------------------------------------------------------


def test_what_mace_prepare_data_writes(prepared):
    """In its order, which is neither that of names in HDF5 nor that of names in a folder."""
    ours = read_frames(prepared / "h5" / "train")
    theirs = read_frames(prepared / "train.xyz", REFERENCE)
    assert len(ours) == 25
    for one, other in zip(ours, theirs, strict=True):
        same(one, other)
    assert sum(f.forces is None for f in ours) == 6
    assert sum(f.stress is not None for f in ours) == 5
    assert ours[20].source.endswith("train_1.h5, frame 7")
    assert not any(f.unused for k, f in enumerate(ours) if k != 3)
    assert ours[3].unused == ("virials",)


def test_virials_are_named_as_in_extended_xyz(prepared):
    keys = LabelKeys(stress="virials")
    (ours,) = read_frames(f"{prepared}/h5/train/train_0.h5@3", keys)
    (theirs,) = read_frames(
        f"{prepared}/train.xyz@3", LabelKeys("REF_energy", stress="REF_virials")
    )
    assert ours.weights[2] == 0.25
    same(ours, theirs)


def test_a_choice_of_frames(prepared):
    folder = prepared / "h5" / "train"
    every = [f.energy for f in read_frames(folder)]
    for choice in (":3", "2:20:5", "-4:", "::-6"):
        start = slice(*(int(n) if n else None for n in choice.split(":")))
        assert [f.energy for f in read_frames(f"{folder}@{choice}")] == every[start]
    assert [f.energy for f in read_frames(f"{folder}/train_1.h5@-1")] == every[-1:]
    assert [f.energy for f in read_frames(f"{folder}/*.h5@:2")] == [*every[:2], *every[13:15]]
    assert len(read_structure(folder)) == len(read(prepared / "train.xyz", -1))
    with pytest.raises(UserError, match=r"train@99: the file has 25 frames"):
        read_frames(f"{folder}@99")


def test_a_part_without_frames_is_passed_over(prepared, tmp_path):
    """`mace_prepare_data` writes one where there are fewer frames than processes."""
    for number in (10, 9):
        with h5py.File(tmp_path / f"val_{number}.h5", "w") as file:
            file.create_group("config_batch_0")
    with pytest.raises(UserError, match=f"{tmp_path}: no frames"):
        read_frames(tmp_path)
    data = (prepared / "h5" / "val" / "val_0.h5").read_bytes()
    for number in (12, 2):
        (tmp_path / f"val_{number}.h5").write_bytes(data)
    (tmp_path / "notes.txt").write_text("of another kind")
    sources = [Path(f.source).name for f in read_frames(tmp_path)]
    assert sources[0] == "val_2.h5, frame 0"
    assert sources[3] == "val_12.h5, frame 0"


def test_heads_and_states(upstream, tmp_path):
    """By upstream's own writer: what `mace_prepare_data` does not pass on."""
    from mace.data import KeySpecification, config_from_atoms
    from mace.data.utils import save_configurations_as_HDF5

    atoms = molecule("H2O")
    atoms.info |= {"REF_energy": -1.5, "head": "pbe", "total_charge": -1, "total_spin": 2}
    keys = KeySpecification.from_defaults()
    configs = [config_from_atoms(a, key_specification=keys) for a in (atoms, molecule("OH"))]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        save_configurations_as_HDF5(configs, 0, file)
    first, second = read_frames(tmp_path / "a.h5")
    assert (first.head, first.state, first.energy) == ("pbe", (-1.0, 2.0), -1.5)
    assert (second.head, second.state, second.energy) == ("", (0.0, 1.0), None)
    assert first.forces is first.stress is None


def old_file(path, **labels):
    """As mace-torch wrote it up to 0.3.10: labels that are absent are zeros that do not count."""
    atoms = molecule("H2O")
    shapes = {"energy": (), "forces": (3, 3), "stress": (6,), "virials": (3, 3)}
    with h5py.File(path, "w") as file:
        group = file.create_group("config_batch_0/config_0")
        group["atomic_numbers"], group["positions"] = atoms.numbers, atoms.positions
        group["cell"], group["pbc"] = np.eye(3) * 5, np.ones(3, bool)
        for name, shape in shapes.items():
            group[name] = labels.get(name, np.zeros(shape))
            group[f"{name}_weight"] = float(name in labels)
        group["charges"], group["dipole"] = np.zeros(3), np.zeros(3)
        group["weight"], group["head"], group["config_type"] = 2.0, "Default", "Default"
    return path


@pytest.mark.parametrize("labels", [{"energy": -3.0}, {"forces": np.ones((3, 3))}])
def test_files_of_older_versions(tmp_path, labels):
    (frame,) = read_frames(old_file(tmp_path / "old.hdf5", **labels))
    assert (frame.head, frame.config_type, frame.weights) == ("", "", (2.0, 2.0, 2.0))
    assert frame.energy == labels.get("energy")
    assert (frame.forces is None) == ("forces" not in labels)
    assert frame.stress is None
    assert not frame.unused


# LMDB -------------------------------------------------------------------------------------------


def pack(row):
    return zlib.compress(json.dumps(row).encode())


def write_lmdb(path, rows):
    with (
        lmdb.open(str(path), subdir=False, map_size=2**24, lock=False) as file,
        file.begin(write=True) as rows_there,
    ):
        for key, value in rows.items():
            rows_there.put(str(key).encode(), value)
    return path


def row_of(name="H2O", **more):
    atoms = molecule(name)
    return {"numbers": atoms.numbers.tolist(), "positions": atoms.positions.tolist(), **more}


@pytest.fixture
def database(upstream, labelled, tmp_path):
    """A set by upstream's writer, which is fairchem's, and the same frames in a file of ASE."""
    from mace.tools.fairchem_dataset.lmdb_dataset_tools import LMDBDatabase

    frames = labelled(12, KINDS, forces=lambda k: k != 4)
    frames += labelled(2, "Si", seed=9, stress=True)
    frames[0].info |= {"config_weight": 0.5, "config_type": "bulk"}
    frames[1].info |= {"charge": 1, "spin": 2, "head": "pbe"}
    frames[2].info["REF_energy"] = -7.0
    frames[2].arrays["REF_forces"] = np.ones((3, 3))
    frames[3].info["REF_stress"] = np.arange(9.0)
    frames[3].set_constraint(FixAtoms([0]))
    file = LMDBDatabase(tmp_path / "a.aselmdb")
    for atoms in [*frames, frames[0]]:
        file._write(atoms, {}, None)
    file.delete([15])
    file.close()
    write(tmp_path / "a.traj", frames)
    return tmp_path


def test_what_fairchem_writes(database):
    ours, theirs = read_frames(database / "a.aselmdb"), read_frames(database / "a.traj")
    assert len(ours) == 14
    for one, other in zip(ours, theirs, strict=True):
        same(one, other)
    assert {f.state for f in ours} == {(0.0, 1.0), (1.0, 2.0)}
    (named,) = read_frames(f"{database}/a.aselmdb@2", REFERENCE)
    assert named.energy == -7.0
    np.testing.assert_array_equal(named.forces, np.ones((3, 3)))
    (stress,) = read_frames(f"{database}/a.aselmdb@3", LabelKeys(stress="REF_stress"))
    np.testing.assert_array_equal(stress.stress, np.arange(9.0).reshape(3, 3))
    (fixed,) = read_structure(f"{database}/a.aselmdb@3").constraints
    assert fixed.index.tolist() == [0]


def test_upstream_reads_the_same(database):
    import torch
    from mace.data import LMDBDataset
    from mace.tools import AtomicNumberTable

    torch.set_default_dtype(torch.float64)
    path = database / "a.aselmdb"
    # One that is open cannot be opened once more.
    ours = read_frames(path)
    theirs = LMDBDataset(str(path), 3.0, AtomicNumberTable([1, 6, 8, 14]))
    assert len(theirs) == len(ours)
    for k, frame in enumerate(ours):
        item = theirs[k]
        np.testing.assert_array_equal(item["positions"], frame.positions)
        assert item["weight"] == frame.weights[0]
        assert item["energy"] == frame.energy
        for name in ("forces", "stress"):
            label = getattr(frame, name)
            # The frames with labels under names of mace-torch, too.
            if label is not None:
                np.testing.assert_array_equal(np.squeeze(item[name]), label)
            elif k not in (2, 3):
                assert item[f"{name}_weight"] == 0


def test_arrays_as_ase_writes_them(tmp_path):
    from ase.io.jsonio import encode

    atoms = molecule("H2O")
    row = {"numbers": atoms.numbers, "positions": atoms.positions, "forces": np.ones((3, 3))}
    packed = zlib.compress(encode({**row, "energy": -2.0}).encode())
    (frame,) = read_frames(write_lmdb(tmp_path / "a.lmdb", {1: packed, "nextid": pack(2)}))
    np.testing.assert_array_equal(frame.positions, atoms.positions)
    np.testing.assert_array_equal(frame.forces, np.ones((3, 3)))


def test_a_value_that_is_not_finite_is_refused(tmp_path):
    """To JSON it is null."""
    row = row_of(energy=-1.0, forces=[[0.0, 0.0, 0.0], [None, 0.0, 0.0], [0.0, 0.0, 0.0]])
    path = write_lmdb(tmp_path / "a.lmdb", {1: pack(row)})
    with pytest.raises(UserError, match=r"a\.lmdb, frame 0: forces label 'forces' holds NaN"):
        read_frames(path)


# Damaged, hostile, of another kind --------------------------------------------------------------


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [0, 2, pickle.HIGHEST_PROTOCOL])
def test_pickles_are_refused_and_not_run(tmp_path, cli, protocol):
    payload = pickle.dumps(Hostile(tmp_path / "run"), protocol)
    path = write_lmdb(tmp_path / "s2ef.lmdb", {0: payload, "length": pickle.dumps(1, protocol)})
    with pytest.raises(UnsafeFileError, match=r"s2ef\.lmdb, frame 0: is not JSON"):
        read_frames(path)
    code, _, err = cli("finetune", "--train", path, "--out", tmp_path / "out")
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert "pickles" in err
    assert not (tmp_path / "run").exists()


def test_objects_of_ase_are_not_made(tmp_path):
    made = {"__ase_objtype__": "bandpath", "labelseq": "GX", "cell": np.eye(3).tolist()}
    bond = FixBondLength(0, 1).todict()
    row = row_of(energy=-1.0, constraints=[bond], data={"path": made}, calculator_parameters=made)
    path = write_lmdb(tmp_path / "a.aselmdb", {1: pack(row)})
    atoms = read_structure(path)
    assert atoms.info["path"] == made
    assert not atoms.constraints


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"", "is not JSON packed by zlib"),
        (pack(row_of())[:-40], "not the whole of a row"),
        (zlib.compress(b"{" * 10**5), "cannot be read"),
        (zlib.compress(b"\x80\x04."), "cannot be read"),
        (pack([1, 2]), "cannot be read"),
        (pack({"numbers": [1]}), "has no positions"),
        (pack(row_of(forces="large")), "cannot be read"),
        (pack(row_of(data={"__arrays__": {"q": [1.0]}})), "wrong length"),
        (pack(row_of(forces={"__ndarray__": [[10**12, 3], "float64", [0.0]]})), "cannot be read"),
        (pack(row_of(energy="low")), "energy label 'energy' is not a number"),
        (pack(row_of(forces=[[0.0, 0.0, 0.0]])), r"has shape \(1, 3\), expected \(3, 3\)"),
    ],
)
def test_a_row_that_is_none(tmp_path, value, message):
    path = write_lmdb(tmp_path / "a.lmdb", {1: pack(row_of(energy=-1.0)), 2: value})
    with pytest.raises(UserError, match=rf"a\.lmdb, frame 1: .*{message}") as caught:
        read_frames(path)
    assert "\n" not in str(caught.value)


def test_a_row_that_would_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(sets, "_LARGEST", 1000)
    path = write_lmdb(tmp_path / "a.lmdb", {1: pack(row_of(energy=-1.0, data={"x": " " * 9999}))})
    with pytest.raises(UserError, match="frame 0: is not the whole of a row"):
        read_frames(path)


@pytest.mark.parametrize("name", ["a.h5", "a.aselmdb"])
def test_files_cut_short(tmp_path, name):
    path = tmp_path / name
    if path.suffix == ".h5":
        old_file(path, energy=-3.0)
    else:
        write_lmdb(path, {k: pack(row_of(data={"x": list(range(k * 2000))})) for k in range(1, 9)})
    data = path.read_bytes()
    for n in (0, 1, 100, 5000, 8192, len(data) - 4096, len(data) - 1):
        path.write_bytes(data[:n])
        with pytest.raises(UserError, match=rf"{name}: ") as caught:
            read_frames(path)
        assert "\n" not in str(caught.value)


def test_a_file_that_is_damaged_inside(tmp_path):
    path = old_file(tmp_path / "a.h5", energy=-3.0)
    with h5py.File(path, "a") as file:
        file["config_batch_0/config_1/atomic_numbers"] = [1]
        file["config_batch_0/config_2/positions"] = "nowhere"
    with pytest.raises(UserError, match=r"a\.h5, frame 1: has no positions of atoms"):
        read_frames(path)
    with pytest.raises(UserError, match=r"a\.h5, frame 2: has no numbers of atoms"):
        read_frames(f"{path}@2")


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("a.h5", lambda path: h5py.File(path, "w").close(), "no group config_batch_0"),
        ("a.h5", lambda path: path.write_text("3\n\nH 0 0 0\n"), "cannot be read"),
        ("a.lmdb", lambda path: path.write_text("3\n\nH 0 0 0\n"), "cannot be read"),
        ("a.lmdb", lambda path: write_lmdb(path, {"one": b"two"}), "has no rows"),
        ("a.lmdb", lambda path: write_lmdb(path, {"nextid": pack(1)}), "no frames found"),
        ("a.aselmdb", lambda path: path.mkdir(), "is a folder; expected .* or a folder of .h5"),
        ("a.h5@:3", lambda path: None, "a.h5: no such file"),
    ],
)
def test_files_of_another_kind(tmp_path, cli, name, make, message):
    make(tmp_path / name)
    with pytest.raises(UserError, match=message) as caught:
        read_frames(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name.partition("@")[0]))
    code, _, err = cli("finetune", "--train", tmp_path / name, "--out", tmp_path / "out")
    assert (code, len(err.strip().splitlines())) == (2, 1)


@pytest.mark.parametrize(("name", "module"), [("a.h5", "h5py"), ("a.lmdb", "lmdb")])
def test_a_library_that_is_not_there(tmp_path, monkeypatch, name, module):
    (tmp_path / name).write_bytes(b"something")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"{name}: needs {module}: pip install {module}"):
        read_frames(tmp_path / name)


# All of it --------------------------------------------------------------------------------------


QUICK = {"model.hidden_irreps": "8x0e", "model.num_bessel": 4, "model.correlation": 1}
QUICK |= {"model.num_interactions": 1, "optimizer.valid_interval": 1, "dtype": "float64"}
QUICK |= {"data.config_type_weights": "{kind1: 2.0}", "model.r_max": 3.0}


def test_training_and_evaluation(prepared, cli, tmp_path):
    """A set goes where extended XYZ goes, and gives the same."""
    quick = [text for name, value in QUICK.items() for text in ("--set", f"{name}={value}")]
    quick += ["--max-steps", "2", "--device", "cpu"]
    found = []
    for name, keys in (("h5/{}", []), ("{}.xyz", ["--energy-key", "REF_energy"])):
        out = tmp_path / f"out{len(found)}"
        train, valid = (prepared / name.format(what) for what in ("train", "val"))
        files = ["--train", train, "--valid", valid]
        code, _, err = cli("finetune", *files, *keys, *quick, "--out", out)
        assert code == 0, err
        assert "25 with energies, 19 with forces, 5 with stress" in err
        assert "20 of 31 frames have weights of their own" in err
        code, metrics, err = cli("evaluate", out / "model.safetensors", train, *keys)
        assert code == 0, err
        found.append(metrics)
    assert found[0] == found[1]


def test_a_key_that_is_nowhere_in_a_set(prepared, cli, model_file):
    """The names that labels had before `mace_prepare_data` are gone, which is said."""
    code, _, err = cli(
        "evaluate", model_file, prepared / "h5" / "val", "--energy-key", "REF_energy"
    )
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert "no frame has 'REF_energy', named for the energy; there are: energy (" in err
