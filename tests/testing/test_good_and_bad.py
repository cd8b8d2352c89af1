"""Known-good calculators are right, and each bad one is wrong in its one way only."""

import importlib.util
import sys

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import CalculationFailed
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet

from ase_ws.errors import UserError
from ase_ws.testing import bad, good

needs_tblite = pytest.mark.skipif(
    importlib.util.find_spec("tblite") is None, reason="tblite is not installed"
)


def with_calculator(atoms, calculator, rattle=0.05):
    atoms = atoms.copy()
    atoms.rattle(rattle, seed=3)
    atoms.calc = calculator
    return atoms


def force_error(atoms, indices=(0, 1)):
    """Largest difference of the forces on a few atoms from central differences, eV/Å."""
    numerical = calculate_numerical_forces(atoms, eps=1e-4, iatoms=list(indices))
    return np.abs(atoms.get_forces()[list(indices)] - numerical).max()


def copper():
    return with_calculator(bulk("Cu", cubic=True), good.emt())


def argon():
    return with_calculator(bulk("Ar", a=5.26, cubic=True), good.lennard_jones())


def nitrogen():
    return with_calculator(Atoms("N2", [[0, 0, 0], [0, 0, 1.1]]), good.morse(), 0.01)


SILICON = bulk("Si", cubic=True)
GOOD = {
    "emt": copper,
    "lennard_jones": argon,
    "morse": nitrogen,
    "stillinger_weber": lambda: with_calculator(SILICON, good.stillinger_weber()),
    "tersoff": lambda: with_calculator(bulk("SiC", "zincblende", a=4.32), good.tersoff()),
    "base_model": lambda: with_calculator(molecule("CH3OH"), good.base_model("float64")),
    "gfn2_xtb": lambda: with_calculator(molecule("H2O"), good.gfn2_xtb()),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=needs_tblite) if n == "gfn2_xtb" else n for n in GOOD]
)
def test_forces_of_the_good_are_the_gradient(name):
    atoms = GOOD[name]()
    assert np.abs(atoms.get_forces()).max() > 0.01
    assert force_error(atoms) < 2e-5
    if atoms.pbc.all():
        assert np.abs(atoms.get_stress() - calculate_numerical_stress(atoms)).max() < 1e-7


def test_without_tblite_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tblite.ase", None)
    with pytest.raises(UserError, match=r"ase-ws\[reference\]"):
        good.gfn2_xtb()


CONSERVATIVE = {
    "Hole": lambda base: bad.Hole(base, 2.8, depth=40.0),
    "CutoffJump": lambda base: bad.CutoffJump(base, 3.3, 0.05),
    "SpuriousMinimum": lambda base: bad.SpuriousMinimum(base, 2.5, 1.0, 0.15),
    "WrongSignPair": lambda base: bad.WrongSignPair(base, 200.0),
    "ExternalField": lambda base: bad.ExternalField(base, 0.2),
}


@pytest.mark.parametrize("name", CONSERVATIVE)
def test_forces_and_stress_are_right_where_they_are_not_the_fault(name):
    atoms = copper()
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    atoms.calc = CONSERVATIVE[name](good.emt())
    assert abs(atoms.get_potential_energy() - energy) > 0.01
    assert np.abs(atoms.get_forces() - forces).max() > 0.01
    assert force_error(atoms) < 1e-5
    if name != "ExternalField":  # it has no stress: the energy depends on the origin
        assert np.abs(atoms.get_stress() - calculate_numerical_stress(atoms)).max() < 1e-7


@pytest.mark.parametrize(
    "fault",
    [
        bad.Curl,
        bad.ScaledForces,
        bad.WrongSign,
        lambda base: bad.ForceNoise(base, 0.1),
        lambda base: bad.EnergyNoise(base, 0.01),
        lambda base: bad.StaleResults(base, 0.02),
        bad.HalfPrecision,
    ],
)
def test_other_forces_are_not_the_gradient_and_do_not_say_so(fault):
    atoms = copper()
    assert force_error(atoms) < 1e-6
    atoms.calc = fault(good.emt())
    assert force_error(atoms) > 0.01
    assert getattr(atoms.calc, "conservative", True)


