"""Damaged and strange model files: one line each, soon, and nothing is built from them."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_potentials import archive, one_line, rewrite

from ase_ws.errors import UserError
from ase_ws.potentials.files import load_potential, read_header, save_potential
from ase_ws.potentials.mace import model as mace_module
from ase_ws.potentials.mace.upstream import export_upstream
from ase_ws.testing import tiny_mace


@pytest.fixture
def nothing_is_built(monkeypatch):
    def build(**arguments):
        pytest.fail("a network was built")

    monkeypatch.setattr(mace_module.modules, "ScaleShiftMACE", build)


def refused(path, words="bad"):
    with pytest.raises(UserError, match=words) as error:
        load_potential(path)
    assert path.name in one_line(error)
    assert "pydantic" not in str(error.value)


# --- what the description asks for ---------------------------------------------------------------

DESCRIPTIONS = {
    "many radial functions": {"num_bessel": 10_000_000_000},
    "some radial functions": {"num_bessel": 9_000},
    "many layers": {"num_interactions": 1_000_000},
    "some layers": {"num_interactions": 3},
    "high correlation": {"correlation": 13},
    "other correlation": {"correlation": 3},
    "high degree": {"max_ell": 11},
    "other degree": {"max_ell": 3},
    "negative": {"max_ell": -1},
    "huge width": {"hidden_irreps": "999999999x0e"},
    "width": {"hidden_irreps": "90000x0e"},
    "degree of features": {"hidden_irreps": "1x40e"},
    "many terms": {"hidden_irreps": "+".join(["8x0e"] * 1000)},
    "long text": {"hidden_irreps": "1" * 1_000_000 + "x0e"},
    "no scalars": {"hidden_irreps": "8x1o"},
    "radial network": {"radial_MLP": [90_000, 90_000]},
    "deep radial network": {"radial_MLP": [8] * 1000},
    "empty width": {"radial_MLP": [0]},
    "readout": {"MLP_irreps": "90000x0e", "num_interactions": 2},
    "edges": {"edge_irreps": "90000x0e"},
    "no heads": {"heads": []},
    "nameless head": {"heads": [""]},
    "more heads": {"heads": ["a", "b"]},
    "infinite cutoff": {"r_max": float("inf")},
    "far cutoff": {"r_max": 1e6},
    "NaN cutoff": {"r_max": float("nan")},
    "infinite scale": {"scale": [float("inf")]},
    "NaN neighbours": {"avg_num_neighbors": float("nan")},
}


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_impossible_descriptions(model_file, tmp_path, name, nothing_is_built):
    def change(header):
        return {**header, "architecture": {**header["architecture"], **DESCRIPTIONS[name]}}

    refused(rewrite(model_file, tmp_path / "bad.safetensors", change))


@pytest.mark.parametrize(
    "changes",
    [{"max_ell": 0}, {"MLP_irreps": "8x1o"}],
    ids=["features without directions", "a readout of vectors"],
)
def test_what_upstream_cannot_build(changes):
    """Combinations that pass every bound."""
    with pytest.raises(UserError, match="no MACE can be built") as error:
        tiny_mace(**changes)
    one_line(error)


def test_what_upstream_builds_and_cannot_evaluate():
    with pytest.raises(UserError, match=r"8x0e\+4x1o, but cannot evaluate it") as error:
        tiny_mace(hidden_irreps="8x0e+4x1o")
    one_line(error)


@pytest.mark.parametrize("readout", [{"width": 10**9}, {"n_radial": 10**9}, {"scale": np.inf}])
def test_impossible_readouts(direct_mace, tmp_path, readout):
    good = save_potential(direct_mace, tmp_path / "good.safetensors")

    def change(header):
        return {**header, "readout": {**header["readout"], **readout}}

    refused(rewrite(good, tmp_path / "bad.safetensors", change))


RAW = {
    "nested": "[" * 100_000,
    "long number": '{"format": ' + "9" * 10_000 + "}",
    "not named": "[]",
}


@pytest.mark.parametrize("name", RAW)
def test_headers_that_are_no_json(model_file, tmp_path, name):
    refused(rewrite(model_file, tmp_path / "bad.safetensors", lambda header: RAW[name]))


@pytest.mark.parametrize(
    "facts",
    [
        5,
        ["made", "here"],
        {"notes": 5},
        {"largest_training_force_ev_per_angstrom": "abc"},
        {"largest_training_force_ev_per_angstrom": float("nan")},
        {"largest_training_force_ev_per_angstrom": -1.0},
        {"trained_on": "CH4O"},
        {"e0": "PBE"},
        {"validation": {"energy": "small"}},
    ],
)
def test_provenance_of_another_type(cli, model_file, small_mace, tmp_path, facts):
    path = tmp_path / "bad.safetensors"
    with pytest.raises(UserError, match="provenance"):
        save_potential(small_mace, path, facts)
    assert not path.exists()
    rewrite(model_file, path, lambda header: {**header, "provenance": facts})
    refused(path, "provenance")
    code, out, err = cli("info", path)
    assert (code, out) == (2, "")
    assert len(err.strip().splitlines()) == 1


def test_provenance_may_hold_other_facts(cli, small_mace, tmp_path):
    facts = {"level": "CCSD(T)", "n_train": 3, "largest_training_force_ev_per_angstrom": None}
    path = save_potential(small_mace, tmp_path / "m.safetensors", facts)
    assert read_header(path)["provenance"] == facts
    code, out, _ = cli("info", path)
    assert code == 0
    assert "3 frames" in out


# --- tensors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float16", "bfloat16"])
def test_weights_of_a_precision_that_is_not_used(model_file, tmp_path, dtype):
    name = "network.node_embedding.linear.weight"
    weight = load_file(model_file)[name].to(getattr(torch, dtype))
    path = rewrite(model_file, tmp_path / "bad.safetensors", tensors={name: weight})
    refused(path, f"holds {dtype}: expected float32 or float64")


@pytest.mark.parametrize("shape", [(7, 7, 7), (1, 1), (2, 3), (3, 1), ()])
def test_reference_energies_of_another_shape(model_file, tmp_path, shape):
    e0 = torch.zeros(shape, dtype=torch.float64)
    refused(rewrite(model_file, tmp_path / "bad.safetensors", tensors={"e0": e0}))


# --- upstream's files ----------------------------------------------------------------------------


def _circle(model):
    model.products.append(model)


def _tower(model):
    inner = torch.nn.ModuleList()
    for _ in range(40):
        inner = torch.nn.ModuleList([inner, inner])
    model.products = inner


def _expanded(model):
    model.node_embedding.linear.weight = torch.nn.Parameter(torch.ones(1).expand(10**12))


UPSTREAM = {
    "circle": (_circle, "without end"),
    "tower": (_tower, "without end"),
    "larger than stored": (_expanded, "larger than what is stored"),
    "NaN": (lambda m: m.node_embedding.linear.weight.data.fill_(torch.nan), "NaN or infinity"),
    "infinite E0": (lambda m: m.atomic_energies_fn.atomic_energies.fill_(torch.inf), "NaN or inf"),
    "huge number": (lambda m: vars(m.interactions[0]).update(avg_num_neighbors=10**400), "finite"),
    "text": (lambda m: vars(m.interactions[0]).update(avg_num_neighbors="6"), "finite number"),
    "infinite": (lambda m: vars(m.interactions[0]).update(avg_num_neighbors=np.inf), "finite"),
    "E0 of another shape": (
        lambda m: vars(m.atomic_energies_fn)["_buffers"].update(atomic_energies=torch.ones(7, 7)),
        "reference energies of shape",
    ),
    "too few E0": (
        lambda m: vars(m.atomic_energies_fn)["_buffers"].update(atomic_energies=torch.ones(1, 1)),
        "reference energies of shape",
    ),
    "heads a number": (lambda m: vars(m).update(heads=3), "not a list of names"),
    "heads of numbers": (lambda m: vars(m).update(heads=[1, 2]), "not a list of names"),
    "a head without E0": (lambda m: vars(m).update(heads=["a", "b"]), "reference energies"),
    "flag": (lambda m: vars(m).update(use_so3="yes"), "use_so3: expected True or False"),
    "no readout": (lambda m: vars(m)["_modules"].update(readouts=torch.nn.ModuleList()), "readout"),
    "far cutoff": (lambda m: m.r_max.fill_(1e9), "r_max"),
}


@pytest.fixture(scope="module")
def exported(small_mace, tmp_path_factory):
    return export_upstream(small_mace, tmp_path_factory.mktemp("exported") / "good.model")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", UPSTREAM)
def test_damaged_upstream_models(upstream, exported, tmp_path, name, nothing_is_built):
    change, words = UPSTREAM[name]
    model = torch.load(exported, weights_only=False)
    with torch.no_grad():
        change(model)
    torch.save(model, tmp_path / "bad.model")
    refused(tmp_path / "bad.model", words)


@pytest.mark.filterwarnings("ignore")
def test_other_embeddings_are_refused(upstream, exported, tmp_path):
    model = torch.load(exported, weights_only=False)
    model.joint_embedding = torch.nn.Identity()
    torch.save(model, tmp_path / "charged.model")
    refused(tmp_path / "charged.model", "takes what it does not name beside the structure")


# --- no models at all ----------------------------------------------------------------------------

FILES = {
    "half a download": (lambda good: good[: len(good) // 2], "half a download|not a model"),
    "end of a download": (lambda good: good[len(good) // 2 :], "damaged"),
    "other middle": (lambda good: good[:500] + b"\0" * 500 + good[1000:], "cannot be read"),
    "empty": (lambda good: b"", "an empty file"),
    "text": (lambda good: b"hello\n" * 100, "not a model file"),
    "pointer": (lambda good: b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    "web page": (lambda good: b"\n<!DOCTYPE html><html>Not found", "a web page"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_models(exported, tmp_path, name):
    change, words = FILES[name]
    path = tmp_path / "bad.model"
    path.write_bytes(change(exported.read_bytes()))
    refused(path, words)


def test_an_archive_that_unpacks_to_more_than_it_is(tmp_path):
    import zipfile

    path = tmp_path / "bomb.model"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("m/data.pkl", b"\0" * 10_000_000)
    refused(path, "holds more than it does")


def test_a_checkpoint(small_mace, tmp_path):
    torch.save({"model": small_mace.state_dict(), "epoch": 3}, tmp_path / "run.model")
    refused(tmp_path / "run.model", "not a checkpoint")


def test_a_pickle_alone(tmp_path):
    refused(archive(tmp_path / "none.model", b"\x80\x02N."), "holds a NoneType")


@pytest.mark.parametrize("suffix", [".model", ".safetensors"])
def test_a_file_that_may_not_be_read(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"secret{suffix}"
    path.write_bytes(b"PK\x03\x04")

    def refuse(self, *args, **kwargs):
        raise PermissionError(13, os.strerror(13), str(self))

    monkeypatch.setattr(Path, "open", refuse)
    refused(path, "cannot be read")


def test_random_changes_of_a_header(model_file, tmp_path):
    """Whatever the numbers become: a model that loads, or one line."""
    rng = np.random.default_rng(0)
    header = json.dumps(read_header(model_file)["architecture"])
    content = load_file(model_file)
    for _ in range(60):
        changed = list(header)
        for _ in range(3):
            changed[rng.integers(len(changed))] = rng.choice(list('0129[]{},:"e-.'))
        whole = {**read_header(model_file), "architecture": "X"}
        text = json.dumps(whole).replace('"X"', "".join(changed))
        save_file(content, tmp_path / "bad.safetensors", {"ase_ws": text})
        try:
            load_potential(tmp_path / "bad.safetensors")
        except UserError as error:
            assert "\n" not in str(error)
