"""Labels: what is absent stays absent, what is wrong is refused by name."""

import contextlib

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from ase_ws.errors import UserError
from ase_ws.frames import (
    Frame,
    LabelKeys,
    check_elements,
    fit_reference_energies,
    frame_from_atoms,
    read_frames,
    read_structure,
    split_frames,
)
from ase_ws.graphs import collate


def water(**results):
    atoms = molecule("H2O")
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


FORCES = np.arange(9.0).reshape(3, 3)


@pytest.mark.parametrize("name", ["a.xyz", "a.extxyz", "a.traj", "a.json"])
def test_labels_survive_every_format(tmp_path, name):
    write(tmp_path / name, [water(energy=-2080.123456789, forces=FORCES), water(energy=1.5)])
    first, second = read_frames(tmp_path / name)
    assert first.energy == pytest.approx(-2080.123456789, abs=1e-7)
    np.testing.assert_allclose(first.forces, FORCES, atol=1e-7)
    assert first.stress is None
    assert second.energy == 1.5
    assert second.forces is None
    assert "frame 1" in second.source


def test_labels_in_info_and_arrays():
    atoms = molecule("H2O")
    atoms.info["energy"] = -7
    atoms.arrays["forces"] = FORCES
    frame = frame_from_atoms(atoms)
    assert frame.energy == -7.0
    np.testing.assert_array_equal(frame.forces, FORCES)


def test_custom_keys_win_over_the_calculator(tmp_path):
    atoms = water(energy=1.0, forces=np.zeros((3, 3)))
    atoms.info["E_cc"] = -2.0
    atoms.arrays["F_cc"] = FORCES
    write(tmp_path / "a.xyz", atoms)
    (frame,) = read_frames(tmp_path / "a.xyz", LabelKeys("E_cc", "F_cc"))
    assert frame.energy == -2.0
    np.testing.assert_allclose(frame.forces, FORCES)


def test_a_custom_key_that_is_not_there_gives_no_label():
    frame = frame_from_atoms(water(energy=1.0), keys=LabelKeys(energy="E_cc"))
    assert frame.energy is None


def test_reading_labels_never_runs_a_calculator():
    atoms = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.3]], calculator=EMT())
    frame = frame_from_atoms(atoms)
    assert frame.energy is None
    assert frame.forces is None
    assert not atoms.calc.results


@pytest.mark.parametrize("stress", [np.arange(1.0, 7.0), None])
def test_stress_becomes_a_full_tensor(stress):
    atoms = water()
    atoms.center(vacuum=3.0)
    atoms.pbc = True
    full = np.array([[1.0, 6, 5], [6, 2, 4], [5, 4, 3]])
    if stress is None:
        atoms.info["stress"] = full
    else:
        atoms.calc = SinglePointCalculator(atoms, stress=stress)
    np.testing.assert_array_equal(frame_from_atoms(atoms).stress, full)


def test_absent_labels_are_masked_and_nan_never_zero():
    labels = frame_from_atoms(molecule("H2O")).labels()
    assert not labels.has_energy.any()
    assert not labels.has_forces.any()
    assert not labels.has_stress.any()
    assert torch.isnan(labels.energy).all()
    assert torch.isnan(labels.forces).all()
    assert labels.forces.shape == (3, 3)
    assert torch.isnan(labels.stress).all()
    assert labels.stress.shape == (1, 3, 3)


def test_mixed_labels_in_one_batch():
    frames = [frame_from_atoms(a) for a in (water(energy=1.0, forces=FORCES), water(energy=2.0))]
    labels = collate([f.graph(3.0, k) for k, f in enumerate(frames)]).labels
    assert labels.has_energy.tolist() == [True, True]
    assert labels.has_forces.tolist() == [True, False]
    assert labels.energy.dtype == torch.float64
    assert torch.isnan(labels.forces[3:]).all()
    np.testing.assert_array_equal(labels.forces[:3], FORCES)


