"""The MD runner: ensembles, reproducibility, files, failures."""

import errno
import io
import json
import os
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.calculators.tersoff import Tersoff, TersoffParameters
from ase.constraints import FixAtoms, FixCartesian
from toys import (
    CurlSprings,
    NaNSprings,
    Pairwise,
    RaisingSprings,
    Springs,
    argon,
    ethanol,
)

from ase_ws import CommitteeCalculator, GuardedCalculator, PotentialCalculator
from ase_ws.errors import UserError
from ase_ws.frames import read_atoms
from ase_ws.md import Finding, degrees_of_freedom, read_log, run_md
from ase_ws.md.evaluation import evaluate
from ase_ws.md.record import LogWriter, TrajectoryWriter
from ase_ws.md.run_result import NotWrittenError
from ase_ws.stability.checks.drift import fit_slope
from ase_ws.stability.judged.answers import Judged, PotentialError
from ase_ws.testing import Morse

# T3 of Tersoff, Phys. Rev. B 38, 9902 (1988).
SILICON = {
    ("Si", "Si", "Si"): TersoffParameters(
        m=3.0, gamma=1.0, lambda3=1.3258, c=4.8381, d=2.0417, h=0.0, n=22.956, beta=0.33675,
        lambda2=1.3258, B=95.373, R=3.0, D=0.2, lambda1=3.2394, A=3264.7,
    )
}  # fmt: skip


def drift(result):
    """Slope of the conserved quantity in meV/atom/ps."""
    late = result.traces["time_fs"] >= 100
    times = result.traces["time_fs"][late] / 1000
    return fit_slope(times, 1000 * result.traces["conserved_ev_per_atom"][late]).value


def test_nve_conserves_energy_of_springs():
    result = run_md(
        ethanol(), Springs(ethanol()), ensemble="nve", temperature=300, steps=2000, seed=1
    )
    total = result.traces["conserved_ev_per_atom"]
    parts = [result.traces[f"{part}_ev_per_atom"] for part in ("potential", "kinetic")]
    assert np.allclose(total, sum(parts))
    assert abs(drift(result)) < 0.1
    assert np.allclose(result.atoms.get_momenta().sum(axis=0), 0, atol=1e-10)


def test_nve_conserves_energy_of_copper():
    atoms = bulk("Cu", cubic=True)
    result = run_md(atoms, EMT(), ensemble="nve", temperature=600, steps=400, timestep=2, seed=1)
    assert abs(drift(result)) < 0.1
    assert result.time_ps == pytest.approx(0.8)
    assert result.ns_per_day > 0


def test_verlet_error_falls_with_the_square_of_the_time_step():
    swings = []
    for timestep in (0.4, 0.8):
        result = run_md(
            ethanol(), Springs(ethanol()), ensemble="nve", temperature=300,
            steps=int(400 / timestep), timestep=timestep, seed=1, interval=1,
        )  # fmt: skip
        swings.append(np.std(result.traces["conserved_ev_per_atom"]))
    assert swings[1] / swings[0] == pytest.approx(4.0, rel=0.2)


@pytest.mark.parametrize("thermostat", ["bussi", "langevin", "nose-hoover"])
def test_nvt_holds_the_canonical_kinetic_energy(thermostat):
    atoms = argon()
    result = run_md(
        atoms, Pairwise(), ensemble="nvt", temperature=20, steps=4000, timestep=5,
        thermostat=thermostat,
        thermostat_time=50, seed=2, interval=5,
    )  # fmt: skip
    temperature = result.traces["temperature_k"][200:]
    n_dof = degrees_of_freedom(atoms)
    assert temperature.mean() == pytest.approx(20.0, rel=0.05)
    assert temperature.std() / temperature.mean() == pytest.approx(np.sqrt(2 / n_dof), rel=0.15)
    assert abs(drift(result)) < 0.05


