"""Constraints in MD: right with every thermostat, by measure, or refused before the first step."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT
from ase.constraints import (
    ExternalForce,
    FixAtoms,
    FixBondLength,
    FixBondLengths,
    FixCartesian,
    FixCartesianParametricRelations,
    FixCom,
    FixConstraint,
    FixedLine,
    FixedMode,
    FixedPlane,
    FixInternals,
    FixLinearTriatomic,
    FixScaled,
    FixSubsetCom,
    Hookean,
    MirrorForce,
    MirrorTorque,
)
from toys import Springs, ethanol, mirror

from ase_ws.errors import UserError
from ase_ws.md import degrees_of_freedom, draw_velocities, run_md

THERMOSTATS = ("nve", "bussi", "langevin", "nose-hoover")


def slab():
    """Twelve atoms of four elements, so that masses count."""
    atoms = fcc111("Cu", (2, 2, 3), vacuum=6)
    atoms.pbc = (True, True, False)
    atoms.numbers[[5, 9, 10]] = [79, 47, 13]
    return atoms


def skewed():
    """A primitive cell, whose vectors are far from orthogonal."""
    atoms = bulk("Cu") * 2
    atoms.numbers[[1, 4]] = [79, 13]
    return atoms


def with_co2():
    atoms = slab()
    molecule = Atoms("OCO", [[0, 0, 1.16], [0, 0, 0], [0, 0, -1.2]])
    molecule.rotate(40, "x")
    molecule.translate(atoms.positions[9] + [0.5, 0.8, 4.5])
    return atoms + molecule


MODE = np.random.default_rng(1).standard_normal((12, 3))
#: name: structure, constraints, degrees of freedom, what must not change
CASES = {
    "FixAtoms": (slab, lambda a: [FixAtoms(range(4))], 24, lambda a: a.positions[:4]),
    "FixAtoms, overlapping": (
        slab,
        lambda a: [FixAtoms([0, 1]), FixAtoms([1, 2]), FixedLine([2], (0, 0, 1))],
        27,
        lambda a: a.positions[:3],
    ),
    "FixCartesian": (
        slab,
        lambda a: [FixCartesian([0, 1], (True, False, True)), FixCartesian([5], (0, 1, 0))],
        31,
        lambda a: np.array([*a.positions[:2, 0], *a.positions[:2, 2], a.positions[5, 1]]),
    ),
    # Along the line nothing holds the whole.
    "FixedLine": (
        slab,
        lambda a: [FixedLine([0, 5], (1, 2, 1))],
        31,
        lambda a: a.positions[[0, 5]] @ [[1, 1], [-1, 0], [1, -1]],
    ),
    "FixedPlane": (
        slab,
        lambda a: [FixedPlane([0, 5, 6], (1, 2, 1))],
        31,
        lambda a: a.positions[[0, 5, 6]] @ [1, 2, 1],
    ),
    # In the plane nothing holds the whole.
    "FixedPlane of all": (
        slab, lambda a: [FixedPlane(range(12), (0, 0, 1))], 22, lambda a: a.positions[:, 2],
    ),
    "FixScaled": (
        skewed,
        lambda a: [FixScaled([1], (1, 0, 0)), FixScaled([2], (1, 0, 1)), FixScaled([3])],
        18,
        lambda a: a.cell.scaled_positions(a.positions)[[1, 2, 2, 3, 3, 3], [0, 0, 2, 0, 1, 2]],
    ),
    "FixBondLengths": (
        slab,
        lambda a: [FixBondLengths([(0, 5), (8, 9), (9, 10)])],
        30,
        lambda a: np.array([a.get_distance(*p, mic=True) for p in ((0, 5), (8, 9), (9, 10))]),
    ),
    "FixLinearTriatomic": (
        with_co2,
        lambda a: [FixLinearTriatomic([(12, 13, 14)])],
        38,
        lambda a: np.array([a.get_distance(12, 13), a.get_distance(13, 14),
                            np.cos(np.radians(a.get_angle(12, 13, 14)))]),
    ),
    "FixInternals": (
        slab,
        lambda a: [FixInternals(bonds=[[None, [0, 5]]], angles_deg=[[None, [8, 9, 5]]])],
        31,
        lambda a: np.array([a.get_distance(0, 5), np.radians(a.get_angle(8, 9, 5))]),
    ),
    "FixCom": (slab, lambda a: [FixCom()], 33, lambda a: a.get_center_of_mass()),
    "FixSubsetCom": (
        slab, lambda a: [FixSubsetCom([0, 5, 9])], 33,
        lambda a: a.get_center_of_mass(indices=[0, 5, 9]),
    ),
    "FixedMode": (
        slab, lambda a: [FixedMode(MODE)], 33, lambda a: np.array([np.sum(MODE * a.positions)]),
    ),
    "FixSymmetry": (
        lambda: bulk("Cu", cubic=True) * (2, 2, 1), lambda a: [mirror()], 30,
        lambda a: a.positions[:, 2],
    ),
    # These hold nothing, they pull: between two atoms, so that the whole rests, or from a place.
    "Hookean, two atoms": (slab, lambda a: [Hookean(0, 9, k=2.0, rt=4.0)], 33, None),
    "Hookean, a point": (
        slab, lambda a: [Hookean(9, a.positions[9] + [1.0, 0, 0], k=1.0, rt=0.2)], 36, None,
    ),
    "Hookean, a plane": (
        slab, lambda a: [Hookean(9, (0, 0, 1, 0.5 - a.positions[9, 2]), k=1.0)], 36, None,
    ),
    "ExternalForce": (slab, lambda a: [ExternalForce(0, 9, 0.2)], 33, None),
    "two apart": (
        slab, lambda a: [FixAtoms(range(4)), FixBondLength(9, 10)], 23,
        lambda a: np.array([*a.positions[:4, 0], a.get_distance(9, 10, mic=True)]),
    ),
}  # fmt: skip


def case(name):
    make, constraints, n_dof, held = CASES[name]
    atoms = make()
    atoms.set_constraint(constraints(atoms))
    return atoms, n_dof, held


def run(atoms, thermostat, steps=120, **options):
    ensemble = "nve" if thermostat == "nve" else "nvt"
    bath = {} if thermostat == "nve" else {"thermostat": thermostat, "thermostat_time": 30.0}
    return run_md(
        atoms, EMT(), ensemble=ensemble, temperature=300, steps=steps, timestep=2.0, interval=2,
        seed=1, **bath, **options,
    )  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_degrees_of_freedom_and_velocities(name):
    atoms, n_dof, _ = case(name)
    assert degrees_of_freedom(atoms) == n_dof
    draw_velocities(atoms, 300.0, np.random.default_rng(0))
    assert 2 * atoms.get_kinetic_energy() == pytest.approx(n_dof * 300 * 8.617333e-5, rel=1e-6)


@pytest.mark.parametrize(
    ("constraint", "expected"),
    [
        # What is held within a molecule leaves its six ways to move as a whole, which rest.
        (FixBondLengths([(0, 1), (1, -1)]), 27 - 6 - 2),
        (FixInternals(angles_deg=[[None, [0, 1, 2]]]), 27 - 6 - 1),
        (ExternalForce(0, 2, 0.1), 27 - 6),
        (Hookean(0, 2, rt=1.0, k=1.0), 27 - 6),
        (FixCom(), 27 - 3),
        (FixAtoms([]), 27 - 6),
        (FixAtoms([0]), 27 - 3),
        (Hookean(0, (0.0, 0.0, 0.0), rt=1.0, k=1.0), 27),
    ],
    ids=lambda value: type(value).__name__,
)
def test_degrees_of_freedom_of_a_molecule(constraint, expected):
    atoms = ethanol()
    atoms.set_constraint(constraint)
    assert degrees_of_freedom(atoms) == expected


@pytest.mark.parametrize(
    ("beside", "expected"),
    [
        ([], 33),
        ([FixCom()], 33),
        ([FixBondLengths([(0, 5), (8, 9)])], 31),
        ([FixCartesian(range(12), (True, False, False))], 22),
        ([FixedMode(np.eye(12, 3) - np.eye(12, 3, -3))], 32),
        ([Hookean(0, 9, k=2.0, rt=4.0)], 33),
        ([Hookean(9, (0.0, 0.0, 0.0), k=1.0)], 33),
    ],
)
def test_a_centre_of_mass_that_is_fixed(beside, expected):
    """It takes three degrees of freedom, or what others leave of them: counted, not measured."""
    atoms = slab()
    atoms.set_constraint([FixCom(), *beside])
    assert degrees_of_freedom(atoms) == expected


def test_a_centre_of_mass_that_is_fixed_beside_a_symmetry():
    """A mirror plane holds its motion in one direction already."""
    atoms, n_dof, _ = case("FixSymmetry")
    atoms.set_constraint([FixCom(), *atoms.constraints])
    assert degrees_of_freedom(atoms) == n_dof


def test_counting_takes_no_longer_for_more_atoms(monkeypatch):
    asked = []
    adjust = FixCom.adjust_momenta
    monkeypatch.setattr(FixCom, "adjust_momenta", lambda *args: asked.append(0) or adjust(*args))
    atoms = bulk("Cu", cubic=True) * (4, 4, 4)
    atoms.set_constraint(FixCom())
    assert degrees_of_freedom(atoms) == 3 * len(atoms) - 3
    assert len(asked) < 30


@pytest.mark.parametrize("thermostat", THERMOSTATS)
def test_a_molecule_with_rigid_bonds_rests(thermostat):
    atoms = ethanol()
    atoms.set_constraint(FixBondLengths([(0, 1), (1, 2), (2, 3)]))
    options = {"ensemble": "nve"} if thermostat == "nve" else {"thermostat": thermostat}
    result = run_md(atoms, Springs(ethanol()), temperature=300, steps=300, seed=1, **options)
    assert abs(result.atoms.get_momenta().sum(axis=0)).max() < 1e-9
    assert abs(result.atoms.get_angular_momentum()).max() < (0.05 if thermostat != "bussi" else 0.1)
    assert np.ptp(result.traces["conserved_ev_per_atom"]) < 3e-4


@pytest.mark.parametrize("thermostat", THERMOSTATS)
@pytest.mark.parametrize("name", CASES)
def test_right_with_each_thermostat(name, thermostat):
    atoms, n_dof, held = case(name)
    result = run(atoms, thermostat)
    assert result.stopped_by is None
    assert result.context.n_dof == n_dof
    # Without a fault these are below 0.1 meV/atom; a momentum that a constraint does not know of,
    # or an energy that is not counted, makes them ten times as large and more.
    assert np.ptp(result.traces["conserved_ev_per_atom"]) < 2.5e-4
    if thermostat != "nve":
        # Few steps: the standard error is some 10 %. A chain that counts 3N gives a third less.
        assert result.traces["temperature_k"][20:].mean() == pytest.approx(300, rel=0.3)
    if held is not None:
        np.testing.assert_allclose(held(result.atoms), held(atoms), atol=1e-6)
    if n_dof == 33 and name.startswith(("Hookean", "External")):
        assert abs(result.atoms.get_momenta().sum(axis=0)).max() < 1e-9
    # The caller's own are given back, not what MD made of them.
    assert [type(c) for c in result.atoms.constraints] == [type(c) for c in atoms.constraints]


def test_nose_hoover_of_a_slab_has_the_temperature():
    """ASE's chain drives 2K to 3N k_B T, whatever is fixed: 172 K here."""
    atoms, _, _ = case("FixAtoms")
    mean = run(atoms, "nose-hoover", steps=1500).traces["temperature_k"][100:].mean()
    assert mean == pytest.approx(300, rel=0.08)


