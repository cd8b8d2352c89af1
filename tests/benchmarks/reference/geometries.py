"""Geometries of molecules from GFN2-xTB: Langevin MD, normal modes, strong distortions."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.calculator import CalculationFailed
from ase.data import covalent_radii
from ase.md.langevin import Langevin
from ase.optimize import BFGS

from reference.levels import gfn2_calculator
from reference.settings import SamplingSettings

DECIMALS = 5  # of a stored position in Å; labels are computed for the rounded positions
_MAX_TRIES = 50  # draws per kept frame before the settings are judged impossible
_BOND_FACTOR = 1.25  # bonded: closer than this times the sum of the covalent radii


def relaxed_molecule(name: str) -> Atoms:
    """Build a molecule of the G2 set and relax it with GFN2-xTB to 1 meV/Å.

    Returns
    -------
    Atoms
        With a GFN2-xTB calculator attached.
    """
    atoms = molecule(name)
    atoms.calc = gfn2_calculator()
    BFGS(atoms, logfile=None).run(fmax=0.001, steps=500)
    return atoms


def md_frames(
    relaxed: Atoms,
    temperature: float,
    n_frames: int,
    settings: SamplingSettings,
    rng: np.random.Generator,
) -> list[np.ndarray]:
    """Sample one Langevin trajectory.

    Parameters
    ----------
    relaxed : Atoms
        Start, with a calculator.
    temperature : float
        K.
    n_frames : int
        Frames to keep.
    settings : SamplingSettings
        Time step, friction, equilibration, spacing, and what is rejected.
    rng : Generator
        Of velocities and noise.

    Returns
    -------
    list of ndarray (n_atoms, 3)
        Rounded positions, Å.
    """
    every = round(settings.spacing_fs / settings.timestep_fs)
    frames: list[np.ndarray] = []
    for _ in range(_MAX_TRIES):
        dynamics = _started(relaxed, temperature, settings, rng)
        while len(frames) < n_frames:
            dynamics.run(every)
            positions = rounded(dynamics.atoms)
            if not acceptable(relaxed, positions, settings, intact=True):
                break  # start anew: what follows a broken molecule is another molecule
            frames.append(positions)
        if len(frames) == n_frames:
            return frames
    raise ArithmeticError(f"{relaxed.symbols} does not stay whole at {temperature:g} K")


def _started(
    relaxed: Atoms, temperature: float, settings: SamplingSettings, rng: np.random.Generator
) -> Langevin:
    atoms = relaxed.copy()
    atoms.calc = gfn2_calculator()
    # Maxwell-Boltzmann momenta; the equilibration settles the rest.
    width = np.sqrt(atoms.get_masses() * units.kB * temperature)
    atoms.set_momenta(width[:, None] * rng.standard_normal((len(atoms), 3)))
    dynamics = Langevin(
        atoms,
        settings.timestep_fs * units.fs,
        temperature_K=temperature,
        friction=settings.friction_per_fs / units.fs,
        fixcm=False,  # frames are centred when kept; a fixed centre would bias small molecules
        rng=rng,
    )
    dynamics.run(round(settings.equilibration_fs / settings.timestep_fs))
    return dynamics


def normal_modes(relaxed: Atoms, step: float = 0.005) -> tuple[np.ndarray, np.ndarray]:
    """Give force constants and displacement patterns of the vibrations.

    The Hessian H is that of central differences of the forces; with M the masses,
    M^(−1/2) H M^(−1/2) u = ω² u after rigid translations and rotations are projected out.

    Parameters
    ----------
    relaxed : Atoms
        A minimum, with a calculator.
    step : float
        Å.

    Returns
    -------
    omega2 : ndarray (n_modes,)
        ω², eV/(Å² amu), ascending.
    patterns : ndarray (n_modes, n_atoms, 3)
        M^(−1/2) u, amu^(−1/2).
    """
    n = len(relaxed)
    probe = relaxed.copy()
    probe.calc = relaxed.calc
    hessian = np.zeros((3 * n, 3 * n))
    for i in range(3 * n):
        forces = []
        for sign in (1.0, -1.0):
            probe.positions[:] = relaxed.positions
            probe.positions[i // 3, i % 3] += sign * step
            forces.append(probe.get_forces().ravel())
        hessian[i] = -(forces[0] - forces[1]) / (2 * step)
    root_mass = np.repeat(np.sqrt(relaxed.get_masses()), 3)
    weighted = (hessian + hessian.T) / 2 / np.outer(root_mass, root_mass)
    internal = _internal_space(relaxed, root_mass)
    omega2, vectors = np.linalg.eigh(internal.T @ weighted @ internal)
    patterns = ((internal @ vectors) / root_mass[:, None]).T
    return omega2, patterns.reshape(-1, n, 3)


def _internal_space(relaxed: Atoms, root_mass: np.ndarray) -> np.ndarray:
    """Give an orthonormal basis (3n, n_modes) of what is neither translation nor rotation."""
    centred = relaxed.positions - relaxed.get_center_of_mass()
    rigid = [np.tile(axis, (len(relaxed), 1)) for axis in np.eye(3)]
    rigid += [np.cross(axis, centred) for axis in np.eye(3)]
    columns = np.array([pattern.ravel() * root_mass for pattern in rigid]).T
    left, singular, _ = np.linalg.svd(columns, full_matrices=True)
    # A linear molecule has one rotation less: its singular value is zero.
    return left[:, int(np.sum(singular > 1e-3 * singular[0])) :]


def mode_frames(
    relaxed: Atoms,
    temperatures: np.ndarray,
    settings: SamplingSettings,
    rng: np.random.Generator,
) -> list[np.ndarray]:
    """Displace along all normal modes with classical thermal amplitudes, σ² = k_B T/ω².

    Parameters
    ----------
    relaxed : Atoms
        A minimum, with a calculator.
    temperatures : ndarray (n_frames,)
        K, one per frame.
    settings : SamplingSettings
        The softest wavenumber, and what is rejected.
    rng : Generator
        Of the amplitudes.

    Returns
    -------
    list of ndarray (n_atoms, 3)
        Rounded positions, Å.
    """
    omega2, patterns = normal_modes(relaxed)
    hbar = units._hbar * units.J * units.second  # ω² in eV/(Å² amu) is ω² in ASE's own units
    floor = (settings.min_wavenumber * units.invcm / hbar) ** 2
    sigma = 1.0 / np.sqrt(np.maximum(omega2, floor))

    def draw(temperature: float) -> np.ndarray:
        amplitude = np.sqrt(units.kB * temperature) * sigma * rng.standard_normal(len(sigma))
        return relaxed.positions + np.tensordot(amplitude, patterns, 1)

    return [
        _accepted(relaxed, lambda t=t: draw(float(t)), settings, intact=True) for t in temperatures
    ]


def strong_frames(
    relaxed: Atoms, n_frames: int, settings: SamplingSettings, rng: np.random.Generator
) -> list[np.ndarray]:
    """Distort strongly: rattled, scaled, one bond changed, or two unbonded atoms in contact.

    A potential trained on thermal frames alone may have holes at short range and beyond the
    stretched bond; these frames line them. Bonds may be far outside their thermal range.
    """
    kinds = (_rattled, _scaled, _bond_changed, _in_contact)

    def draw() -> np.ndarray:
        return kinds[rng.integers(len(kinds))](relaxed, rng)

    return [_accepted(relaxed, draw, settings, intact=False) for _ in range(n_frames)]


def _rattled(relaxed: Atoms, rng: np.random.Generator) -> np.ndarray:
    sigma = rng.uniform(0.08, 0.25)  # Å
    return relaxed.positions + sigma * rng.standard_normal(relaxed.positions.shape)


def _scaled(relaxed: Atoms, rng: np.random.Generator) -> np.ndarray:
    positions = relaxed.positions * rng.uniform(0.80, 1.30)
    return positions + 0.03 * rng.standard_normal(positions.shape)


def _bond_changed(relaxed: Atoms, rng: np.random.Generator) -> np.ndarray:
    bonds = bonded(relaxed)
    pairs = np.argwhere(np.triu(bonds))
    i, j = (int(k) for k in pairs[rng.integers(len(pairs))])
    bonds[i, j] = bonds[j, i] = False
    moved = _connected(bonds, j)
    if moved[i]:  # the bond is part of a ring: move the one atom
        moved = np.arange(len(relaxed)) == j
    axis = relaxed.positions[j] - relaxed.positions[i]
    positions = relaxed.positions + 0.03 * rng.standard_normal(relaxed.positions.shape)
    positions[moved] += axis * (rng.uniform(0.70, 1.80) - 1.0)
    return positions


def _in_contact(relaxed: Atoms, rng: np.random.Generator) -> np.ndarray:
    pairs = np.argwhere(~bonded(relaxed) & ~np.eye(len(relaxed), dtype=bool))
    i, j = (int(k) for k in pairs[rng.integers(len(pairs))])
    approach = relaxed.positions[i] - relaxed.positions[j]
    positions = relaxed.positions + 0.05 * rng.standard_normal(relaxed.positions.shape)
    positions[j] += approach * rng.uniform(0.15, 0.50)
    return positions


def _connected(bonds: np.ndarray, start: int) -> np.ndarray:
    reached = np.zeros(len(bonds), dtype=bool)
    reached[start] = True
    for _ in range(len(bonds)):
        reached |= bonds[reached].any(axis=0)
    return reached


def _accepted(
    relaxed: Atoms, draw: Callable[[], np.ndarray], settings: SamplingSettings, *, intact: bool
) -> np.ndarray:
    for positions in _centred(relaxed, draw):
        if acceptable(relaxed, positions, settings, intact=intact):
            return positions
    raise ArithmeticError(f"no acceptable frame of {relaxed.symbols} in {_MAX_TRIES} draws")


def _centred(relaxed: Atoms, draw: Callable[[], np.ndarray]) -> Iterator[np.ndarray]:
    probe = relaxed.copy()
    for _ in range(_MAX_TRIES):
        probe.positions[:] = draw()
        yield rounded(probe)


def rounded(atoms: Atoms) -> np.ndarray:
    """Give positions about the centre of mass, rounded to the stored digits."""
    return np.round(atoms.positions - atoms.get_center_of_mass(), DECIMALS)


def bonded(relaxed: Atoms) -> np.ndarray:
    """Give the bonds (n_atoms, n_atoms) of a relaxed molecule by covalent radii."""
    radii = covalent_radii[relaxed.numbers]
    near = relaxed.get_all_distances() < _BOND_FACTOR * (radii[:, None] + radii[None, :])
    return near & ~np.eye(len(relaxed), dtype=bool)


def acceptable(
    relaxed: Atoms, positions: np.ndarray, settings: SamplingSettings, *, intact: bool
) -> bool:
    """Tell whether a frame may be kept: whole (if asked), energy and forces within bounds."""
    probe = relaxed.copy()
    probe.positions[:] = positions
    if intact and not _same_bonds(relaxed, probe, settings.max_bond_ratio):
        return False
    probe.calc = gfn2_calculator()
    try:
        forces = probe.get_forces()
        energy = probe.get_potential_energy() - relaxed.get_potential_energy()
    except CalculationFailed:
        return False  # GFN2-xTB did not converge: the geometry is not a sensible one
    low_force = np.linalg.norm(forces, axis=1).max() <= settings.max_force
    return bool(low_force and energy <= settings.max_energy * len(relaxed))


def _same_bonds(relaxed: Atoms, probe: Atoms, max_ratio: float) -> bool:
    bonds = bonded(relaxed)
    before, after = relaxed.get_all_distances(), probe.get_all_distances()
    radii = covalent_radii[relaxed.numbers]
    apart = ~bonds & ~np.eye(len(relaxed), dtype=bool)
    too_long = after[bonds] > max_ratio * before[bonds]
    too_near = after[apart] < 1.1 * (radii[:, None] + radii[None, :])[apart]
    return not (too_long.any() or too_near.any())