@pytest.mark.parametrize("thermostat", ["bussi", "langevin", "nose-hoover"])
def test_nvt_conserved_quantity_excludes_the_heat(thermostat):
    calm, curl = (
        run_md(
            ethanol(), kind(ethanol()), temperature=300, steps=1500, seed=1, thermostat=thermostat
        )
        for kind in (Springs, CurlSprings)
    )
    assert abs(drift(calm)) < 1.0
    if thermostat == "langevin":
        # Noise breaks the persistent turning that a curl drives: Langevin hides it, which is why
        # it is not the default.
        assert abs(drift(curl)) < 1.0
    else:
        assert drift(curl) > 10.0


@pytest.mark.parametrize("flexible_cell", [False, True])
def test_npt_of_silicon(flexible_cell):
    atoms = bulk("Si", cubic=True)
    result = run_md(
        atoms, Tersoff(SILICON), ensemble="npt", temperature=300, steps=80, timestep=2, seed=1,
        pressure=1.0, barostat_time=100, flexible_cell=flexible_cell,
    )  # fmt: skip
    assert result.stopped_by is None
    volume = result.traces["volume_a3"]
    assert np.ptp(volume) > 0.1
    assert volume.min() > 0.9 * volume[0]
    assert np.ptp(result.traces["conserved_ev_per_atom"]) < 2e-3


def test_npt_finds_volume_and_temperature():
    atoms = bulk("Cu", a=3.55, cubic=True)
    result = run_md(
        atoms, EMT(), ensemble="npt", temperature=300, steps=700, timestep=3, seed=1,
        barostat_time=200,
    )  # fmt: skip
    late = result.traces["time_fs"] > 300
    # EMT's own lattice constant is 3.59 Å at rest; 300 K adds about 1.5 % of volume.
    assert result.traces["volume_a3"][late].mean() == pytest.approx(1.015 * 3.59**3, rel=0.015)
    # With 3N instead of 3N − 3 degrees of freedom this would be 400 K.
    assert result.traces["temperature_k"][late].mean() == pytest.approx(300, rel=0.2)


def test_seed_repeats_and_differs():
    def final(seed):
        return run_md(ethanol(), Springs(ethanol()), temperature=300, steps=50, seed=seed).atoms

    assert np.array_equal(final(1).positions, final(1).positions)
    assert not np.allclose(final(1).positions, final(2).positions)


def test_input_is_left_alone():
    atoms, calculator = ethanol(), Springs(ethanol())
    atoms.calc = calculator
    before = atoms.copy()
    result = run_md(atoms, temperature=300, steps=20)
    assert atoms == before
    assert not atoms.has("momenta")
    assert atoms.calc is calculator
    assert result.atoms.calc is calculator


def test_one_evaluation_per_step():
    calculator = Springs(ethanol())
    run_md(ethanol(), calculator, temperature=300, steps=100)
    assert calculator.calls == 101


def test_keep_velocities():
    first = run_md(ethanol(), Springs(ethanol()), ensemble="nve", temperature=300, steps=40)
    second = run_md(first.atoms, ensemble="nve", temperature=300, steps=40, keep_velocities=True)
    whole = run_md(ethanol(), Springs(ethanol()), ensemble="nve", temperature=300, steps=80)
    assert np.allclose(second.atoms.positions, whole.atoms.positions)


def test_fixed_atoms_do_not_move():
    atoms = bulk("Cu", cubic=True)
    atoms.set_constraint(FixAtoms([0]))
    result = run_md(atoms, EMT(), temperature=300, steps=20, timestep=2)
    assert np.array_equal(result.atoms.positions[0], atoms.positions[0])


# ---------------------------------------------------------------- failures and observers


def test_nan_stops_any_run_and_keeps_the_frames():
    result = run_md(ethanol(), NaNSprings(ethanol()), temperature=300, steps=2000, seed=1)
    assert result.stopped_by is not None
    assert result.stopped_by.check == "finite"
    assert 0 < result.steps_done < 2000
    before, failing = result.last_frames
    assert (before.info["step"], failing.info["step"]) == (
        result.steps_done - 1,
        result.steps_done,
    )
    assert np.isfinite(before.get_forces()).all()
    assert np.isnan(failing.get_potential_energy())
    assert 0 < np.abs(before.positions - failing.positions).max() < 0.1


def test_exception_of_the_calculator_stops_the_run():
    result = run_md(ethanol(), RaisingSprings(ethanol()), temperature=300, steps=2000, seed=1)
    assert result.stopped_by is not None
    assert result.stopped_by.check == "calculator"
    assert "ValueError: neighbour list" in result.stopped_by.message
    assert len(result.last_frames) == 2


