"""NaN, zero and nothing: no comparison that they pass, no division that they break, no JSON."""

import json
from types import SimpleNamespace

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixConstraint, Hookean
from ase.io import write
from toys import Springs, ethanol

from ase_ws.errors import UserError
from ase_ws.results.finding import Finding
from ase_ws.results.rates import failure_rate_interval, survival_curve
from ase_ws.results.replica import ReplicaResult
from ase_ws.results.settings import StabilitySettings
from ase_ws.stability import (
    Calibration,
    ContactCheck,
    RDFReference,
    check_stability,
    check_trajectory,
    failure_rate,
    failure_rate_upper,
)
from ase_ws.stability.runs.prepare import relax
from ase_ws.stability.runs.replicas import Run
from ase_ws.stability.static import Work, run_static
from ase_ws.stability.verdict.blame import find_blame
from ase_ws.stability.verdict.candidates import write_candidates
from ase_ws.stability.verdict.failing_frame import failing_frame
from ase_ws.stability.verdict.reruns import Subject

NAN, INF = float("nan"), float("inf")


def settings(**changes):
    return StabilitySettings(**{"temperatures": 300, "ps": 0.1, **changes})


def replica(step, seed, check="calculator", temperature=300.0):
    """One that failed in this step, as where a calculator raises in it: it was not completed."""
    finding = Finding(check, "fail", "it did", step=step, time=0.5 * step)
    done = max(step - 1, 0) * 0.0005
    return ReplicaResult(temperature, 0, seed, 0.1, done, finding, [], [], {}, None, 0.0)


@pytest.mark.parametrize("total", [0.0, -1.0, NAN])
def test_no_rate_without_time(total):
    assert failure_rate(1, total) is None
    assert failure_rate_upper(1, total) is None
    assert failure_rate_interval(1, total) is None
    assert failure_rate_interval(0, total) is None


def test_survival_of_runs_that_fail_at_once():
    curve = survival_curve([0.0, 0.0], [True, True])
    assert curve.fraction[-1] == 0.0
    assert np.isfinite([curve.low, curve.high, curve.time_ps]).all()
    assert not survival_curve([], []).time_ps


def test_a_failure_in_the_first_step_has_a_rate():
    """It completed no step: that was a division by 0 ps."""
    runs = [replica(1, 5), replica(1, 6)]
    subject = Subject.of(runs, 4.0)
    assert subject.ps > 0
    assert subject.n_runs >= 1
    start = ethanol()
    start.calc = Springs(start)
    found = find_blame(start, settings(), runs, [])
    assert found.cause in ("timestep", "not settled", "model")
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_failure_at_the_start_needs_no_rerun():
    assert find_blame(ethanol(), settings(), [replica(0, 5), replica(0, 6)], []).cause == "model"
    found = find_blame(ethanol(), settings(), [replica(0, 5), replica(1, 6)], [])
    assert found.cause == "model"
    assert "has begun MD" in found.reason


@pytest.mark.parametrize(
    "change",
    [
        {"pressure": NAN}, {"min_ps": INF}, {"min_ps": NAN}, {"interval": NAN}, {"interval": 0},
        {"fmax": NAN}, {"fmax": 0.0}, {"relax_steps": -1}, {"relax_steps": NAN},
        {"largest_training_force": NAN}, {"largest_training_force": INF},
        {"notes": {"a": NAN}}, {"notes": {"a": np.zeros(2)}}, {"ps": NAN}, {"seed": NAN},
        {"temperature": NAN},
    ],
)  # fmt: skip
def test_arguments_that_are_no_numbers(change):
    with pytest.raises(UserError, match=next(iter(change))):
        check_stability(ethanol(), Springs(ethanol()), **{"temperature": 300, "ps": 0.01, **change})


def test_numbers_of_numpy_are_numbers(tmp_path):
    report = check_stability(
        ethanol(), Springs(ethanol()), temperature=np.float32(300), ps=np.float64(0.005),
        replicas=np.int64(1), seed=np.int32(1), interval=np.int64(5), min_ps=np.float32(0),
        largest_training_force=np.float32(3), relax_steps=np.int64(0), static=False, out=tmp_path,
    )  # fmt: skip
    assert json.loads((tmp_path / "stability.json").read_text())["verdict"] == report.verdict


