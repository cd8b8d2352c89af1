"""What is taken from a file is said, what is named is there, and the file is read to its end."""

import gzip

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from ase_ws.errors import UserError
from ase_ws.frames import (
    LabelKeys,
    content_hash,
    frame_from_atoms,
    not_used,
    read_atoms,
    read_frames,
    read_structure,
    require_labels,
    split_frames,
)
from ase_ws.frames.summary import (
    atom_energies,
    describe_atoms,
    describe_forces,
    describe_frames,
    describe_overlap,
    describe_rest,
    describe_stress,
    separate_isolated_atoms,
)

FORCES = np.arange(9.0).reshape(3, 3)


def water(info=None, arrays=None, **results):
    atoms = molecule("H2O")
    atoms.info.update(info or {})
    atoms.arrays.update(arrays or {})
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


# Keys -------------------------------------------------------------------------------------------


def test_forces_go_with_the_level_of_the_energies():
    atoms = water({"REF_energy": -2.0}, {"REF_forces": FORCES + 1}, energy=-1.0, forces=FORCES)
    both = frame_from_atoms(atoms, keys=LabelKeys("REF_energy"))
    assert both.energy == -2.0
    np.testing.assert_array_equal(both.forces, FORCES + 1)
    # Energies of another level, as CCSD(T) has them without forces, never take those of DFT.
    del atoms.arrays["REF_forces"]
    alone = frame_from_atoms(atoms, keys=LabelKeys("REF_energy"))
    assert alone.forces is None
    assert set(alone.unused) == {"energy", "forces"}
    named = frame_from_atoms(atoms, keys=LabelKeys("REF_energy", "forces"))
    np.testing.assert_array_equal(named.forces, FORCES)
    assert frame_from_atoms(atoms, keys=LabelKeys("E_cc")).forces is None
    standard = frame_from_atoms(atoms)
    assert standard.energy == -1.0
    np.testing.assert_array_equal(standard.forces, FORCES)


def test_free_energy_is_found_where_ase_puts_it(tmp_path):
    write(tmp_path / "a.xyz", [water(energy=-1.0, free_energy=-1.5, forces=FORCES)])
    (frame,) = read_frames(tmp_path / "a.xyz", LabelKeys("free_energy"))
    assert frame.energy == -1.5
    np.testing.assert_allclose(frame.forces, FORCES)
    (default,) = read_frames(tmp_path / "a.xyz")
    assert default.energy == -1.0
    assert default.unused == ("free_energy",)
    assert "forces are its gradient" in "\n".join(describe_rest([default]))
    # The same number under both names is nothing to speak of.
    assert frame_from_atoms(water(energy=-1.0, free_energy=-1.0)).unused == ()


def test_a_named_key_that_is_nowhere_is_an_error():
    frames = [frame_from_atoms(water({"REF_energy": 1.0}, energy=1.0), keys=LabelKeys("E_ref"))]
    with pytest.raises(UserError, match=r"no frame has .E_ref.*REF_energy .1 of 1 frames"):
        require_labels(frames, LabelKeys("E_ref"), "a.xyz", ["energy"])
    require_labels(frames, LabelKeys("E_ref"), "a.xyz", ["forces"])
    require_labels(frames, LabelKeys(), "a.xyz", ["energy", "forces", "stress"])


def test_what_is_not_taken_is_named():
    info = {"config_weight": 2.0, "head": "dft", "charge": 1, "virials": np.eye(3), "note": "x"}
    frame = frame_from_atoms(water(info, {"REF_forces": FORCES}, energy=1.0))
    assert frame.unused == ("REF_forces", "charge", "virials")
    assert frame.weights == (2.0, 2.0, 2.0) and frame.head == "dft"
    told = "\n".join(describe_rest([frame, frame_from_atoms(water(energy=1.0))]))
    assert "REF_forces (1 of 2 frames)" in told
    assert "--forces-key" in told
    assert "--stress-key" in told
    # Neutral, of weight one, and text: nothing that changes anything.
    quiet = {"config_weight": 1.0, "charge": 0, "spin": 0, "multiplicity": 1, "energy_unit": "eV"}
    assert not_used([frame_from_atoms(water(quiet, energy=1.0))]) == []