def test_a_mixed_file_keeps_each_frame_s_labels(tmp_path):
    write(tmp_path / "a.xyz", [water(energy=1.0), water(energy=2.0, forces=FORCES), water()])
    frames = read_frames(tmp_path / "a.xyz")
    assert [f.energy for f in frames] == [1.0, 2.0, None]
    assert [f.forces is None for f in frames] == [True, False, True]


@pytest.mark.parametrize("key", ["energy", "forces", "stress"])
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_label_that_is_not_finite_is_refused(key, wrong):
    value = {"energy": 1.0, "forces": FORCES.copy(), "stress": np.zeros(6)}[key]
    value = np.array(value)
    value.flat[-1] = wrong
    with pytest.raises(UserError, match=f"spot, frame 3.*{key} label.*NaN"):
        frame_from_atoms(water(**{key: value}), "spot, frame 3")


def test_nan_in_a_file_is_named_by_file_and_frame(tmp_path):
    bad = FORCES.copy()
    bad[1, 1] = np.nan
    write(tmp_path / "a.xyz", [water(energy=1.0), water(energy=1.0, forces=bad)])
    with pytest.raises(UserError, match=r"a\.xyz, frame 1: forces label 'forces'"):
        read_frames(tmp_path / "a.xyz")


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"energy": [1.0, 2.0]}, "energy label 'energy' is not one number"),
        ({"energy": "low"}, "is not a number"),
        ({"forces": np.zeros((2, 3))}, r"shape \(2, 3\), expected \(3, 3\)"),
        ({"forces": np.zeros(9)}, r"expected \(3, 3\)"),
        ({"stress": np.zeros(5)}, "has 5 numbers, expected 6 or 9"),
    ],
)
def test_labels_of_the_wrong_shape_are_refused(info, message):
    atoms = molecule("H2O")
    atoms.info.update(info)
    with pytest.raises(UserError, match=message):
        frame_from_atoms(atoms)


def test_structures_that_cannot_be_are_refused():
    with pytest.raises(UserError, match="no atoms"):
        frame_from_atoms(Atoms())
    atoms = molecule("H2O")
    atoms.positions[0, 0] = np.nan
    with pytest.raises(UserError, match="positions holds NaN"):
        frame_from_atoms(atoms)


def test_a_missing_file(tmp_path):
    for read in (read_frames, read_structure):
        with pytest.raises(UserError, match=r"nothing\.xyz: no such file"):
            read(tmp_path / "nothing.xyz")


def test_an_unreadable_frame_is_named(tmp_path):
    path = tmp_path / "a.xyz"
    write(path, [water(energy=1.0) for _ in range(4)])
    lines = path.read_text().splitlines()
    lines[2 * 5 + 3] = "O here there everywhere"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=r"a\.xyz, frame 2: cannot be read"):
        read_frames(path)


@pytest.mark.parametrize("content", [b"", b"\x00\xff\x80" * 50, b"no structure at all\n"])
def test_files_that_hold_no_structure(tmp_path, content):
    (tmp_path / "a.xyz").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.xyz"):
        read_frames(tmp_path / "a.xyz")


def test_no_frames_given():
    with pytest.raises(UserError, match="no frames found"):
        read_frames([])


def test_read_structure_takes_the_last(tmp_path):
    write(tmp_path / "a.xyz", [molecule("H2O"), molecule("CO2")])
    assert read_structure(tmp_path / "a.xyz").get_chemical_formula() == "CO2"


def test_frames_do_not_share_memory_with_atoms():
    atoms = molecule("H2O")
    frame = frame_from_atoms(atoms)
    atoms.positions += 1
    atoms.numbers[:] = 6
    assert not np.allclose(frame.positions, atoms.positions)
    assert sorted(frame.numbers) == [1, 1, 8]