@pytest.mark.parametrize("cell", [[[1, 0, 0], [2, 0, 0], [0, 0, 1]], np.full((3, 3), NAN)])
def test_a_cell_that_is_none(cell):
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(cell)
    with pytest.raises(UserError, match="cell"):
        check_stability(atoms, EMT(), temperature=300, ps=0.01)


def crystal(**changes):
    atoms = bulk("Cu", cubic=True)
    for name, value in changes.items():
        setattr(atoms, name, value)
    return atoms


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([], "periodic"),
        ([crystal(pbc=False)], "periodic"),
        ([crystal(), crystal(cell=np.zeros((3, 3)))], "periodic"),
        ([crystal(), crystal(positions=np.full((4, 3), NAN))], "frame 1 holds NaN"),
        ([crystal(), bulk("NaCl", "rocksalt", a=5.6)], "frame 1 has other elements"),
    ],
)
def test_references_of_rdf(frames, message):
    with pytest.raises(UserError, match=message):
        RDFReference.of(frames)


def test_calibration_on_numbers_alone():
    water = molecule("H2O")
    for forces in (
        np.full((3, 3), NAN),
        np.array([[0, 0, INF]] * 3),
        np.zeros((2, 3)),
        np.zeros(9),
    ):
        with pytest.raises(UserError, match="frame 1 holds NaN"):
            Calibration.of([water, water], [np.zeros((3, 3)), forces])
    broken = water.copy()
    broken.positions[0] = NAN
    with pytest.raises(UserError, match="frame 0 holds NaN"):
        Calibration.of([broken])
    assert Calibration.of([Atoms("H")]).smallest_contact is None


def test_a_cell_that_blew_up_is_still_a_report(tmp_path):
    frame = bulk("Cu", cubic=True)
    frame.cell[0, 0] = NAN
    run = Run(replica(7, 1), [frame])
    assert failing_frame([run]) is None
    write_candidates(tmp_path, [run])
    assert not ase.io.read(tmp_path / "candidates.xyz").info["label"]


@pytest.mark.parametrize("n", [1, 2])
def test_a_trajectory_without_freedom(n):
    frames = [Atoms(f"Ar{n}", np.arange(3 * n).reshape(n, 3) * 3.0)] * 3
    if n == 2:
        frames[0].set_constraint(FixAtoms([0, 1]))
    with pytest.raises(UserError, match="no internal degree of freedom"):
        check_trajectory(frames, frame_interval=1.0, temperature=300)


def test_a_trajectory_of_nan(tmp_path):
    frames = [molecule("H2O") for _ in range(4)]
    frames[2].positions[1] = NAN
    frames[2].calc = None
    report = check_trajectory(frames, frame_interval=1.0, temperature=300, out=tmp_path)
    assert report.failures[0].check == "finite"
    for frame in frames:
        frame.calc = SinglePointCalculator(frame, energy=NAN, forces=np.zeros((3, 3)))
    report = check_trajectory(frames, frame_interval=1.0, temperature=300, out=tmp_path)
    assert report.failures[0].check == "finite"
    with pytest.raises(UserError, match="min_ps"):
        check_trajectory(frames, frame_interval=1.0, temperature=300, min_ps=NAN)


# ---------------------------------------------------------------- constraints


class OneOfOnesOwn(FixConstraint):
    """Holds an atom, as ASE's manual shows it: no count of what is left, nothing to copy it by."""

    def adjust_positions(self, atoms, new):
        new[0] = atoms.positions[0]

    def adjust_momenta(self, atoms, momenta):
        momenta[0] = 0.0

    def adjust_forces(self, atoms, forces):
        forces[0] = 0.0


class Oblique(OneOfOnesOwn):
    """Lets the momenta go where the positions may not."""

    def adjust_momenta(self, atoms, momenta):
        pass