def test_a_triatomic_across_the_boundary_stays_whole():
    atoms = with_co2()
    atoms.pbc = True
    atoms.positions[12:] += atoms.cell[0] * 0.9 - atoms.positions[13] * [1, 0, 0]
    atoms.wrap()
    atoms.set_constraint(FixLinearTriatomic([(12, 13, 14)]))
    result = run(atoms, "nve")
    assert np.ptp(result.traces["conserved_ev_per_atom"]) < 2.5e-4
    assert result.atoms.get_distance(12, 14, mic=True) == pytest.approx(2.36, abs=1e-9)


def test_energies_of_frames_are_the_potentials_own(tmp_path):
    """What a spring adds is in the conserved quantity, and no label."""
    from ase.io import read

    atoms, _, _ = case("Hookean, a point")
    result = run(atoms, "nve", steps=4, out=tmp_path)
    frame = read(tmp_path / "trajectory.extxyz", -1)
    bare = result.atoms.copy()
    bare.set_constraint()
    bare.calc = EMT()
    assert frame.get_potential_energy() == pytest.approx(bare.get_potential_energy(), abs=1e-6)
    trace = result.traces["potential_ev_per_atom"]
    assert 12 * trace[-1] == pytest.approx(bare.get_potential_energy())


# ---------------------------------------------------------------- refused