@pytest.mark.parametrize("value", [True, np.True_, "-1.5", "low", [True], None, 1j])
def test_a_flag_or_a_word_is_no_energy(value):
    atoms = water({"energy": value})
    if value is None:
        assert frame_from_atoms(atoms).energy is None
        return
    with pytest.raises(UserError, match="energy label 'energy' is not a number"):
        frame_from_atoms(atoms)


def test_a_flag_in_a_file_is_no_energy(tmp_path):
    header = 'Properties=species:S:1:pos:R:3 energy=T pbc="F F F"'
    (tmp_path / "a.xyz").write_text(f"1\n{header}\nH 0 0 0\n")
    with pytest.raises(UserError, match=r"a\.xyz, frame 0: energy label.*True"):
        read_frames(tmp_path / "a.xyz")


def test_nan_names_the_atom():
    forces = FORCES.copy()
    forces[1, 2] = np.nan
    with pytest.raises(UserError, match=r"forces label.*NaN.*\(atom H1\)"):
        frame_from_atoms(water(forces=forces))


def test_hartree_of_cp2k_are_refused():
    atoms = water({"i": 3, "time": 1.5, "E": -17.2})
    with pytest.raises(UserError, match="Hartree"):
        frame_from_atoms(atoms, keys=LabelKeys("E"))


# Stress and virials -----------------------------------------------------------------------------


def silicon(**info):
    atoms = bulk("Si", cubic=True)
    atoms.info.update(energy=1.0, **info)
    return atoms


STRESS = np.array([[0.01, 0.002, 0.003], [0.002, -0.02, 0.004], [0.003, 0.004, 0.03]])
VOIGT = STRESS[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]


@pytest.mark.parametrize("value", [STRESS, STRESS.ravel(), VOIGT, VOIGT.tolist()])
def test_stress_in_every_shape(value):
    np.testing.assert_allclose(frame_from_atoms(silicon(stress=value)).stress, STRESS)


@pytest.mark.parametrize("key", ["virial", "virials", "REF_virials", "dft_virial"])
def test_a_virial_is_minus_stress_times_volume(key, tmp_path):
    atoms = silicon(**{key: -STRESS * silicon().get_volume()})
    write(tmp_path / "a.xyz", atoms)
    for source in (atoms, tmp_path / "a.xyz"):
        (frame,) = read_frames(source, LabelKeys(stress=key))
        np.testing.assert_allclose(frame.stress, STRESS, rtol=1e-6)
        # Never taken for a stress, nor unasked.
        (plain,) = read_frames(source)
        assert plain.stress is None
        assert key in plain.unused


def test_impossible_stresses_are_told():
    def told(**info):
        return "".join(describe_stress([frame_from_atoms(silicon(**info))]))

    assert "a stress of 30 eV/Å³; expected less than 10: divide GPa" in told(stress=30 * np.eye(3))
    assert "not symmetric" in told(stress=[[0, 0.1, 0], [0.2, 0, 0], [0, 0, 0]])
    assert told(stress=STRESS + 2e-5 * np.triu(np.ones((3, 3)))) == ""


@pytest.mark.parametrize("key", ["stress", "virial"])
@pytest.mark.parametrize("cell", [None, [9, 9, 9]])
def test_molecules_have_no_stress(key, cell):
    """Programs write zeros there, or what they had before."""
    atoms = water({key: np.eye(3), "energy": 1.0})
    atoms.set_cell(cell)
    frame = frame_from_atoms(atoms, keys=LabelKeys(stress=key))
    assert frame.stress is None
    assert frame.unused == (key,)


# Isolated atoms ---------------------------------------------------------------------------------


def atom(symbol, energy, box=None, **info):
    made = Atoms(symbol, cell=box and [box] * 3, pbc=box is not None, info=info)
    if energy is not None:
        made.calc = SinglePointCalculator(made, energy=energy)
    return made


