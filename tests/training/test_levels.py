"""Heads that are trained together, and the replay of what a base model knows."""

import csv

import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

from ase_ws.calculators import PotentialCalculator
from ase_ws.errors import UserError
from ase_ws.frames import read_frames
from ase_ws.frames.labels import frame_from_atoms
from ase_ws.potentials.files import load_potential
from ase_ws.potentials.mace.architecture import MACEArchitecture
from ase_ws.potentials.mace.model import build_mace
from ase_ws.potentials.mace.upstream import export_upstream
from ase_ws.testing.toys import tiny_mace
from ase_ws.training import evaluate_potential, finetune
from ase_ws.training.config_files import load_config
from ase_ws.training.levels import labelled_by
from ase_ws.training.start import predicted_energies

MOLECULES = [frame_from_atoms(molecule(name)) for name in ("H2O", "CO2", "CH3OH")]


@pytest.fixture
def base():
    return tiny_mace((1, 6, 8), e0=(-1.0, -2.0, -3.0), r_max=3.5, seed=3).double()


def tagged(atoms_list, head, shift=0.0):
    out = []
    for atoms in atoms_list:
        new = atoms.copy()
        new.info["head"] = head
        energy = atoms.get_potential_energy() + shift * len(atoms)
        new.calc = SinglePointCalculator(new, energy=energy, forces=atoms.get_forces())
        out.append(new)
    return out


def energies(potential):
    return predicted_energies(potential, MOLECULES)


# --- heads that are added --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("readout", "heads"),
    [
        ("NonLinearReadoutBlock", ("Default",)),
        ("NonLinearBiasReadoutBlock", ("a", "b", "c")),
    ],
)
def test_heads_begin_as_those_they_come_from(readout, heads, tmp_path, upstream):
    architecture = MACEArchitecture(
        atomic_numbers=(1, 6, 8),
        avg_num_neighbors=3.0,
        readout=readout,
        heads=heads,
        scale=tuple(1.0 + k for k in range(len(heads))),
        shift=tuple(0.1 * k for k in range(len(heads))),
        dtype="float64",
    )
    e0 = [[-1.0 - k, -2.0, -3.0] for k in range(len(heads))]
    potential = build_mace(architecture, e0, head=heads[-1], seed=3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in potential.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype))
    new = potential.with_heads({"x": heads[-1], "y": heads[0], "z": heads[-1]})
    assert new.heads == ("x", "y", "z") and new.head == "x"
    for head, source in (("x", heads[-1]), ("y", heads[0]), ("z", heads[-1])):
        wanted = energies(potential.of_head(source))
        np.testing.assert_allclose(energies(new.of_head(head)), wanted, rtol=1e-12)
    if len(heads) > 1:
        assert np.abs(energies(new.of_head("x")) - energies(new.of_head("y"))).min() > 1e-3
    # By upstream as well.
    path = export_upstream(new, tmp_path / "heads.model")
    theirs = upstream.calculators.MACECalculator(
        str(path), device="cpu", default_dtype="float64", head="y"
    )
    atoms = molecule("CH3OH")
    mine = PotentialCalculator(new.of_head("y"))
    assert theirs.get_potential_energy(atoms) == pytest.approx(
        float(mine.get_potential_energy(atoms)), abs=1e-9
    )


def test_a_potential_of_another_head_shares_its_weights(base):
    two = base.with_heads({"a": "Default", "b": "Default"})
    other = two.of_head("b")
    assert all(x is y for x, y in zip(two.parameters(), other.parameters(), strict=True))
    other.e0 += 1.0
    assert torch.equal(two.reference_energies[1], two.reference_energies[0] + 1.0)
    moved = two.to(torch.float32)
    assert moved.reference_energies is other.reference_energies


# --- heads that are trained together ---------------------------------------------------------


