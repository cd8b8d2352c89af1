"""ASE's tools as clients of the calculator: what a stranger would run on day one."""

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.eos import EquationOfState
from ase.md.contour_exploration import ContourExploration
from ase.mep import NEB
from ase.optimize import BFGS, FIRE
from ase.optimize.minimahopping import MinimaHopping
from ase.phonons import Phonons
from ase.thermochemistry import IdealGasThermo
from ase.vibrations import Vibrations

from ase_ws import PotentialCalculator
from ase_ws.data import BASE_MODEL
from ase_ws.md import draw_velocities
from ase_ws.testing import Morse


@pytest.fixture(scope="module")
def base():
    return PotentialCalculator(BASE_MODEL, dtype="float64")


@pytest.fixture
def methanol(base):
    atoms = molecule("CH3OH")
    atoms.calc = base
    with BFGS(atoms, logfile=None) as optimiser:
        assert optimiser.run(fmax=0.002, steps=200)
    return atoms


def test_vibrations_of_methanol(methanol, tmp_path):
    """12 modes; the O–H and C–H stretches where spectroscopy has them, within a cheap level."""
    vibrations = Vibrations(methanol, name=str(tmp_path / "vib"))
    vibrations.run()
    wavenumbers = vibrations.get_frequencies()
    real = np.sort(wavenumbers[np.abs(wavenumbers.imag) < 1e-6].real)
    assert len(real[real > 100]) == 12
    assert 3300 < real[-1] < 4100
    assert (real[-4:-1] > 2700).all()
    assert (real[-4:-1] < 3300).all()
    thermo = IdealGasThermo(
        vibrations.get_energies()[-12:], "nonlinear", potentialenergy=0.0, atoms=methanol,
        symmetrynumber=1, spin=0,
    )  # fmt: skip
    # Experiment: 240 J/mol/K at 298.15 K and 1 bar.
    entropy = thermo.get_entropy(298.15, 1e5, verbose=False) / (units.J / units.mol)
    assert entropy == pytest.approx(240, abs=12)


def test_equation_of_state_and_phonons(tmp_path):
    """Lennard-Jones-like argon on a Morse pair: the modulus of E(V), and stable phonons."""
    potential = Morse(depth=0.05, a=1.5, r0=3.8, r_max=6.5)
    crystal = bulk("Ar", "fcc", a=5.3)
    volumes, energies = [], []
    for scale in np.linspace(0.97, 1.03, 7):
        strained = crystal.copy()
        strained.set_cell(crystal.cell * scale, scale_atoms=True)
        strained.calc = PotentialCalculator(potential)
        volumes.append(strained.get_volume())
        energies.append(strained.get_potential_energy())
    v0, _, modulus = EquationOfState(volumes, energies).fit()
    assert volumes[0] < v0 < volumes[-1]
    # The same modulus from the calculator's stress: B = −V dp/dV.
    pressures = []
    for volume in (0.995 * v0, 1.005 * v0):
        at = crystal.copy()
        at.set_cell(crystal.cell * (volume / crystal.get_volume()) ** (1 / 3), scale_atoms=True)
        at.calc = PotentialCalculator(potential)
        pressures.append(-at.get_stress()[:3].mean())
    assert (pressures[0] - pressures[1]) / 0.01 == pytest.approx(modulus, rel=0.02)
    crystal.set_cell(crystal.cell * (v0 / crystal.get_volume()) ** (1 / 3), scale_atoms=True)
    phonons = Phonons(
        crystal, PotentialCalculator(potential), supercell=(3, 3, 3), name=str(tmp_path / "phonon")
    )
    phonons.run()
    phonons.read(acoustic=True)
    band = phonons.band_structure([[0, 0, 0], [0.5, 0, 0.5], [0.25, 0.25, 0.25]])
    assert np.abs(band[0]).max() < 1e-3
    assert band[1:].min() > 1e-3


def test_the_methyl_group_turns(methanol, base):
    """NEB: the barrier of the methyl rotor, 0.046 eV in experiment."""
    first, last = methanol, methanol.copy()
    hydrogens = [
        i for i in range(6) if methanol.numbers[i] == 1 and methanol.get_distance(0, i) < 1.3
    ]
    last.positions[hydrogens] = first.positions[np.roll(hydrogens, 1)]
    images = [first.copy() for _ in range(6)] + [last]
    images[0] = first.copy()
    for image in images:
        image.calc = base
    band = NEB(images, allow_shared_calculator=True, climb=True, method="improvedtangent")
    band.interpolate("idpp")
    with FIRE(band, logfile=None) as optimiser:  # pyright: ignore[reportArgumentType]
        optimiser.run(fmax=0.05, steps=150)
    energies = np.array([image.get_potential_energy() for image in images])
    barrier = energies.max() - energies[0]
    assert energies[-1] == pytest.approx(energies[0], abs=1e-3)
    assert 0.005 < barrier < 0.2


def test_contour_exploration(methanol):
    """Steps along a surface of constant energy stay on it."""
    target = methanol.get_potential_energy() + 0.3
    atoms = methanol.copy()
    atoms.calc = methanol.calc
    draw_velocities(atoms, 300, np.random.default_rng(0))
    dynamics = ContourExploration(
        atoms, maxstep=0.2, parallel_drift=0.05, energy_target=target, angle_limit=30,
        rng=np.random.default_rng(0), logfile=None,
    )  # fmt: skip
    dynamics.run(20)
    energies = []
    for _ in range(30):
        dynamics.run(1)
        energies.append(atoms.get_potential_energy())
    assert np.abs(np.array(energies) - target).mean() < 0.05


def test_minima_hopping(tmp_path, monkeypatch):
    """A tool that copies, pickles and restarts calculators in its own way."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    cluster = Atoms("Ar5", positions=rng.normal(size=(5, 3)) * 3.0)
    cluster.calc = PotentialCalculator(Morse(depth=0.05, a=1.5, r0=3.8, r_max=9.0))
    with BFGS(cluster, logfile=None) as optimiser:
        assert optimiser.run(fmax=0.02, steps=500)
    start = cluster.get_potential_energy()
    # From the relaxed cluster, so that what it finds first is that minimum on any machine.
    hopping = MinimaHopping(
        cluster, Ediff0=0.01, T0=50.0, fmax=0.02, rng=np.random.default_rng(2)
    )  # fmt: skip
    hopping(totalsteps=2)
    minima = ase.io.read("minima.traj", ":")
    assert len(minima) >= 1
    lowest = min(m.get_potential_energy() for m in minima)
    assert lowest < start + 1e-3 < -0.05
