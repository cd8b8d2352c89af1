"""Degrees of freedom and initial velocities."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator
from ase.constraints import FixAtoms

from ase_ws.errors import UserError
from ase_ws.md import degrees_of_freedom, draw_velocities, kinetic_temperature, run_md


@pytest.mark.parametrize(
    ("atoms", "expected"),
    [
        (molecule("H2O"), 3),
        (molecule("CO2"), 3),
        (molecule("N2"), 1),
        (Atoms("Ar"), 0),
        (molecule("CH3CH2OH"), 21),
        (bulk("Cu", cubic=True), 9),
        (molecule("H2O", vacuum=3.0, pbc=True), 6),
        (Atoms("H2O", positions=molecule("H2O").positions, constraint=FixAtoms([0])), 6),
    ],
)
def test_degrees_of_freedom(atoms, expected):
    assert degrees_of_freedom(atoms) == expected


def test_a_linear_molecule_does_not_turn_about_its_axis_once_it_bends():
    """As soon as it bends it has no angular momentum, so of two bending modes one rests."""
    atoms = molecule("CO2")
    atoms.rotate(37, (1, 2, 3))
    atoms.translate([100, -50, 3])
    assert degrees_of_freedom(atoms) == 3
    # Langevin's noise knows nothing of this number: it must find it.
    result = run_md(
        atoms,
        Springs(atoms),
        temperature=300,
        thermostat="langevin",
        thermostat_time=20.0,
        steps=6000,
        timestep=1.0,
        interval=5,
    )
    # Of 1,000 looks some 300 are independent: 300 K to 5 %. It was 225 K with four.
    assert result.traces["temperature_k"][200:].mean() == pytest.approx(300, rel=0.15)


class Springs(Calculator):
    """CO2 as springs between all its atoms, so that it is straight at rest."""

    implemented_properties = ("energy", "forces")

    def __init__(self, atoms):
        super().__init__()
        self.rest = atoms.get_all_distances()

    def calculate(self, atoms, properties, system_changes):
        super().calculate(atoms, properties, system_changes)
        arms = atoms.positions[:, None] - atoms.positions[None]
        lengths = np.linalg.norm(arms, axis=2)
        stretch = lengths - self.rest
        pull = 30.0 * stretch / np.where(lengths > 0, lengths, 1)
        self.results = {
            "energy": 0.25 * 30.0 * (stretch**2).sum(),
            "forces": -(pull[..., None] * arms).sum(axis=1),
        }


@pytest.mark.parametrize("name", ["H2O", "CO2", "N2", "CH3CH2OH"])
def test_molecule_rests_and_has_the_temperature(name):
    atoms = molecule(name)
    atoms.translate([30.0, 0.0, 0.0])
    draw_velocities(atoms, 500.0, np.random.default_rng(3))
    assert np.allclose(atoms.get_momenta().sum(axis=0), 0, atol=1e-12)
    assert np.allclose(atoms.get_angular_momentum(), 0, atol=1e-9)
    n_dof = degrees_of_freedom(atoms)
    assert kinetic_temperature(atoms.get_kinetic_energy(), n_dof) == pytest.approx(500.0)


def test_solid_has_the_temperature_per_element():
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True) * (6, 6, 6)
    draw_velocities(atoms, 300.0, np.random.default_rng(3))
    kinetic = 0.5 * (atoms.get_momenta() ** 2).sum(axis=1) / atoms.get_masses()
    for symbol in ("Na", "Cl"):
        mine = kinetic[atoms.symbols == symbol]
        assert kinetic_temperature(mine.sum(), 3 * len(mine)) == pytest.approx(300.0, rel=0.06)


def test_fixed_atoms_stay_at_rest():
    atoms = bulk("Cu", cubic=True)
    atoms.set_constraint(FixAtoms([1]))
    draw_velocities(atoms, 300.0, np.random.default_rng(3))
    assert not atoms.get_momenta()[1].any()
    assert kinetic_temperature(atoms.get_kinetic_energy(), 9) == pytest.approx(300.0)


def test_nothing_to_move():
    with pytest.raises(UserError, match="degree of freedom"):
        draw_velocities(Atoms("Ar"), 300.0, np.random.default_rng(3))