@pytest.mark.parametrize(
    "error",
    [AttributeError("lost"), KeyError("x"), MemoryError(), StopIteration(), ZeroDivisionError()],
)
def test_every_kind_of_exception_is_a_finding(error, tmp_path):
    calculator = RaisingSprings(ethanol())
    calculator.error = error
    result = run_md(ethanol(), calculator, temperature=300, steps=2000, seed=1, out=tmp_path)
    assert result.stopped_by is not None
    assert result.stopped_by.check == "calculator"
    assert len(ase.io.read(tmp_path / "trajectory.extxyz", ":")) == result.steps_done // 10 + 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("disk full")])
def test_other_exceptions_pass_through(error):
    calculator = RaisingSprings(ethanol())
    calculator.error = error
    with pytest.raises(type(error)):
        run_md(ethanol(), calculator, temperature=300, steps=2000, seed=1)


class Counter:
    """Counts looks; fails at a step; breaks when told to."""

    interval = 7

    def __init__(self, fail_at=None, error=None):
        self.fail_at, self.error = fail_at, error
        self.steps = []

    def start(self, atoms, context):
        self.context = context
        self.steps = []

    def check(self, snapshot):
        self.steps.append(snapshot.step)
        if self.error is not None:
            raise self.error
        if self.fail_at is not None and snapshot.step >= self.fail_at:
            return [Finding("counter", "fail", "enough", step=snapshot.step)]
        return [Finding("counter", "warn", "look")]


def test_observers_are_asked_at_their_interval():
    observer = Counter()
    result = run_md(ethanol(), Springs(ethanol()), temperature=300, steps=30, observers=[observer])
    assert observer.steps == [0, 7, 14, 21, 28, 30]
    assert len(result.warnings) == 6
    assert observer.context.n_dof == 21


def test_an_observer_stops_the_run():
    result = run_md(
        ethanol(), Springs(ethanol()), temperature=300, steps=30, observers=[Counter(fail_at=10)]
    )
    assert result.steps_done == 14
    assert result.stopped_by is not None
    assert result.traces["step"][-1] == 14


def test_mistakes_of_observers_are_not_blamed_on_the_potential():
    with pytest.raises(ValueError, match="mine"):
        run_md(
            ethanol(), Springs(ethanol()), temperature=300, steps=30,
            observers=[Counter(error=ValueError("mine"))],
        )  # fmt: skip


# ---------------------------------------------------------------- files


def test_files(tmp_path):
    seen = []
    result = run_md(
        ethanol(), Springs(ethanol()), temperature=300, steps=35, out=tmp_path / "run",
        progress=lambda done, total, label: seen.append((done, total, label)),
    )  # fmt: skip
    log = read_log(tmp_path / "run" / "md.csv")
    assert list(log["step"]) == [0, 10, 20, 30, 35]
    for name, trace in result.traces.items():
        assert np.allclose(log[name], trace, rtol=1e-7)
    frames = ase.io.read(tmp_path / "run" / "trajectory.extxyz", ":")
    assert [frame.info["step"] for frame in frames] == [0, 10, 20, 30, 35]
    assert np.allclose(frames[-1].positions, result.atoms.positions, atol=1e-6)
    assert frames[-1].has("momenta")
    assert np.isfinite(frames[-1].get_forces()).all()
    summary = json.loads((tmp_path / "run" / "md.json").read_text())
    assert summary["steps_done"] == 35
    assert summary["stopped_by"] is None
    assert seen[-1][:2] == (35, 35)


def test_labels_of_the_start_do_not_travel(tmp_path):
    atoms = ethanol()
    atoms.info.update(REF_energy=-1.0, charge=1)
    atoms.set_array("REF_forces", np.zeros((9, 3)))
    run_md(atoms, Springs(ethanol()), temperature=300, steps=10, out=tmp_path)
    last = ase.io.read(tmp_path / "trajectory.extxyz", -1)
    assert "REF_energy" not in last.info
    assert last.info["charge"] == 1
    assert not last.has("REF_forces")