def test_constraints_of_ones_own_are_measured_before_any_work():
    atoms, calculator = ethanol(), Springs(ethanol())
    atoms.set_constraint(OneOfOnesOwn())
    report = check_stability(atoms, calculator, temperature=300, ps=0.01)
    assert report.verdict != "unstable"
    assert check_trajectory([atoms] * 2, frame_interval=1.0, temperature=300).verdict != "unstable"
    atoms, calculator = ethanol(), Springs(ethanol())
    atoms.set_constraint(Oblique())
    with pytest.raises(UserError, match="Oblique: does not project positions and momenta alike"):
        check_stability(atoms, calculator, temperature=300, ps=0.01)
    assert calculator.calls == 0
    # What has been run already is not run again.
    assert check_trajectory([atoms] * 2, frame_interval=1.0, temperature=300).verdict != "unstable"


def test_fix_symmetry_is_judged_as_any_other():
    pytest.importorskip("spglib")
    from ase.constraints import FixSymmetry

    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.set_constraint(FixSymmetry(atoms))
    with pytest.raises(UserError, match=r"(at least one|no) internal degree"):
        check_stability(atoms, EMT(), temperature=300, ps=0.01)
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.positions[0] += [0.1, 0.0, 0.0]
    atoms.set_constraint(FixSymmetry(atoms))
    report = check_stability(atoms, EMT(), temperature=300, ps=0.01, static=False)
    assert report.verdict != "unstable"


def strained():
    """A crystal with one atom out of place, and held there."""
    atoms = bulk("Cu", cubic=True).repeat((2, 2, 2))
    atoms.positions[0] += [0.3, 0.1, 0.0]
    atoms.set_constraint(FixAtoms([0, 9]))
    atoms.calc = EMT()
    return atoms


def test_a_relaxation_is_judged_by_the_forces_that_the_constraints_leave():
    result = relax(strained(), fmax=0.05, steps=200)
    assert result.converged
    assert result.failure is None
    assert result.largest_force <= 0.05
    assert np.abs(result.atoms.get_forces(apply_constraint=False)[0]).max() > 0.06
    np.testing.assert_array_equal(result.atoms.positions[0], strained().positions[0])


@pytest.mark.parametrize("constraint", [FixAtoms([0]), Hookean(0, 1, 5.0, 2.0)])
def test_static_checks_look_at_the_bare_potential(constraint):
    """Derivatives of all atoms: those that are held still have forces, and springs are not its."""
    free, held = strained(), strained()
    free.set_constraint()
    held.set_constraint(constraint)
    first, second = (run_static(atoms, [Work()])[0].check for atoms in (free, held))
    assert first.status == second.status == "passed"
    assert first.worst == pytest.approx(second.worst, rel=1e-6)
    held.calc = Doubled()
    assert run_static(held, [Work()])[0].check.status == "failed"


class Doubled(EMT):
    """Wrong on atom 0 alone, which is the one that is held."""

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        self.results["forces"][0] *= 2.0


def test_a_calibrated_check_says_its_own_limits():
    near = Atoms("H2", [[0, 0, 0], [0, 0, 0.35]])  # 0.56 of the radii
    contact, usual = ContactCheck(), ContactCheck()
    Calibration.of([near]).apply([contact])
    told = {"warns below 0.508, fails below 0.452": contact, "below 0.6, fails below 0.5": usual}
    for words, check in told.items():
        check.start(near, SimpleNamespace(temperature=300))
        record = check.result().to_dict()
        assert words in record["definition"]
        assert f"{record['warn_at']:.3g}" in record["definition"]


def test_a_calibration_without_forces_says_so(tmp_path):
    atoms = molecule("H2O")
    atoms.arrays["REF_forces"] = np.ones((3, 3))
    write(tmp_path / "a.xyz", atoms)
    with pytest.warns(UserWarning, match=r"a\.xyz: no frame has 'forces', but REF_forces"):
        assert Calibration.from_file(tmp_path / "a.xyz").largest_force is None