def test_isolated_atoms():
    def alone(*arguments, cutoff=5.5, **options):
        atoms = Atoms(*arguments, **options)
        return frame_from_atoms(atoms).is_isolated_atom(cutoff)

    assert alone("H")
    assert not alone("H2", [[0, 0, 0], [0, 0, 0.7]])
    # The images of a crystal of one atom are its neighbours, those of an atom in a wide box are
    # out of reach.
    assert not alone("H", cell=[5, 5, 5], pbc=True)
    assert alone("H", cell=[5, 5, 5], pbc=True, cutoff=4.9)
    assert alone("H", cell=[15, 15, 15], pbc=True)
    assert not alone("H", cell=[15, 15, 5], pbc=(False, False, True))
    assert alone("H", cell=[5, 5, 5], pbc=True, info={"config_type": "IsolatedAtom"})
    assert alone("H", cell=[5, 5, 5], pbc=True, info={"config_type": "isolated_atom"})
    with pytest.raises(UserError, match="config_type=IsolatedAtom, but it has 2 atoms"):
        alone("H2", info={"config_type": "IsolatedAtom"})


def test_reference_energies_are_recovered_exactly():
    """−17,600 eV to 1e-9 eV: the sums are in float64."""
    rng = np.random.default_rng(0)
    truth = np.array([-13.605693, -1030.567890123, -2042.111222333, -17600.123456789])
    numbers = [rng.choice([1, 6, 8, 16], size=rng.integers(3, 12)) for _ in range(40)]
    index = {1: 0, 6: 1, 8: 2, 16: 3}
    energies = [sum(truth[index[z]] for z in n) for n in numbers]
    fitted = fit_reference_energies(numbers, energies, (1, 6, 8, 16))
    assert fitted.dtype == np.float64
    np.testing.assert_allclose(fitted, truth, atol=1e-8, rtol=0)


def test_undetermined_reference_energies_still_reproduce_the_totals():
    methanol = molecule("CH3OH").numbers
    fitted = fit_reference_energies([methanol] * 3, [-3000.0, -3001.0, -2999.0], (1, 6, 8, 14))
    assert np.isfinite(fitted).all()
    assert fitted[3] == 0.0
    assert 4 * fitted[0] + fitted[1] + fitted[2] == pytest.approx(-3000.0, abs=1e-9)


def test_split_follows_the_seed_and_keeps_every_frame():
    frames = [frame_from_atoms(water(energy=float(k))) for k in range(20)]

    def energies(seed):
        train, valid = split_frames(frames, 0.2, seed)
        return [f.energy for f in train], [f.energy for f in valid]

    assert energies(0) == energies(0)
    assert energies(0) != energies(1)
    train, valid = energies(3)
    assert len(valid) == 4
    assert sorted(train + valid) == list(range(20))


def test_split_always_leaves_both_parts():
    frames = [frame_from_atoms(water(energy=float(k))) for k in range(2)]
    for fraction in (0.01, 0.5, 0.9):
        train, valid = split_frames(frames, fraction, 0)
        assert len(train) == len(valid) == 1
    with pytest.raises(UserError, match="cannot be split"):
        split_frames(frames[:1], 0.1, 0)


def test_unknown_elements_are_named_with_their_frame():
    frames = read_frames([molecule("H2O"), molecule("CH3SH")])
    check_elements(frames, (1, 6, 8, 16), "base")
    with pytest.raises(UserError, match=r"frame 1.*base does not know.*\bS\b.*knows H, C, O"):
        check_elements(frames, (8, 6, 1), "base")


def test_frames_can_be_compared_and_hashed():
    frame = Frame(np.array([1, 1]), np.zeros((2, 3)), np.zeros((3, 3)), np.zeros(3, bool))
    assert frame == frame
    assert frame in {frame}


def test_a_single_structure_instead_of_a_list():
    """A slip that every user makes once: it must not end in an AttributeError."""
    with contextlib.suppress(UserError):
        assert len(read_frames(molecule("H2O"))) == 1


def test_energy_labels_keep_double_precision():
    """In float32 the step at −17,600 eV is 2 meV: a label must never pass through it."""
    energy = -17600.123456789
    frame = frame_from_atoms(water(energy=energy, forces=FORCES / 3, stress=np.arange(6.0) / 7))
    labels = frame.labels()
    assert float(labels.energy) == energy
    assert torch.equal(labels.forces, torch.from_numpy(FORCES / 3))
    moved = frame.graph(3.0).to("cpu", torch.float32).labels
    assert float(moved.energy) == energy
    assert moved.forces.dtype == torch.float32
