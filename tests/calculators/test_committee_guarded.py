"""Committees and guarded calculators."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import CalculatorError, CalculatorSetupError
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.optimize import BFGS

from ase_ws import CommitteeCalculator, GuardedCalculator, PotentialCalculator
from ase_ws.calculators import Violation, ViolationError, ViolationWarning
from ase_ws.md import run_md
from ase_ws.testing import Morse, tiny_mace


@pytest.fixture(scope="module")
def members():
    return [tiny_mace(e0=(-13.6, -1030.0, -2040.0), seed=seed) for seed in (0, 1, 2)]


# --- committee -------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [0, 2])
def test_mean_and_spread(members, side):
    """Small ones go through all members together, large ones through one after the other."""
    atoms = molecule("CH3OH")
    if side:
        atoms.set_cell([5.0] * 3)
        atoms.pbc = True
        atoms *= (side, side, side)
    atoms.rattle(0.1, seed=0)
    atoms.calc = CommitteeCalculator(members)
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    alone = []
    for potential in members:
        atoms_alone = atoms.copy()
        atoms_alone.calc = PotentialCalculator(potential)
        alone.append((atoms_alone.get_potential_energy(), atoms_alone.get_forces()))
    energies, all_forces = np.array([e for e, _ in alone]), np.array([f for _, f in alone])
    assert energy == pytest.approx(energies.mean(), abs=1e-10)
    np.testing.assert_allclose(forces, all_forces.mean(axis=0), atol=1e-12)
    spread = atoms.calc.get_property("forces_spread", atoms)
    by_hand = np.sqrt(all_forces.var(axis=0, ddof=1).sum(axis=1))
    np.testing.assert_allclose(spread, by_hand, atol=1e-12)
    assert atoms.calc.results["energy_spread"] == pytest.approx(energies.std(ddof=1), abs=1e-10)
    assert spread.min() > 1e-4


def test_equal_members_have_no_spread(members):
    atoms = molecule("CH3OH")
    atoms.calc = CommitteeCalculator([members[0], members[0]])
    assert atoms.calc.get_property("forces_spread", atoms).max() == 0
    assert atoms.calc.get_property("energy_spread", atoms) == 0


def test_stress_and_energies(members):
    atoms = bulk("C", cubic=True)
    atoms.calc = CommitteeCalculator(members)
    stresses = []
    for potential in members:
        alone = atoms.copy()
        alone.calc = PotentialCalculator(potential)
        stresses.append(alone.get_stress())
    np.testing.assert_allclose(atoms.get_stress(), np.mean(stresses, axis=0), atol=1e-12)
    assert atoms.get_potential_energies().sum() == pytest.approx(atoms.get_potential_energy())


def test_committees_that_make_no_sense(members):
    with pytest.raises(CalculatorSetupError, match="at least two"):
        CommitteeCalculator(members[:1])
    with pytest.raises(CalculatorSetupError, match="at least two"):
        CommitteeCalculator("model.safetensors")  # pyright: ignore[reportArgumentType]
    with pytest.raises(CalculatorSetupError, match="members 0 and 1 know other elements"):
        CommitteeCalculator([members[0], tiny_mace((14,))])


# --- guarded ---------------------------------------------------------------------------------


class Fixed(SinglePointCalculator):
    """Gives the same results whatever the atoms."""

    def __init__(self, **results):
        super().__init__(Atoms("H2"), **results)
        self.implemented_properties = list(results)

    def get_property(self, name, atoms=None, allow_calculation=True):
        return self.results[name]


def test_a_good_single_point_is_passed_on():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=1)
    plain = atoms.copy()
    plain.calc = EMT()
    atoms.calc = GuardedCalculator(EMT())
    assert atoms.get_potential_energy() == plain.get_potential_energy()
    np.testing.assert_array_equal(atoms.get_forces(), plain.get_forces())
    np.testing.assert_array_equal(atoms.get_stress(), plain.get_stress())
    assert atoms.calc.violations == []


@pytest.mark.parametrize("on_violation", ["raise", "warn", "record"])
def test_contact(on_violation):
    atoms = Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 1.2]])
    atoms.calc = GuardedCalculator(EMT(), on_violation, max_force=None)
    message = r"contact: Cu0 and Cu1 are 1\.20 Å apart"
    if on_violation == "raise":
        with pytest.raises(ViolationError, match=message) as caught:
            atoms.get_potential_energy()
        assert caught.value.violations[0].atoms == (0, 1)
        assert isinstance(caught.value, CalculatorError)
        assert atoms.calc.results == {}
    elif on_violation == "warn":
        with pytest.warns(ViolationWarning, match=message):
            atoms.get_potential_energy()
    else:
        atoms.get_potential_energy()
    assert [v.check for v in atoms.calc.violations] == ["contact"]


def test_contact_across_the_boundary_and_just_far_enough():
    limit = 0.5 * 2 * 1.32
    for distance, bad in ((limit - 0.01, True), (limit + 0.01, False)):
        atoms = Atoms("Cu2", positions=[[0, 0, 0.1], [0, 0, 10.1 - distance]], cell=[10] * 3)
        atoms.pbc = True
        atoms.calc = GuardedCalculator(EMT(), "record", max_force=None)
        atoms.get_potential_energy()
        assert bool(atoms.calc.violations) is bad


def test_force():
    for largest, bad in ((49.9, False), (50.1, True)):
        atoms = molecule("H2")
        atoms.calc = GuardedCalculator(
            Fixed(energy=0.0, forces=np.array([[0, 0, largest], [0, 0, -1.0]])), "record"
        )
        atoms.get_forces()
        assert [v.check for v in atoms.calc.violations] == ["force"] * bad


@pytest.mark.parametrize("on_violation", ["raise", "record", "warn"])
@pytest.mark.parametrize("where", ["energy", "forces", "positions"])
def test_nan_never_passes(where, on_violation):
    forces = np.zeros((2, 3))
    forces[1, 2] = np.nan if where == "forces" else 0.0
    atoms = molecule("H2")
    atoms.calc = GuardedCalculator(
        Fixed(energy=np.nan if where == "energy" else 0.0, forces=forces), on_violation
    )
    if where == "positions":
        atoms.positions[0, 0] = np.inf
    with pytest.raises(ViolationError, match=f"not finite: {where}"):
        atoms.get_forces() if where == "forces" else atoms.get_potential_energy()


def test_the_spread_of_a_committee_stops_md(members):
    atoms = molecule("CH3OH")
    calm = GuardedCalculator(CommitteeCalculator(members), max_spread=1e3)
    assert run_md(atoms, calm, temperature=300, steps=3).stopped_by is None
    strict = GuardedCalculator(CommitteeCalculator(members), max_spread=1e-9)
    atoms.calc = strict
    with pytest.raises(ViolationError, match="spread"):
        atoms.get_forces()
    with pytest.raises(CalculatorSetupError, match="CommitteeCalculator"):
        GuardedCalculator(EMT(), max_spread=1.0)


def test_a_violation_in_md_is_a_failure_of_the_potential():
    atoms = molecule("CH3OH")
    guarded = GuardedCalculator(PotentialCalculator(Morse()), checks=[Late(5)])
    result = run_md(atoms, guarded, temperature=300, steps=20, ensemble="nve")
    assert result.stopped_by is not None
    assert "late" in result.stopped_by.message
    assert result.steps_done < 20


class Late:
    """A check of one's own, which fails from some call on."""

    def __init__(self, calls):
        self.left = calls

    def __call__(self, atoms, results):
        self.left -= 1
        return Violation("late", "too many calls") if self.left < 0 else None