def test_a_hole_pulls_below_its_rim_only():
    def force(r, calculator):
        pair = Atoms("Ar2", [[0, 0, 0], [0, 0, r]], calculator=calculator)
        return pair.get_forces()[1, 2]

    plain, hole = good.lennard_jones(), bad.Hole(good.lennard_jones(), 3.2)
    assert force(3.3, hole) == pytest.approx(force(3.3, plain))
    assert force(2.9, plain) > 0 > force(2.9, hole)


def test_only_the_elements_asked_for():
    water = molecule("H2O")
    for elements, changes in ((("O", "H"), True), (("H", "H"), False)):
        water.calc = bad.Hole(good.emt(), 1.2, elements=elements)
        before = with_calculator(water, good.emt(), 0).get_potential_energy()
        assert (abs(water.get_potential_energy() - before) > 0.1) == changes


def test_steps_and_cutoffs_jump_by_what_they_say():
    def energy(calculator, r):
        pair = Atoms("Ar2", [[0, 0, 0], [0, 0, r]], calculator=calculator)
        return pair.get_potential_energy(), pair.get_forces()

    for fault, sign in ((bad.EnergyStep, 1), (bad.CutoffJump, -1)):
        calculator = fault(good.lennard_jones(), 4.0, 0.03)
        inside, outside = energy(calculator, 4.0 - 1e-6), energy(calculator, 4.0 + 1e-6)
        assert inside[0] - outside[0] == pytest.approx(sign * 0.03, abs=1e-6)
    step = bad.EnergyStep(good.lennard_jones(), 4.0, 0.03)
    assert np.array_equal(energy(step, 3.9)[1], energy(good.lennard_jones(), 3.9)[1])


def test_nan_and_exceptions_come_beyond_the_distance_only():
    near, far = 1.2, 1.4
    for r in (near, far):
        pair = Atoms("N2", [[0, 0, 0], [0, 0, r]])
        pair.calc = bad.NaNBeyond(good.morse(), 1.3)
        assert np.isnan(pair.get_potential_energy()) == (r == far)
        assert np.isnan(pair.get_forces()).all() == (r == far)
    pair.calc = bad.RaisesBeyond(good.morse(), 1.3)
    with pytest.raises(CalculationFailed, match=r"1\.3"):
        pair.get_potential_energy()
    pair.positions[1, 2] = near
    assert np.isfinite(pair.get_potential_energy())


def test_a_curl_has_no_net_force():
    atoms = copper()
    atoms.calc = bad.Curl(good.emt(), axis=(0.1, 0.2, 0.3))
    assert np.abs(atoms.get_forces().sum(axis=0)).max() < 1e-12


def test_scaled_forces_and_stress():
    atoms = copper()
    forces, stress = atoms.get_forces(), atoms.get_stress()
    atoms.calc = bad.ScaledForces(good.emt())
    assert atoms.get_forces() == pytest.approx(forces / 51.42, rel=1e-4)
    assert atoms.get_stress() == pytest.approx(stress)
    atoms.calc = bad.WrongSign(good.emt())
    assert atoms.get_forces() == pytest.approx(-forces)
    atoms.calc = bad.ScaledStress(good.emt())
    assert atoms.get_stress() == pytest.approx(-stress)
    assert atoms.get_forces() == pytest.approx(forces)


def kinetic_growth(calculator, atoms, fs=100, timestep=1.0):
    """Energy E + K gained in NVE, as a fraction of the kinetic energy at the start."""
    atoms = atoms.copy()
    atoms.calc = calculator
    MaxwellBoltzmannDistribution(atoms, temperature_K=300, rng=np.random.default_rng(0))
    start = atoms.get_kinetic_energy()
    before = atoms.get_total_energy()
    VelocityVerlet(atoms, timestep * units.fs).run(int(fs / timestep))
    return (atoms.get_total_energy() - before) / start