def test_results_are_read_through_getters_that_a_calculator_overrides():
    class Odd(Springs):
        """Old style: the getter does not give what is stored."""

        def get_forces(self, atoms=None):
            return super().get_forces(atoms) * np.nan

    result = run_md(ethanol(), Odd(ethanol()), temperature=300, steps=5)
    assert result.stopped_by is not None
    assert result.stopped_by.check == "finite"


@pytest.mark.parametrize(
    "make",
    [
        EMT,
        lambda: Judged(EMT()),
        lambda: PotentialCalculator(Morse()),
        lambda: CommitteeCalculator([Morse(r0=1.2), Morse(r0=1.3)]),
        lambda: GuardedCalculator(PotentialCalculator(Morse())),
    ],
)
def test_nothing_stands_between_a_step_and_its_results(make, monkeypatch):
    """A comparison of the whole state costs more than many a potential."""
    atoms = ethanol()
    atoms.calc = make()
    wanted = atoms.get_potential_energy(), atoms.get_forces()
    monkeypatch.setattr(Calculator, "get_property", None)
    energy, forces, _ = evaluate(atoms)
    assert energy == wanted[0]
    assert np.array_equal(forces, wanted[1])
    # As it would fall over otherwise.
    with pytest.raises((TypeError, PotentialError), match="not callable"):
        atoms.get_forces()


def test_a_half_written_frame_is_not_seen(tmp_path):
    path = tmp_path / "trajectory.extxyz"
    writer = TrajectoryWriter(path)
    for _ in range(3):
        writer.write(ethanol())
    whole = path.stat().st_size
    writer.write(ethanol())
    writer.close()
    content = path.read_bytes()
    # A kill leaves the last frame cut anywhere, with its first line still blank.
    for cut in (1, 12, 13, 40, 200, len(content) - whole - 1):
        blank = b" " * 12 + content[whole + 12 :]
        path.write_bytes(content[:whole] + blank[:cut])
        assert len(ase.io.read(path, ":")) == 3
        assert len(list(read_atoms(path))) == 3
    path.write_bytes(content)
    assert len(ase.io.read(path, ":")) == len(list(read_atoms(path))) == 4