def test_isolated_atoms_are_told_by_their_neighbours():
    atoms = [atom("H", -13.6), atom("C", -1029.0, box=15), atom("O", -2041.0, box=4.0)]
    structures, lone = separate_isolated_atoms(read_frames([*atoms, water(energy=1.0)]), 5.0)
    assert [frame.formula for frame in lone] == ["H", "C"]
    assert [frame.formula for frame in structures] == ["O", "H2O"]
    assert atom_energies(lone) == {1: -13.6, 6: -1029.0}
    assert list(describe_atoms(lone)) == [
        "isolated atoms, no structures: H -13.6 eV, C -1029 eV",
    ]


def test_isolated_atoms_that_disagree_or_have_nothing_to_say():
    twice = read_frames([atom("H", -13.6), atom("H", -13.6, box=20), atom("O", None)])
    assert atom_energies(twice) == {1: -13.6}
    assert "without an energy, left out: frame 2" in list(describe_atoms(twice))[1]
    with pytest.raises(UserError, match=r"frame 1: an isolated H atom with -13.5 eV.*frame 0"):
        atom_energies(read_frames([atom("H", -13.6), atom("H", -13.5)]))


# The file that was named, all of it -------------------------------------------------------------


def energies(path):
    return [frame.energy for frame in read_frames(path)]


@pytest.fixture
def three(tmp_path):
    path = tmp_path / "a.xyz"
    write(path, [water(energy=float(k)) for k in range(3)])
    return path


def test_an_at_sign_belongs_to_the_name_where_there_is_such_a_file(three):
    for name in ("a.xyz@old", "a.xyz@:1", "run@300K.xyz", "b@1"):
        write(three.with_name("b.xyz"), [water(energy=7.0)])
        three.with_name("b.xyz").rename(three.with_name(name))
        assert energies(three.with_name(name)) == [7.0]
    folder = three.parent / "run@1"
    folder.mkdir()
    write(three.with_name("b.xyz"), [water(energy=8.0)])
    three.with_name("b.xyz").rename(folder / "c.xyz")
    assert energies(folder / "c.xyz") == [8.0]
    assert energies(f"{folder}/c.xyz@0") == [8.0]


def test_frames_are_chosen_as_ase_does(three):
    chosen = {":": [0, 1, 2], ":2": [0, 1], "1:": [1, 2], "::2": [0, 2], "-1": [2], "1": [1]}
    for selection, right in (chosen | {"-2:": [1, 2], "::-1": [2, 1, 0]}).items():
        assert energies(f"{three}@{selection}") == right
    assert read_frames(f"{three}@2")[0].source.endswith("frame 2")
    for wrong, message in (("old", "names no frames"), ("7", "has 3 frames"), ("9:", "no frames")):
        with pytest.raises(UserError, match=message):
            read_frames(f"{three}@{wrong}")


def test_several_files_and_patterns(three):
    write(three.with_name("b.xyz"), [water(energy=9.0)])
    assert energies([three, three.with_name("b.xyz")]) == [0, 1, 2, 9]
    assert energies(three.parent / "*.xyz") == [0, 1, 2, 9]
    assert energies(f"{three.parent}/?.xyz@:1") == [0, 9]
    assert len(read_atoms(three.parent / "*.xyz")) == 4
    odd = three.with_name("run[1].xyz")
    write(odd, [water(energy=4.0)])
    assert energies(odd) == [4.0]
    with pytest.raises(UserError, match="no file matches"):
        read_frames(three.parent / "*.cif")
    with pytest.raises(UserError, match="is a folder"):
        read_frames(three.parent)
    with pytest.raises(UserError, match=r"c\.xyz: no such file"):
        read_frames([three, three.with_name("c.xyz")])


