"""Tests of how the packaged reference data were made, and of the data themselves."""

import json
import math
import operator
from importlib import resources

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import read
from reference import __main__ as command_line
from reference import levels
from reference.sampling import gfn2_tasks, methanol_tasks
from reference.settings import Gfn2Settings, MethanolSettings
from reference.workers import run_tasks
from reference.xyz import Frame, write_frames
from rich.progress import Progress

from ase_ws.errors import UserError

DATA = resources.files("ase_ws") / "data"


@pytest.fixture
def one_thread():
    """PySCF on one thread: several threads on busy cores wait for each other."""
    lib = pytest.importorskip("pyscf").lib
    with lib.with_omp_threads(1):
        yield


class TestLevels:
    def test_hf_extrapolation_is_exact_for_its_own_law(self):
        w2, w3 = levels.hf_weights()
        e2, e3 = (-115.0 + 3.0 * math.exp(-4.42 * math.sqrt(x)) for x in (2, 3))
        assert w2 * e2 + w3 * e3 == pytest.approx(-115.0, abs=1e-12)

    def test_correlation_extrapolation_is_exact_for_its_own_law(self):
        w2, w3 = levels.correlation_weights()
        e2, e3 = (-0.45 + 0.4 * x**-2.46 for x in (2, 3))
        assert w2 * e2 + w3 * e3 == pytest.approx(-0.45, abs=1e-12)

    def test_one_core_orbital_for_each_heavy_atom(self):
        assert levels.n_frozen_orbitals(molecule("CH3OH").numbers) == 2
        assert levels.n_frozen_orbitals(molecule("H2O").numbers) == 1

    def test_other_elements_are_refused(self):
        with pytest.raises(UserError, match=r"H, C and O only.*\[7\]"):
            levels.n_frozen_orbitals(molecule("NH3").numbers)

    @pytest.mark.usefixtures("one_thread")
    @pytest.mark.parametrize("name", ["H2O", "CO"])
    def test_focal_point_forces_match_finite_differences(self, name):
        """Distorted, along one random direction, which all components and both cores enter."""
        atoms = molecule(name)
        rng = np.random.default_rng(7)
        atoms.positions += 0.08 * rng.standard_normal(atoms.positions.shape)
        label = levels.focal_point_label(atoms, forces=True)
        direction = rng.standard_normal(atoms.positions.shape)
        direction /= np.linalg.norm(direction)

        def energy(shift):
            moved = atoms.copy()
            moved.positions += shift * direction
            return levels.focal_point_label(moved, forces=False).energy

        # Fourth order: in bonds so distorted two points would leave 1e-3 eV/Å.
        h = 0.005
        slope = (8 * (energy(h) - energy(-h)) - (energy(2 * h) - energy(-2 * h))) / (12 * h)
        assert np.sum(label.forces * direction) == pytest.approx(-slope, abs=1e-4)
        assert np.abs(label.forces.sum(axis=0)).max() < 1e-6

    def test_gfn2_label_depends_on_the_geometry_alone(self):
        pytest.importorskip("tblite")
        water = molecule("H2O")
        first = levels.gfn2_label(water)
        stretched = water.copy()
        stretched.positions[1] *= 1.2
        levels.gfn2_label(stretched)
        again = levels.gfn2_label(water)
        assert again.energy == first.energy
        np.testing.assert_array_equal(again.forces, first.forces)


class TestGeometries:
    def test_modes_of_water(self):
        pytest.importorskip("tblite")
        from ase import units
        from reference.geometries import normal_modes, relaxed_molecule

        omega2, patterns = normal_modes(relaxed_molecule("H2O"))
        hbar = units._hbar * units.J * units.second
        # GFN2-xTB's bend and two stretches, cm⁻¹.
        assert np.sqrt(omega2) * hbar / units.invcm == pytest.approx([1539, 3643, 3651], abs=40)
        assert patterns.shape == (3, 3, 3)

    def test_classical_amplitudes(self):
        """Each quadratic mode holds k_B T/2, so harmonic displacements hold 3/2 k_B T in water."""
        pytest.importorskip("tblite")
        from ase import units
        from reference.geometries import mode_frames, relaxed_molecule
        from reference.settings import SamplingSettings

        relaxed = relaxed_molecule("H2O")
        e0 = relaxed.get_potential_energy()
        n, temperature = 50, 30.0  # cold: harmonic
        frames = mode_frames(
            relaxed, np.full(n, temperature), SamplingSettings(), np.random.default_rng(0)
        )
        mean = np.mean([levels.gfn2_label(Atoms("OH2", p)).energy - e0 for p in frames])
        # Standard error of the mean of a χ² with 3 degrees of freedom: sqrt(6 n)/2 k_B T / n.
        assert mean == pytest.approx(1.5 * units.kB * temperature, rel=5 * math.sqrt(2 / (3 * n)))

    def test_broken_molecules_are_rejected(self):
        pytest.importorskip("tblite")
        from reference.geometries import acceptable, relaxed_molecule
        from reference.settings import SamplingSettings

        relaxed, settings = relaxed_molecule("H2O"), SamplingSettings()
        broken = relaxed.positions.copy()
        broken[1] += 0.9 * (broken[1] - broken[0])
        assert acceptable(relaxed, relaxed.positions, settings, intact=True)
        assert not acceptable(relaxed, broken, settings, intact=True)