@pytest.mark.parametrize("scratch", [False, True])
def test_two_levels_train_together(base, labelled, quick, tmp_path, scratch):
    frames = [
        *tagged(labelled(8), "dft"),
        *tagged(labelled(8, seed=60), "cc", shift=-7.0),
    ]
    valid = [*tagged(labelled(3, seed=90), "dft"), *tagged(labelled(3, seed=90), "cc", -7.0)]
    lines = []
    result = finetune(
        frames,
        valid,
        model=None if scratch else base,
        config=quick(
            data={"heads": ["cc", "dft"]},
            dtype="float64",
            optimizer={"max_steps": 20, "valid_interval": 5},
        ),
        out=tmp_path / "a",
        announce=lines.append,
    )
    assert result.potential.heads == ("cc", "dft") and result.potential.head == "cc"
    first, last = result.history[0], result.history[-1]
    assert last["valid_loss"] < first["valid_loss"]
    with (tmp_path / "a" / "metrics.csv").open() as file:
        row = list(csv.DictReader(file))[-1]
    assert float(row["train_dft_loss"]) > 0 and float(row["dft_energy_rmse_mev_per_atom"]) > 0
    # Each level has its own reference energies: 7 eV an atom apart, whatever was learned.
    dft = load_potential(tmp_path / "a" / "model.safetensors", head="dft")
    assert np.abs(energies(dft) - energies(result.potential)).min() > 5
    atoms = read_frames(valid)
    kept = min(result.history, key=lambda r: r["valid_loss"])
    for head, column in (("cc", ""), ("dft", "dft_")):
        mine = [f for f in atoms if f.head == head]
        potential = load_potential(tmp_path / "a" / "model.safetensors", head=head)
        found = evaluate_potential(potential, mine).metrics["energy_rmse_mev_per_atom"]
        assert kept[f"{column}energy_rmse_mev_per_atom"] == pytest.approx(found, rel=1e-4)