def test_a_half_written_log_line_is_left_out(tmp_path):
    path = tmp_path / "md.csv"
    writer = LogWriter(path)
    writer.write((0, 0.0, 1.0, 2.0, 3.0, 300.0, 0.0))
    writer.write((10, 5.0, 1.0, 2.0, 3.0, 301.0, 0.0))
    writer.close()
    path.write_bytes(path.read_bytes()[:-8])
    assert list(read_log(path)["step"]) == [0]
    path.write_text("")
    assert len(read_log(path)["step"]) == 0


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ensemble": "nph"}, "nve, nvt, npt"),
        ({"thermostat": "ice"}, "bussi, langevin, nose-hoover"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"timestep": -1.0}, "timestep"),
        ({"steps": -1}, "steps"),
        ({"steps": 1.5}, "steps"),
        ({"interval": 0}, "interval"),
        ({"seed": -1}, "seed"),
        ({"keep_velocities": True}, "keep_velocities"),
        ({"thermostat_time": 0}, "thermostat_time"),
        ({"ensemble": "npt"}, "periodic"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {"temperature": 300, "steps": 1, **change}
    with pytest.raises(UserError, match=message):
        run_md(ethanol(), Springs(ethanol()), **arguments)


def test_bad_structures_and_calculators():
    with pytest.raises(UserError, match="no calculator"):
        run_md(ethanol(), temperature=300, steps=1)
    broken = ethanol()
    broken.positions[0] = np.nan
    with pytest.raises(UserError, match="NaN"):
        run_md(broken, Springs(ethanol()), temperature=300, steps=1)
    with pytest.raises(UserError, match="NotImplementedError"):
        run_md(bulk("Fe", cubic=True), EMT(), temperature=300, steps=1, ensemble="nvt")
    with pytest.raises(UserError, match="stress"):
        run_md(bulk("Ar", a=5.2, cubic=True), Pairwise(), temperature=30, steps=1, ensemble="npt")


def test_npt_refuses_constraints():
    atoms = bulk("Cu", cubic=True)
    atoms.set_constraint(FixAtoms([0]))
    with pytest.raises(UserError, match="constraints"):
        run_md(atoms, EMT(), temperature=300, steps=1, ensemble="npt")


# ---------------------------------------------------------------- what a frame takes along


def described():
    atoms = ethanol()
    atoms.set_tags(range(9))
    atoms.set_initial_charges(np.linspace(-0.4, 0.4, 9))
    atoms.set_initial_magnetic_moments(np.eye(9)[2])
    atoms.set_array("residuenames", np.array(["ETH"] * 9))
    atoms.set_array("ring", np.arange(9) > 5)
    atoms.set_array("group", np.arange(9, dtype=np.uint8))
    return atoms


def test_frames_keep_what_describes_the_system(tmp_path):
    atoms = described()
    atoms.set_constraint([FixAtoms([0, 1]), FixCartesian([3], (True, False, False))])
    run_md(atoms, Springs(ethanol()), temperature=300, steps=10, out=tmp_path)
    for frame in ase.io.read(tmp_path / "trajectory.extxyz", ":"):
        assert frame.get_tags().tolist() == list(range(9))
        np.testing.assert_allclose(frame.get_initial_charges(), atoms.get_initial_charges())
        assert frame.get_initial_magnetic_moments()[2] == 1
        assert frame.arrays["residuenames"].tolist() == ["ETH"] * 9
        assert frame.arrays["ring"].tolist() == atoms.arrays["ring"].tolist()
        assert frame.arrays["group"].tolist() == list(range(9))
        held = np.zeros((9, 3), dtype=bool)
        for constraint in frame.constraints:
            held[constraint.index] |= constraint.mask
        assert held.tolist() == [[k in (0, 1, 3), k in (0, 1), k in (0, 1)] for k in range(9)]
        assert frame.get_forces(apply_constraint=False)[0].any() or frame.info["step"] == 0
    assert json.loads((tmp_path / "md.json").read_text())["constraints"] == [
        "FixAtoms",
        "FixCartesian",
    ]


def test_frames_at_a_failure_keep_it_too():
    atoms = described()
    atoms.set_constraint(FixAtoms([8]))
    result = run_md(atoms, NaNSprings(ethanol()), temperature=300, steps=2000, seed=1)
    for frame in (*result.earlier_frames, *result.last_frames):
        assert frame.get_tags().tolist() == list(range(9))
        assert frame.constraints[0].index.tolist() == [8]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("REF_forces", np.zeros((9, 3), dtype=int)),
        ("forces", np.zeros((9, 3))),
        ("dft_energy_per_atom", np.arange(9)),
        ("some_numbers", np.linspace(0, 1, 9)),
        ("unreadable", np.array(["a b"] * 9)),
        ("empty", np.array([""] * 9)),
        ("things", np.array([None] * 9, dtype=object)),
    ],
)
def test_other_columns_stay_behind(name, values, tmp_path):
    atoms = ethanol()
    atoms.arrays[name] = values
    run_md(atoms, Springs(ethanol()), temperature=300, steps=1, out=tmp_path)
    frames = ase.io.read(tmp_path / "trajectory.extxyz", ":")
    assert len(frames) == 2
    assert name not in frames[-1].arrays


# ---------------------------------------------------------------- full and forbidden disks


class Sips(io.FileIO):
    """Takes a hundred bytes at a time, as the system may."""

    def write(self, data):
        return super().write(bytes(data)[:100])


class Small(Sips):
    """On a disk that is full after 5000 bytes of each file."""

    def write(self, data):
        room = max(5000, os.fstat(self.fileno()).st_size) - self.tell()
        if room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(bytes(data)[:room])


def test_short_writes_are_completed(tmp_path, monkeypatch):
    monkeypatch.setattr("ase_ws.md.record.io.FileIO", Sips)
    run_md(ethanol(), Springs(ethanol()), temperature=300, steps=30, out=tmp_path)
    assert len(ase.io.read(tmp_path / "trajectory.extxyz", ":")) == 4
    assert read_log(tmp_path / "md.csv")["step"].tolist() == [0, 10, 20, 30]