@pytest.mark.parametrize("name", ["a.xyz", "a.extxyz", "a.xyz@old", "frames"])
def test_blank_lines_between_frames_lose_none(three, name):
    frames = three.read_text().splitlines()
    blocks = ["\n".join(frames[5 * k : 5 * k + 5]) for k in range(3)]
    path = three.with_name(name)
    path.write_text("\n" + "\n\n  \n".join(blocks) + "\n\n")
    assert energies(path) == [0, 1, 2]
    assert read_structure(path).get_potential_energy() == 2
    with gzip.open(path.with_name("b.xyz.gz"), "wt") as file:
        file.write("\n\n".join(blocks))
    assert energies(path.with_name("b.xyz.gz")) == [0, 1, 2]


def test_a_frame_that_a_killed_run_left_half_written_ends_the_file(three):
    half = three.read_text().splitlines()[:4]
    half[0] = " " * 12
    three.write_text(three.read_text() + "\n".join(half))
    assert energies(three) == [0, 1, 2]
    assert read_structure(three).get_potential_energy() == 2


def test_folders_with_brackets_and_patterns_of_folders(three):
    for name in ("dir [x]", "dir [y]"):
        folder = three.parent / name
        folder.mkdir()
        write(folder / "f.xyz", [water(energy=5.0)])
    assert energies(three.parent / "dir [x]" / "*.xyz") == [5]
    assert energies(f"{three.parent}/dir*/f.xyz") == [5, 5]


def test_ragged_values_and_other_keys_do_no_harm():
    atoms = water({"energy_steps": [[1.0], [1.0, 2.0]], 3: 1.0, "energy": 1.0})
    assert frame_from_atoms(atoms).unused == ()


def test_what_is_no_frame_is_no_end_of_the_file(three):
    whole = three.read_text()
    three.write_text(whole + "the end\n")
    with pytest.raises(UserError, match=r"line 16: expected the number of atoms of frame 3.*@:3"):
        read_frames(three)
    assert energies(f"{three}@:3") == [0, 1, 2]
    three.write_text("\n".join(whole.splitlines()[:-1]) + "\n")
    with pytest.raises(UserError, match=r"frame 2: cannot be read: the file ends after 2 of its 3"):
        read_structure(three)


@pytest.mark.parametrize("symbol", ["D", "H1", "X", "Qq"])
def test_symbols_that_are_no_elements(tmp_path, symbol):
    (tmp_path / "a.xyz").write_text(f"1\nenergy=1.0\n{symbol} 0 0 0\n")
    with pytest.raises(UserError, match=r"a\.xyz, frame 0.*(X|unknown element|Can not decode)"):
        read_frames(tmp_path / "a.xyz")


def test_atoms_at_one_place_are_named():
    atoms = water(energy=1.0)
    atoms.positions[2] = atoms.positions[0]
    (frame,) = read_frames([atoms])
    with pytest.raises(UserError, match="frame 0: atoms O0 and H2 are 0 Å apart"):
        frame.graph(3.0)
    atoms.positions[2] += [0.05, 0, 0]
    read_frames([atoms])[0].graph(3.0)


def test_the_name_says_xyz_whatever_else_it_says(three):
    for name in ("POSCARs.xyz", "OUTCAR_all.xyz", "from_CONTCAR.extxyz", "vasp.XYZ", "x.xml.xyz"):
        three.with_name(name).write_text(three.read_text())
        assert energies(three.with_name(name)) == [0, 1, 2]


def test_types_of_a_lammps_dump_are_no_elements(tmp_path):
    head = "ITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n2\nITEM: BOX BOUNDS pp pp pp\n"
    box = "0 5\n0 5\n0 5\n"
    dump = tmp_path / "a.lammpstrj"
    dump.write_text(f"{head}{box}ITEM: ATOMS id type x y z\n1 1 0 0 0\n2 2 1 1 1\n")
    with pytest.raises(UserError, match="LAMMPS dump without elements"):
        read_structure(dump)
    dump.write_text(f"{head}{box}ITEM: ATOMS id element x y z\n1 C 0 0 0\n2 O 1 1 1\n")
    assert read_structure(dump).get_chemical_symbols() == ["C", "O"]


