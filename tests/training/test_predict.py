"""Predictions of frames: the potential's own numbers, sooner, and a file that keeps everything."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import write

from ase_ws.errors import UserError
from ase_ws.frames import LabelKeys, read_frames, read_with_atoms
from ase_ws.potentials.derivatives import energy_forces
from ase_ws.testing import Morse
from ase_ws.training.evaluate import Evaluation, evaluate_potential
from ase_ws.training.predict import (
    FramePrediction,
    predict_frames,
    require_new_names,
    write_predictions,
)

KEYS = LabelKeys("ase_ws_energy")


def own_numbers(potential, frame):
    """What the potential says without its lean form, of one frame at a time."""
    graph = frame.graph(potential.r_max)
    found = potential(graph, forces=True, stress=True)
    slope = energy_forces(potential, graph).numpy()
    return found.energy.item(), found.forces.detach().numpy(), found.stress[0].detach(), slope


@pytest.mark.parametrize("kind", ["mace", "direct_mace"])
def test_the_lean_form_gives_the_potentials_own_numbers(kind, structures, request):
    potential = request.getfixturevalue(kind)
    frames = read_frames(structures)
    done = []
    found = predict_frames(
        potential, frames, everything=True, batch_size=4, progress=lambda *at: done.append(at)
    )
    assert done == [(4, 6), (6, 6)]
    for frame, one in zip(frames, found, strict=True):
        energy, forces, stress, slope = own_numbers(potential, frame)
        assert one.energy == pytest.approx(energy, rel=0, abs=1e-10)
        np.testing.assert_allclose(one.forces, forces, rtol=0, atol=1e-10)
        if one.stress is not None:
            np.testing.assert_allclose(one.stress, stress, rtol=0, atol=1e-10)
        if kind == "direct_mace":
            np.testing.assert_allclose(one.energy_forces, slope, rtol=0, atol=1e-10)
        else:
            assert one.energy_forces is None


def test_potentials_evaluate_in_their_lean_form(mace, labelled, monkeypatch):
    calls = []
    lean = type(mace).lean
    monkeypatch.setattr(type(mace), "lean", lambda self: calls.append(1) or lean(self))
    evaluate_potential(mace, read_frames(labelled(3)))
    assert calls == [1]


def test_only_what_may_be_compared_is_computed_unless_everything_is_wanted(labelled):
    frames = read_frames([*labelled(2, forces=False), *labelled(1, kind="Si")])
    plain = predict_frames(Morse(), frames[:2])
    assert [p.forces for p in plain] == [None, None]
    every = predict_frames(Morse(), frames, everything=True)
    assert all(p.forces.shape == (len(f.numbers), 3) for p, f in zip(every, frames, strict=True))
    assert every[2].stress.shape == (3, 3)


def test_isolated_atoms_alone_are_predicted(mace):
    (found,) = predict_frames(mace, read_frames([Atoms("H")]), everything=True)
    assert found.energy == pytest.approx(own_numbers(mace, read_frames([Atoms("H")])[0])[0])
    np.testing.assert_array_equal(found.forces, np.zeros((1, 3)))


def test_energies_per_atom_are_above_the_elements(labelled):
    frames = read_frames(labelled(8, kind=("CH3OH", "H2O", "CO2")))
    exact = Evaluation(frames, [FramePrediction(f.energy + 0.01 * len(f.numbers)) for f in frames])
    points = exact.energies_per_atom()
    assert abs(points.reference).max() < 1.0
    np.testing.assert_allclose(points.error, 0.01, atol=1e-9)
    # Another level of theory: what is left of it once its own elements are taken off.
    shift = {1: 3.0, 6: -50.0, 8: 20.0}
    other = [FramePrediction(f.energy + sum(shift[z] for z in f.numbers)) for f in frames]
    points = Evaluation(frames, other).energies_per_atom()
    np.testing.assert_allclose(points.predicted, points.reference, atol=1e-8)
    assert not len(Evaluation([], []).energies_per_atom().reference)


def rich():
    """Frames that bring all that there may be."""
    crystal = bulk("Si", cubic=True)
    crystal.calc = SinglePointCalculator(
        crystal, energy=-34.5, forces=np.full((8, 3), 0.25), stress=np.arange(6) * 1e-3
    )
    crystal.info.update(config_type="bulk", REF_energy=-40.0, note="a b", table={"a": [1, 2]})
    crystal.arrays["REF_forces"] = np.full((8, 3), 0.5)
    crystal.new_array("site", np.array(list("abcdefgh")))
    crystal.set_constraint(FixAtoms([0, 3]))
    slab = crystal.copy()
    slab.pbc = (True, True, False)
    slab.info = {"energy": -1.0}
    water = molecule("H2O")
    water.info["config_weight"] = 2.0
    return [crystal, slab, water, Atoms("H", info={"config_type": "IsolatedAtom", "energy": -13.6})]


def predicted(structures):
    rng = np.random.default_rng(0)
    return [
        FramePrediction(
            float(rng.normal()), rng.normal(size=(len(a), 3)), np.diag(rng.normal(size=3))
        )
        for a in structures
    ]


@pytest.mark.parametrize("name", ["out.xyz", "out.extxyz", "out.xyz.gz"])
def test_a_file_of_predictions_keeps_what_was_there(tmp_path, name):
    structures = rich()
    write(tmp_path / "in.xyz", structures)
    frames, atoms = read_with_atoms([tmp_path / "in.xyz"])
    found = predicted(structures)
    before = [a.copy() for a in atoms]
    write_predictions(tmp_path / name, atoms, found)
    assert atoms == before
    again, beside = read_with_atoms([tmp_path / name])
    assert len(again) == len(frames) == 4
    for old, new in zip(frames, again, strict=True):
        for label in ("energy", "forces", "stress"):
            np.testing.assert_equal(getattr(new, label), getattr(old, label))
        assert (new.config_type, new.weights) == (old.config_type, old.weights)
    for old, new in zip(atoms, beside, strict=True):
        added = {k for k in new.info if k.startswith("ase_ws_")}
        assert added == {"ase_ws_energy"} | ({"ase_ws_stress"} if old.pbc.all() else set())
        np.testing.assert_equal({k: new.info[k] for k in old.info}, old.info)
        for key, array in old.arrays.items():
            np.testing.assert_array_equal(new.arrays[key], array)
        assert new == old
        assert len(new.constraints) == len(old.constraints)
    for frame, one in zip(read_frames(tmp_path / name, KEYS), found, strict=True):
        assert frame.energy == one.energy
        np.testing.assert_allclose(frame.forces, one.forces, rtol=0, atol=1e-8)
        if frame.pbc.all():
            np.testing.assert_array_equal(frame.stress, one.stress)


def test_labels_that_stand_twice_are_written_once(tmp_path):
    water = molecule("H2O")
    water.info["energy"] = -1.0
    water.calc = SinglePointCalculator(water, energy=-1.0)
    write_predictions(tmp_path / "out.xyz", [water], predicted([water]))
    assert read_frames(tmp_path / "out.xyz")[0].energy == -1.0


def test_what_has_no_place_in_the_file_is_named_and_nothing_is_left(tmp_path):
    structures = [molecule("H2O"), molecule("H2O")]
    structures[1].new_array("born", np.zeros((3, 3, 3)))
    with pytest.raises(UserError, match=r"out.xyz, frame 1: what this structure brings"):
        write_predictions(tmp_path / "out.xyz", structures, predicted(structures))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("prefix", ["", "a b", "3_", "a:", "free_", "é"])
def test_a_prefix_that_would_not_be_read_back(prefix):
    with pytest.raises(UserError, match="--prefix"):
        require_new_names([], [], prefix)


@pytest.mark.parametrize("place", ["info", "arrays"])
def test_names_that_are_there_are_not_overwritten(place):
    atoms = molecule("H2O")
    getattr(atoms, place)["MACE_forces"] = np.zeros((3, 3))
    frames = read_frames([atoms])
    require_new_names(frames, [atoms], "ase_ws_")
    with pytest.raises(UserError, match="frame 0: has 'MACE_forces' already"):
        require_new_names(frames, [atoms], "MACE_")