def test_a_full_disk_leaves_whole_frames(tmp_path, monkeypatch):
    monkeypatch.setattr("ase_ws.md.record.io.FileIO", Small)
    with pytest.raises(OSError, match=r"No space left on device: '.*trajectory\.extxyz'"):
        run_md(ethanol(), Springs(ethanol()), temperature=300, steps=99, interval=1, out=tmp_path)
    frames = ase.io.read(tmp_path / "trajectory.extxyz", ":")
    assert 2 < len(frames) < 10
    assert [frame.info["step"] for frame in frames] == list(range(len(frames)))
    size = (tmp_path / "trajectory.extxyz").stat().st_size
    assert size < 5000  # nothing of the frame that did not fit


def test_the_result_outlives_a_summary_that_cannot_be_written(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(NotWrittenError, match=r"No space left.*md\.json") as caught:
        run_md(ethanol(), Springs(ethanol()), temperature=300, steps=10, out=tmp_path)
    assert caught.value.result.steps_done == 10


@pytest.mark.parametrize("out", ["file", "file/below", "n" * 300])
def test_a_folder_that_cannot_be(out, tmp_path):
    (tmp_path / "file").write_text("kept")
    calculator = Springs(ethanol())
    with pytest.raises(UserError, match=r"(file|nnn).*: (is a file; expected a f|cannot be wri)"):
        run_md(ethanol(), calculator, temperature=300, steps=10, out=tmp_path / out)
    assert calculator.calls == 1  # the start; not one step
    assert (tmp_path / "file").read_text() == "kept"


def test_a_folder_without_the_right_to_write_costs_no_earlier_run(tmp_path, monkeypatch):
    run_md(ethanol(), Springs(ethanol()), temperature=300, steps=10, out=tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def forbidden(*args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "some temporary name")

    monkeypatch.setattr("ase_ws.files.folders.tempfile.TemporaryDirectory", forbidden)
    with pytest.raises(UserError, match=f"{tmp_path}: cannot be written"):
        run_md(ethanol(), Springs(ethanol()), temperature=300, steps=10, out=tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# ---------------------------------------------------------------- calculators that change


class Shapes(NaNSprings):
    """Forces of another shape once a bond is stretched; some that NumPy would stretch."""

    def __init__(self, reference, shape):
        super().__init__(reference)
        self.shape = shape

    def spoil(self, atoms, lengths):
        if (lengths - self.lengths)[self.k > self.k.min()].max() > self.reach:
            self.results = {"energy": 0.0, "forces": np.zeros(self.shape)}


@pytest.mark.parametrize("ensemble", ["nve", "nvt"])
@pytest.mark.parametrize("shape", [(1, 3), (9, 1), (3,), (8, 3), (9, 3, 1), ()])
def test_forces_of_another_shape_stop_the_run(shape, ensemble, tmp_path):
    result = run_md(
        ethanol(), Shapes(ethanol(), shape), temperature=300, steps=2000, seed=1,
        ensemble=ensemble, out=tmp_path,
    )  # fmt: skip
    assert result.stopped_by is not None
    assert result.stopped_by.check == "calculator"
    assert f"forces of shape {shape}" in result.stopped_by.message
    assert "\n" not in result.stopped_by.message
    frames = ase.io.read(tmp_path / "trajectory.extxyz", ":")
    assert len(frames) == result.steps_done // 10 + 1
    assert json.loads((tmp_path / "md.json").read_text())["stopped_by"]["check"] == "calculator"


def test_forces_of_another_shape_at_the_start_are_refused():
    atoms = ethanol()
    atoms.positions[0] += 0.2
    with pytest.raises(UserError, match=r"forces of shape \(1, 3\), expected \(9, 3\)"):
        run_md(atoms, Shapes(ethanol(), (1, 3)), temperature=300, steps=5)


@pytest.mark.parametrize("mass", [0.0, -1.0, np.nan])
def test_masses_that_are_none(mass):
    atoms = ethanol()
    atoms.set_masses([12.0] * 8 + [mass])
    with pytest.raises(UserError, match=r"atom 8 \(H\) has a mass"):
        run_md(atoms, Springs(ethanol()), temperature=300, steps=5)