def test_the_placeholder_cell_of_a_pdb_file_is_none(tmp_path):
    atom = "ATOM      1  C   MOL     1       0.000   0.000   0.000  1.00  0.00           C  \n"
    cell = "CRYST1 {0:8.3f} {0:8.3f} {0:8.3f}  90.00  90.00  90.00 P 1\n"
    for size, periodic in ((1.0, False), (9.0, True)):
        (tmp_path / "a.pdb").write_text(cell.format(size) + atom)
        structure = read_structure(tmp_path / "a.pdb")
        assert structure.pbc.all() == periodic
        assert structure.cell.rank == (3 if periodic else 0)


def test_partly_occupied_sites_are_refused(tmp_path):
    from ase.spacegroup import crystal

    atoms = crystal(
        ["Na", "Cl"],
        [(0, 0, 0), (0.5, 0.5, 0.5)],
        spacegroup=225,
        cellpar=[5.6] * 3 + [90] * 3,
        occupancies=[0.5, 1.0],
    )
    write(tmp_path / "a.cif", atoms)
    with pytest.raises(UserError, match=r"partly occupied \(Na\)"):
        read_structure(tmp_path / "a.cif")


def test_two_labels_for_one_structure_are_refused():
    atoms = water({"energy": -1.0}, energy=-2.0)
    with pytest.raises(UserError, match="stands there twice and differs"):
        frame_from_atoms(atoms)
    for digits in (-2.0, -2.0000000003):
        assert frame_from_atoms(water({"energy": digits}, energy=-2.0)).energy == -2.0


# What is said -----------------------------------------------------------------------------------


def test_a_set_in_a_line():
    frames = read_frames([water(energy=1.0, forces=FORCES), water(energy=1.0), molecule("CH4")])
    assert describe_frames("training", frames) == (
        "training: 3 frames, 2 with energies, 1 with forces (H2O × 2, CH4 × 1)"
    )
    many = read_frames([Atoms(f"H{n}", np.eye(3 * n)[:n, :3] + n) for n in range(1, 9)])
    assert "and 2 more compositions" in describe_frames("training", many)


def test_forces_in_other_axes_are_told():
    atoms = molecule("CH3CH2OH")
    arms = atoms.positions - atoms.positions.mean(axis=0)
    # Springs to the centre neither push nor turn.
    turned = -arms @ np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    right, wrong = (read_frames([with_forces(atoms, f)])[0] for f in (-arms, turned))
    assert list(describe_forces([right])) == []
    assert "1 of 2 frames push or turn" in next(describe_forces([right, wrong]))


def with_forces(atoms, forces):
    made = atoms.copy()
    made.calc = SinglePointCalculator(made, energy=1.0, forces=forces)
    return made


def test_frames_that_train_and_validate_are_counted():
    train = read_frames([water(energy=1.0), molecule("CH4")])
    other = molecule("CH4")
    other.rattle(0.01)
    valid = read_frames([water(energy=2.0), other])
    assert "1 of 2 validation frames are training frames too" in next(
        describe_overlap(train, valid)
    )
    assert list(describe_overlap(train, valid[1:])) == []


def test_contents_not_names_tell_sets_apart(three):
    one = read_frames(three)
    three.rename(three.with_name("b.xyz"))
    assert content_hash(one) == content_hash(read_frames(three.with_name("b.xyz")))
    assert content_hash(one) != content_hash(one[::-1])
    for change in ({"energy": 5.0}, {"forces": FORCES}):
        other = [*one[:2], frame_from_atoms(water(**{"energy": 2.0, **change}))]
        assert content_hash(one) != content_hash(other)


def test_the_only_energy_is_never_held_out():
    frames = read_frames([water(forces=FORCES) for _ in range(5)] + [water(energy=1.0)])
    for seed in range(20):
        train, valid = split_frames(frames, 0.3, seed)
        assert len(train) + len(valid) == 6
        assert any(frame.energy is not None for frame in train)