class Uncalled(EMT):
    def calculate(self, *args, **kwargs):
        raise AssertionError("asked before the constraints were looked at")


class Lopsided(FixConstraint):
    """One of a user's own: takes off a part of every momentum, and holds no positions."""

    def adjust_momenta(self, atoms, momenta):
        momenta[0] *= 0.5


REFUSED = {
    "MirrorForce": (lambda a: [MirrorForce(0, 9)], "MirrorForce"),
    "MirrorTorque": (lambda a: [MirrorTorque(0, 5, 9, 10)], "MirrorTorque"),
    "parametric": (
        lambda a: [FixCartesianParametricRelations([0], np.eye(3)[:, :1], np.zeros(3))],
        "FixCartesianParametricRelations",
    ),
    "on the same atoms": (
        lambda a: [FixAtoms(range(4)), FixBondLength(0, 9)],
        "FixAtoms and FixBondLengths: act on the same atoms",
    ),
    "not as the start is": (
        lambda a: [FixBondLengths([(0, 9)], bondlengths=[9.0])], "FixBondLengths: the start viol",
    ),
    "not on a line": (lambda a: [FixLinearTriatomic([(0, 5, 2)])], "the start violates"),
    "straight angle": (
        lambda a: [FixInternals(angles_deg=[[180.0, [0, 1, 2]]])], "FixInternals: cannot be appl",
    ),
    "atoms that are not there": (lambda a: [FixAtoms([40])], "FixAtoms: cannot be applied"),
    "of one's own": (lambda a: [Lopsided()], "Lopsided: does not project"),
    "all": (lambda a: [FixAtoms(range(12))], "degree of freedom"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_the_first_step(name, tmp_path):
    make, message = REFUSED[name]
    atoms = slab()
    atoms.set_constraint(make(atoms))
    with pytest.raises(UserError, match=message) as caught:
        run_md(atoms, Uncalled(), temperature=300, steps=5, out=tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_constraint_that_gives_up_is_no_failure_of_the_potential():
    class Tight(FixBondLengths):
        calls = 0

        def adjust_positions(self, atoms, new):
            Tight.calls += 1
            if Tight.calls > 30:
                raise RuntimeError("Did not converge")
            super().adjust_positions(atoms, new)

    atoms = slab()
    atoms.set_constraint(Tight([(0, 5)]))
    result = run(atoms, "bussi")
    assert result.stopped_by is not None
    assert result.stopped_by.check == "constraints"
    assert "Tight" in result.stopped_by.message
    assert len(result.last_frames) == 2


def test_one_fixcartesian_for_each_atom_is_one_for_all():
    """That is how extended XYZ is read; each would cost time in every step."""
    from ase_ws.md.constraints import with_md_constraints

    atoms = ethanol()
    atoms.set_constraint([FixCartesian(k, (k % 2, 0, 0)) for k in range(9)])
    (joined,) = with_md_constraints(atoms).constraints
    assert joined.index.tolist() == [1, 3, 5, 7]
    assert degrees_of_freedom(atoms) == 23 - 2