def test_under_an_optimiser():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=0)
    atoms.calc = GuardedCalculator(EMT())
    with BFGS(atoms, logfile=None) as optimiser:
        assert optimiser.run(fmax=0.05, steps=50)


def test_bad_arguments():
    with pytest.raises(CalculatorSetupError, match="on_violation"):
        GuardedCalculator(EMT(), "shout")  # pyright: ignore[reportArgumentType]


# --- in one pass -----------------------------------------------------------------------------


def test_one_pass_gives_the_numbers_of_each_member(members):
    """Molecules and crystals; members with reference energies and scales of their own."""
    other = tiny_mace(e0=(-1.0, -2.0, -3.0), seed=5, scale=(2.5,), avg_num_neighbors=5.0)
    potentials = [*members, other]
    first, *others = (p.lean() for p in potentials)
    together = first.side_by_side(others)
    assert together is not None
    for atoms in (molecule("CH3OH"), bulk("C", cubic=True)):
        atoms.rattle(0.1, seed=0)
        batch = PotentialCalculator(members[0]).graph(atoms)
        for forces in (True, False):
            for found, potential in zip(together(batch, forces=forces), potentials, strict=True):
                expected = potential(batch, forces=forces)
                torch.testing.assert_close(found.energy, expected.energy, rtol=0, atol=1e-10)
                torch.testing.assert_close(found.energies, expected.energies, rtol=0, atol=1e-10)
                assert (found.forces is None) is not forces
                if forces:
                    torch.testing.assert_close(found.forces, expected.forces, rtol=0, atol=1e-10)


def test_other_architectures_go_one_by_one(members):
    other = tiny_mace(e0=(-13.6, -1030.0, -2040.0), correlation=1)
    atoms = molecule("CH3OH")
    energies = []
    for potential in (members[0], other):
        atoms.calc = PotentialCalculator(potential)
        energies.append(atoms.get_potential_energy())
    atoms.calc = CommitteeCalculator([members[0], other])
    assert atoms.get_potential_energy() == pytest.approx(np.mean(energies), abs=1e-10)


def test_changed_members_and_copies(members):
    import copy
    import pickle

    changed = copy.deepcopy(members[0])
    atoms = molecule("CH3OH")
    atoms.calc = CommitteeCalculator([changed, members[1]])
    before = atoms.get_forces()
    with torch.no_grad():
        for weight in changed.parameters():
            weight.mul_(1.2)
    atoms.calc.reset()
    after = atoms.get_forces()
    assert abs(after - before).max() > 1e-4
    atoms.calc = pickle.loads(pickle.dumps(atoms.calc))
    np.testing.assert_allclose(atoms.get_forces(), after, atol=1e-12)