def test_heating_is_what_the_docstrings_say():
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    assert abs(kinetic_growth(good.emt(), atoms)) < 1e-3
    # The gain is the integral of 2 γ K: between half and all of 2 γ t K(0), as K falls to half.
    slow = kinetic_growth(bad.SlowHeating(good.emt(), 0.5), atoms)
    assert 0.5 < slow / (2 * 0.5 * 0.1) < 1.05
    stale = kinetic_growth(bad.StaleResults(good.emt(), 0.05), atoms)
    assert abs(stale) > 0.01
    # A free particle: 3 σ² Δt/(2 m) per time, within the scatter of 200 kicks on 8 atoms.
    nothing = bad.ScaledForces(good.emt(), 0.0)
    gain = [_after_kicks(atoms, bad.ForceNoise(nothing, 0.5, seed)) for seed in range(4)]
    mass = atoms.get_masses()[0]
    expected = 1.5 * 0.5**2 * (1.0 * units.fs) * (100 * units.fs) / mass * len(atoms)
    assert np.mean(gain) == pytest.approx(expected, rel=0.3)


def _after_kicks(atoms, calculator):
    """Kinetic energy after 100 steps from rest under noise alone."""
    still = atoms.copy()
    still.calc = calculator
    VelocityVerlet(still, 1.0 * units.fs).run(100)
    return still.get_kinetic_energy()


def test_an_external_field_depends_on_the_place():
    near, far = copper(), copper()
    far.positions += 5.0
    assert near.get_potential_energy() == pytest.approx(far.get_potential_energy())
    for atoms in (near, far):
        atoms.calc = bad.ExternalField(good.emt(), 0.1)
    assert far.get_potential_energy() - near.get_potential_energy() > 1.0


def test_stale_results_are_renewed_beyond_the_tolerance():
    atoms = copper()
    atoms.calc = bad.StaleResults(good.emt(), 0.02)
    first = atoms.get_forces()
    atoms.positions[0, 0] += 0.015
    assert np.array_equal(atoms.get_forces(), first)
    atoms.positions[0, 0] += 0.015
    assert not np.array_equal(atoms.get_forces(), first)
    strained = atoms.copy()
    strained.calc = atoms.calc
    before = strained.get_stress()
    strained.set_cell(1.001 * strained.cell.array)
    assert not np.array_equal(strained.get_stress(), before)


def test_float16_is_good_in_float64():
    atoms = copper()
    right = atoms.get_forces()
    atoms.calc = bad.HalfPrecision(good.emt())
    forces = atoms.get_forces()
    assert np.array_equal(forces, forces.astype(np.float16).astype(float))
    assert 1e-3 < np.abs(forces - right).max() < 0.5
    atoms.calc = atoms.calc.in_float64()
    assert np.array_equal(atoms.get_forces(), right)


def test_two_atoms_on_top_of_each_other():
    atoms = bulk("Cu", cubic=True)
    crowded = bad.on_top(atoms, 2, distance=0.1)
    assert len(crowded) == len(atoms) + 1
    assert crowded.get_distance(2, 4) == pytest.approx(0.1)
    assert bad.on_top(atoms, 0, symbol="H").symbols[-1] == "H"
    with pytest.raises(UserError, match="no atom 7"):
        bad.on_top(atoms, 7)


def test_verlet_explodes_above_its_limit_and_not_below():
    pair = Atoms("N2", [[0, 0, 0], [0, 0, 1.098]])
    # ω² = k/μ with k = 2 D a² and μ = m/2.
    omega = np.sqrt(2 * 9.9 * 2.69**2 / (0.5 * pair.get_masses()[0]))
    limit = bad.verlet_limit(2 * np.pi / omega / units.fs)
    swings = {}
    for factor in (0.9, 1.1):
        atoms = pair.copy()
        atoms.calc = good.morse()
        atoms.positions[1, 2] += 0.001
        VelocityVerlet(atoms, factor * limit * units.fs).run(60)
        swings[factor] = abs(atoms.get_distance(0, 1) - 1.098)
    assert swings[0.9] < 0.01 < swings[1.1]