class TestSampling:
    def test_tasks_add_up_to_the_frames(self):
        settings = Gfn2Settings()
        tasks = gfn2_tasks(settings)
        total = settings.n_first + settings.n_each * (len(settings.molecules) - 1)
        assert sum(task.n_frames for task in tasks) == total
        assert len({task.key for task in tasks}) == len(tasks)

    def test_train_and_test_share_no_random_numbers(self):
        settings = MethanolSettings()
        train, test = (methanol_tasks(settings, part) for part in ("train", "test"))
        assert sum(task.n_frames for task in train) == settings.n_train
        assert sum(task.n_frames for task in test) == settings.n_test
        assert not {task.key for task in train} & {task.key for task in test}


class TestWorkers:
    @staticmethod
    def run(tasks, journal, settings="a", function=operator.truediv):
        with Progress(disable=True) as progress:
            return run_tasks(
                function,
                tasks,
                journal,
                settings=settings,
                workers=1,
                progress=progress,
                description="",
            )

    def test_goes_on_after_an_error_and_a_cut_line(self, tmp_path):
        journal = tmp_path / "journal.jsonl"
        with pytest.raises(ZeroDivisionError):
            self.run({"a": (1, 2), "b": (1, 0)}, journal)
        # What a kill leaves: a last line that is not whole.
        with journal.open("a", encoding="utf-8") as file:
            file.write('{"key": "b", "res')
        assert self.run({"a": (99, 2), "b": (9, 3)}, journal) == {"a": 0.5, "b": 3.0}
        lines = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
        assert [line.get("key") for line in lines] == [None, "a", "b"]

    def test_journal_of_other_settings_is_refused(self, tmp_path):
        journal = tmp_path / "journal.jsonl"
        self.run({"a": (1, 2)}, journal)
        with pytest.raises(UserError, match="--work"):
            self.run({"a": (1, 2)}, journal, settings="b")

    def test_a_journal_cut_within_its_first_line_starts_anew(self, tmp_path):
        journal = tmp_path / "journal.jsonl"
        journal.write_text('{"sett', encoding="utf-8")
        assert self.run({"a": (1, 2)}, journal) == {"a": 0.5}


def test_ase_reads_the_frames_back(tmp_path):
    path = tmp_path / "a.xyz"
    info = {"molecule": "H2", "temperature_K": "300"}
    positions = [[0.0, 0.0, 0.12345], [0.0, 0.0, 0.9]]
    forces = [[0.0, 0.0, 1.2345], [0.0, 0.0, -1.2345]]
    frames = [Frame(["H", "H"], positions, info, -31.123456, f) for f in (forces, None)]
    write_frames(path, frames)
    with_forces, without = read(path, ":")
    np.testing.assert_array_equal(with_forces.positions, positions)
    np.testing.assert_array_equal(with_forces.get_forces(), forces)
    assert with_forces.get_potential_energy() == -31.123456
    assert with_forces.info == {"molecule": "H2", "temperature_K": 300}
    assert set(without.calc.results) == {"energy"}


def test_missing_extra_is_one_line_and_exit_code_2(monkeypatch, capsys):
    monkeypatch.setattr(command_line.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("sys.argv", ["reference", "gfn2", "--out", "never.xyz"])
    with pytest.raises(SystemExit) as stop:
        command_line.main()
    assert stop.value.code == 2
    assert 'pip install "ase-ws[reference]"' in capsys.readouterr().err


class TestPackagedData:
    @staticmethod
    def frames(name):
        with resources.as_file(DATA / name) as path:
            return read(path, ":")

    def test_small_cho(self):
        frames = self.frames("small_cho_gfn2.xyz")
        molecules = [atoms.info["molecule"] for atoms in frames]
        assert len(frames) >= 2000
        assert len(set(molecules)) >= 18
        assert 0.10 <= molecules.count("CH3OH") / len(frames) <= 0.15
        for atoms in frames:
            assert set(atoms.calc.results) == {"energy", "forces"}
            assert np.linalg.norm(atoms.get_forces(), axis=1).max() <= 30.0
            assert np.abs(atoms.get_forces().sum(axis=0)).max() < 1e-3

    def test_small_cho_labels_belong_to_the_stored_positions(self):
        pytest.importorskip("tblite")
        for atoms in self.frames("small_cho_gfn2.xyz")[::200]:
            label = levels.gfn2_label(atoms)
            # The stored digits, and the SCF's own reproducibility between machines.
            assert label.energy == pytest.approx(atoms.get_potential_energy(), abs=5e-5)
            np.testing.assert_allclose(label.forces, atoms.get_forces(), atol=5e-4)

    def test_methanol(self):
        train = self.frames("methanol_ccsdt_train.xyz")
        test = self.frames("methanol_ccsdt_test.xyz")
        assert len(train) >= 240
        assert len(test) >= 60
        assert all(set(atoms.calc.results) == {"energy"} for atoms in train)
        assert all(set(atoms.calc.results) == {"energy", "forces"} for atoms in test)
        for atoms in train + test:
            assert atoms.get_chemical_formula() == "CH4O"
            assert 300 <= atoms.info["temperature_K"] <= 1000
        # Held out: no test geometry is a train geometry, whatever its orientation.
        distances = [
            np.array([atoms.get_all_distances().ravel() for atoms in frames])
            for frames in (train, test)
        ]
        gaps = np.abs(distances[0][:, None] - distances[1][None]).max(axis=-1)
        assert gaps.min() > 0.01

    def test_frames_fit_in_a_package(self):
        sets = [file for file in DATA.iterdir() if file.name.endswith(".xyz")]
        assert sum(len(file.read_bytes()) for file in sets) < 3e6
