"""Trajectories that exist already: what the checks see in them, and what they cannot see."""

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixCom, FixInternals
from shared_data import shared_file
from toys import Springs, ethanol, mirror

from ase_ws.errors import UserError
from ase_ws.md import RunContext, run_md
from ase_ws.stability import RDFCheck, RDFReference, check_trajectory
from ase_ws.stability.checks.rdf import radial_distribution
from ase_ws.stability.trajectory import Moves


def bare(frames):
    return [Atoms(f.numbers, f.positions, cell=f.cell, pbc=f.pbc) for f in frames]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the package itself, read back."""
    out = tmp_path_factory.mktemp("run")
    run_md(ethanol(), Springs(ethanol()), ensemble="nve", temperature=300, steps=2400, out=out)
    return ase.io.read(out / "trajectory.extxyz", ":")


def test_a_run_of_our_own_says_everything_itself(run):
    report = check_trajectory(run, ensemble="nve")
    assert report.verdict == "stable", report.summary()
    assert report.total_ps == pytest.approx(1.2)
    status = {check.name: check.status for check in report.checks}
    assert status["drift"] == status["force"] == status["temperature"] == "passed"
    assert 100 < report.settings["temperatures"][0] < 300  # half of it went into the potential


def test_what_is_not_in_the_file_does_not_apply(run):
    report = check_trajectory(bare(run), frame_interval=5, temperature=300)
    assert report.verdict == "stable", report.summary()
    notes = {check.name: (check.status, check.note) for check in report.checks}
    assert notes["force"] == ("does not apply", "the trajectory does not hold forces")
    assert notes["drift"][0] == notes["energy"][0] == notes["temperature"][0] == "does not apply"
    assert notes["bond"][0] == "passed"
    again = check_trajectory(bare(run), Springs(ethanol()), frame_interval=5, temperature=300)
    assert {c.name: c.status for c in again.checks}["force"] == "passed"


def test_a_broken_bond_is_found_with_its_atoms_and_time(run):
    frames = bare(run)
    for k, frame in enumerate(frames[100:]):
        frame.positions[8] += [0.0, 0.0, 0.02 * k]
    report = check_trajectory(frames, frame_interval=5, temperature=300)
    assert report.verdict == "unstable"
    failure = report.first_failure
    assert failure.check == "bond"
    assert 8 in failure.atoms
    assert 500 + 5 * 25 <= failure.time <= 500 + 5 * 60
    assert report.failing_frame.marked == failure.atoms


@pytest.mark.parametrize("what", ["positions", "energy", "forces", "momenta"])
def test_nan_fails(run, what):
    frames = [frame.copy() for frame in run]
    for frame, held in zip(frames, run, strict=True):
        energy, forces = held.get_potential_energy(), held.get_forces().copy()
        if frame is frames[50]:
            energy = np.nan if what == "energy" else energy
            if what == "forces":
                forces[3] = np.nan
            if what in ("positions", "momenta"):
                frame.arrays[what][3] = np.nan
        frame.calc = SinglePointCalculator(frame, energy=energy, forces=forces)
    report = check_trajectory(frames)
    assert report.verdict == "unstable"
    assert report.first_failure.check == "finite"
    assert report.first_failure.time == pytest.approx(250)


def test_wrapped_frames_are_followed_over_the_boundary():
    copper = bulk("Cu", cubic=True)
    copper.rattle(0.05, seed=1)
    result = run_md(copper, EMT(), temperature=900, steps=1, timestep=2)
    frames = [result.atoms.copy() for _ in range(100)]
    for k, frame in enumerate(frames):
        frame.positions += [0.05 * k, 0.0, 0.0]
        frame.wrap()
    unwrapped = check_trajectory(bare(frames), frame_interval=10, temperature=900)
    assert not unwrapped.failures
    quartz = Atoms("SiO", positions=[[0.2, 2, 2], [1.8, 2, 2]], cell=[4, 4, 4], pbc=True)
    moved = []
    for k in range(80):
        moved.append(quartz.copy())
        moved[-1].positions += [0.1 * k, 0, 0]
        moved[-1].wrap()
    report = check_trajectory(moved, frame_interval=10, temperature=300)
    assert not report.failures, report.summary()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "time between"),
        ({"frame_interval": 5}, "temperature"),
        ({"frame_interval": -5, "temperature": 300}, "positive"),
        (
            {"frame_interval": 5, "temperature": np.nan},
            "temperature: Input should be a finite number ",
        ),
    ],
)
def test_what_must_be_said(run, change, message):
    with pytest.raises(UserError, match=message):
        check_trajectory(bare(run), **change)


def test_one_frame_or_other_atoms(run):
    with pytest.raises(UserError, match="at least two"):
        check_trajectory(run[:1])
    with pytest.raises(UserError, match="frame 1 of the trajectory has other atoms"):
        check_trajectory([run[0], molecule("CH4")], frame_interval=5, temperature=300)


# ---------------------------------------------------------------- physics is no failure


def test_a_proton_transfer_is_logged_and_passes():
    path = ase.io.read(shared_file("acac/test_H_transfer.xyz"), ":")
    report = check_trajectory(bare(path), frame_interval=10, temperature=300)
    assert not report.failures, report.summary()


def test_a_methyl_rotation_passes():
    atoms = molecule("CH3CH2OH")
    frames = []
    for angle in range(0, 361, 5):
        turned = atoms.copy()
        methyl = [i for i in range(9) if atoms.get_distance(0, i) > atoms.get_distance(1, i)]
        turned.rotate(angle, atoms.positions[1] - atoms.positions[0], center=atoms.positions[0])
        turned.positions[[i for i in range(9) if i not in methyl]] = atoms.positions[
            [i for i in range(9) if i not in methyl]
        ]
        frames.append(turned)
    report = check_trajectory(frames, frame_interval=10, temperature=300)
    assert not report.failures, report.summary()


@pytest.mark.parametrize("name", ["test_MD_300K", "test_MD_600K", "test_dihedral"])
def test_reference_dynamics_pass(name):
    frames = bare(ase.io.read(shared_file(f"acac/{name}.xyz"), ":100"))
    report = check_trajectory(frames, frame_interval=10, temperature=600)
    assert not report.failures, report.summary()


# ---------------------------------------------------------------- radial distribution


def test_the_rdf_of_an_ideal_gas_is_one():
    rng = np.random.default_rng(0)
    gas = Atoms("Ar800", positions=rng.random((800, 3)) * 20, cell=[20] * 3, pbc=True)
    g = radial_distribution(gas, 6.0, 0.5)["Ar-Ar"]
    assert abs(g[4:] - 1).max() < 0.1


def crystal(amplitude, n, seed=0):
    rng = np.random.default_rng(seed)
    atoms = bulk("Cu", cubic=True) * 3
    frames = []
    for _ in range(n):
        frames.append(atoms.copy())
        frames[-1].positions += amplitude * rng.standard_normal((len(atoms), 3))
    return frames


def test_the_rdf_check_tells_a_melt_from_a_warm_crystal():
    reference = RDFReference.of(crystal(0.1, 30))
    check = RDFCheck(reference=reference)
    settings = {"frame_interval": 40, "temperature": 300, "checks": [check]}
    assert not check_trajectory(crystal(0.1, 60, seed=1), **settings).failures
    report = check_trajectory(crystal(0.1, 30, seed=1) + crystal(0.5, 40), **settings)
    assert report.first_failure.check == "rdf"
    with pytest.raises(UserError, match="reference is for Cu-Cu"):
        check_trajectory([bulk("Al", cubic=True)] * 3, **settings)
    with pytest.raises(UserError, match="periodic"):
        RDFReference.of([molecule("H2O")])


@pytest.mark.parametrize(
    ("constraint", "n_dof"),
    [
        (lambda a: FixInternals(bonds=[[a.get_distance(0, 1) + 0.017, [0, 1]]]), 27 - 6 - 1),
        (lambda a: [FixCom(), FixAtoms([0])], 27 - 3 - 3),
    ],
)
def test_constraints_of_a_finished_trajectory_are_only_counted(run, constraint, n_dof):
    """Whoever ran it may have kept them to a tolerance of their own, or in another order."""
    held = constraint(run[0])
    frames = [frame.copy() for frame in run]
    for frame in frames:
        frame.set_constraint(held)
    moves = Moves.of(frames, None, None)
    assert moves.freedom() == n_dof
    report = check_trajectory(frames, Springs(ethanol()))
    assert report.verdict == "stable", report.summary()


def test_constraints_that_cannot_be_applied_to_the_frames(run):
    frames = [frame.copy() for frame in run]
    frames[0].set_constraint(FixInternals(dihedrals_deg=[[None, [0, 1, 2, 77]]]))
    with pytest.raises(UserError, match="constraints of the first frame cannot be applied"):
        check_trajectory(frames)


def test_the_cells_of_the_frames_are_taken_as_they_are():
    """FixSymmetry, which ASE asks for each new cell, would make another one of it."""
    atoms = bulk("Cu", cubic=True) * (2, 2, 1)
    frames = []
    for shear in (0.0, 0.05, 0.1):
        frame = atoms.copy()
        frame.set_cell(atoms.cell.array + shear * np.eye(3, k=1), scale_atoms=True)
        frame.set_constraint(mirror())
        frames.append(frame)
    moves = Moves.of(frames, None, 1.0)
    context = RunContext("npt", 300.0, 1.0, 2, moves.freedom())
    for frame, snapshot in zip(frames, moves.snapshots(context), strict=True):
        assert np.allclose(snapshot.atoms.cell.array, frame.cell.array, atol=1e-12)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([0, 20, 40, 60, 61, 62], "frames 3 and 4 of the trajectory are 1 fs apart, most are 20"),
        ([0, 1, 2, 3, 4, 24, 44], "frames 4 and 5 of the trajectory are 20 fs apart, most are 1"),
        ([0, 10, 20, 30, 0, 10, 20], "frames 3 and 4 of the trajectory are -30 fs apart"),
        ([0, 10, 20, 20, 30], "frames 2 and 3 of the trajectory are 0 fs apart"),
        ([0, 10, float("nan"), 30], "apart"),
    ],
)
def test_uneven_times_are_not_taken_for_even_ones(times, message):
    frames = [ethanol() for _ in times]
    for frame, time in zip(frames, times, strict=True):
        frame.info["time_fs"] = float(time)
    with pytest.raises(UserError, match=message):
        check_trajectory(frames, temperature=300)
    # A run writes its last step wherever it falls.
    for frame, time in zip(frames[:4], (0.0, 10.0, 20.0, 25.0), strict=True):
        frame.info["time_fs"] = time
    check_trajectory(frames[:4], temperature=300)