def test_levels_that_are_not_there(base, labelled, quick, tmp_path):
    frames = tagged(labelled(6), "dft")
    for data, message in (
        ({"heads": ["cc", "dft"]}, "data.heads names 'cc', and no frame is of that head"),
        ({"heads": ["dft", "dft"]}, "each name once"),
        ({"heads": ["dft"], "head": "dft"}, "give one of them"),
    ):
        with pytest.raises(UserError, match=message):
            finetune(frames, model=base, config=quick(data=data), out=tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("first", ["a", "b"])
def test_labels_of_any_head_count(base, labelled, quick, tmp_path, first):
    """Forces that only one of the heads has: in the loss, and again after a stop."""
    frames = [*tagged(labelled(6), "a"), *tagged(labelled(6, seed=60), "b")]
    for atoms in frames[6:]:
        del atoms.calc.results["forces"]
    sets = {"near": frames[:2], "far": frames[6:8]}  # each of one head
    settings = quick(
        data={"heads": sorted(["a", "b"], key=lambda h: h != first)},
        loss={"forces_weight": None},
        optimizer={"max_steps": 4, "valid_interval": 2},
    )
    settings["loss"] = {}
    result = finetune(frames, sets, model=base, config=settings, out=tmp_path / "run")
    column = "train_forces" if first == "a" else "train_a_forces"
    with (tmp_path / "run" / "metrics.csv").open() as file:
        row = list(csv.DictReader(file))[-1]
    assert float(row.get(column) or row["train_a_loss"]) > 0
    written = load_config(tmp_path / "run" / "config.yaml")
    assert written.loss.forces_weight == 1.0
    again = finetune(frames, sets, model=base, config=written, out=tmp_path / "run", resume=True)
    assert again.history[-1]["step"] == 4
    assert result.potential.head == first


def test_one_head_has_its_name_and_others_are_told(base, labelled, quick, tmp_path):
    frames, valid = tagged(labelled(6), "new"), tagged(labelled(2, seed=9), "new")
    two = base.with_heads({"pbe": "Default", "x": "Default"})
    for model, lines in ((None, []), (two, [])):
        settings = quick(data={"heads": ["new"]}, optimizer={"max_steps": 1, "valid_interval": 1})
        out = tmp_path / str(model is None)
        result = finetune(
            frames, valid, model=model, config=settings, out=out, announce=lines.append
        )
        assert result.potential.heads == ("new",)
        told = "heads of the base model that are not trained are left out: pbe, x"
        assert (told in lines) is (model is not None)


def test_columns_have_one_meaning(base, labelled, quick, tmp_path):
    import ase.io

    ase.io.write(tmp_path / "others.xyz", others())
    settings = quick(replay={"train": str(tmp_path / "others.xyz")})
    with pytest.raises(UserError, match=r"two columns of metrics\.csv would be called 'replay_"):
        finetune(
            labelled(6), {"replay": labelled(2)}, model=base, config=settings, out=tmp_path / "a"
        )
    assert not (tmp_path / "a").exists()


# --- replay ----------------------------------------------------------------------------------


def others(n=8):
    out = []
    for k in range(n):
        atoms = molecule("CO2" if k % 2 else "H2O")
        atoms.rattle(0.05, seed=k)
        out.append(atoms)
    return out


def test_the_base_model_labels_what_is_replayed(base):
    frames = read_frames(others(3))
    labelled = labelled_by(base, frames)
    for frame, mine in zip(labelled, others(3), strict=True):
        mine.calc = PotentialCalculator(base)
        assert frame.energy == pytest.approx(float(mine.get_potential_energy()), abs=1e-9)
        np.testing.assert_allclose(frame.forces, mine.get_forces(), atol=1e-9)


@pytest.mark.parametrize("head", [None, "pt"])
def test_replay_keeps_what_the_base_knows(base, labelled, quick, tmp_path, head):
    """With it, other molecules move less than without."""
    import ase.io

    ase.io.write(tmp_path / "others.xyz", others())
    test = read_frames(others(12))[8:]
    frames, valid = labelled(8), labelled(2, seed=20)
    change = {}
    for weight in (0.0, 30.0):
        replay = {"train": str(tmp_path / "others.xyz"), "weight": weight, "head": head}
        lines = []
        result = finetune(
            frames,
            valid,
            model=base,
            config=quick(
                dtype="float64",
                optimizer={"max_steps": 40, "valid_interval": 20, "select": "last"},
                **({"replay": replay} if weight else {}),
            ),
            out=tmp_path / str(weight),
            announce=lines.append,
        )
        potential = result.potential.of_head(head) if head and weight else result.potential
        errors = evaluate_potential(potential, labelled_by(base, test)).metrics
        change[weight] = errors["forces_rmse_mev_per_angstrom"]
    assert change[30.0] < 0.5 * change[0.0]
    assert any("replay: 7 frames labelled by the base model" in line for line in lines)
    first = result.history[0]
    assert first["replay_forces_rmse_mev_per_angstrom"] == pytest.approx(0.0, abs=1e-6)
    assert first["replay_energy_rmse_mev_per_atom"] == pytest.approx(0.0, abs=1e-6)
    assert result.history[-1]["train_replay_loss"] >= 0
    if head:
        # The base's head keeps its own reference energies.
        assert torch.equal(result.potential.of_head("pt").e0, base.e0)
        assert result.potential.heads == ("Default", "pt")


def test_replayed_labels_follow_the_reference_energies(base, labelled, quick, tmp_path):
    """Labels at the base's level, for the head of new frames at another: its E0 moved."""
    import ase.io

    atoms = others()
    for one in atoms:
        one.calc = PotentialCalculator(base)
        one.calc = SinglePointCalculator(
            one, energy=float(one.get_potential_energy()), forces=one.get_forces()
        )
    ase.io.write(tmp_path / "others.xyz", atoms)
    for labels, head in (("file", None), ("base", None), ("file", "Default")):
        replay = {"train": str(tmp_path / "others.xyz"), "labels": labels, "head": head}
        result = finetune(
            labelled(6),
            labelled(2, seed=9),
            model=base,
            config=quick(dtype="float64", replay=replay),
            out=tmp_path / f"{labels}{head}",
        )
        assert result.history[0]["replay_energy_rmse_mev_per_atom"] < 1e-5
        assert not torch.equal(result.potential.e0, base.e0)


def test_replay_in_closed_form(base, labelled, tmp_path):
    import ase.io

    ase.io.write(tmp_path / "others.xyz", others())
    test = read_frames(others(12))[8:]
    change = []
    for replay in ({}, {"train": str(tmp_path / "others.xyz")}):
        result = finetune(
            labelled(12, forces=False),
            labelled(2, seed=20),
            model=base,
            config={"optimizer": {"kind": "gauss-newton"}, "replay": replay, "dtype": "float64"},
            out=tmp_path / str(len(change)),
        )
        errors = evaluate_potential(result.potential, labelled_by(base, test)).metrics
        change.append(errors["forces_rmse_mev_per_angstrom"])
    assert change[1] < change[0]


def test_replay_needs_a_base(labelled, quick, tmp_path):
    with pytest.raises(UserError, match="give --model BASE"):
        finetune(labelled(6), config=quick(replay={"train": "x.xyz"}), out=tmp_path / "a")
