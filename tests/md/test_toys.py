"""Toy calculators for the MD and stability tests, and a proof that their forces are right."""

import numpy as np
import pytest
from ase.calculators.fd import calculate_numerical_forces
from toys import CurlSprings, Pairwise, Springs, WrongSign, argon, ethanol


@pytest.mark.parametrize("calculator", [Springs(ethanol()), WrongSign(ethanol())])
def test_forces_of_springs(calculator):
    atoms = ethanol()
    atoms.rattle(0.05, seed=1)
    atoms.calc = calculator
    assert np.allclose(atoms.get_forces(), calculate_numerical_forces(atoms, eps=1e-4), atol=1e-6)


@pytest.mark.parametrize("hole", [0.0, 3.5])
def test_forces_of_pairs(hole):
    atoms = argon()
    atoms.rattle(0.05, seed=1)
    atoms.calc = Pairwise(hole=hole)
    assert np.allclose(atoms.get_forces(), calculate_numerical_forces(atoms, eps=1e-4), atol=1e-6)


def test_curl_has_no_energy():
    atoms = ethanol()
    atoms.calc = CurlSprings(ethanol())
    assert np.abs(atoms.get_forces()).max() > 1e-3
    assert np.abs(calculate_numerical_forces(atoms, eps=1e-4)).max() < 1e-6
