"""What a person looks at with plain ASE, without the suite: NVE, and pairs pushed together."""

from __future__ import annotations

import os
import time
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import BaseCalculator
from ase.data import covalent_radii
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary
from ase.md.verlet import VelocityVerlet
from ase.neighborlist import neighbor_list
from ase.optimize import FIRE

#: Bonds of the relaxed structure: within 1.25 times the sum of the covalent radii, as usual.
BONDED = 1.25
#: A hole is a drop by more than this behind the wall; less is a ripple, eV.
HOLE = 1.0


def nve(
    atoms: Atoms, calculator: BaseCalculator, temperature: float, timestep: float, fs: float = 400.0
) -> dict[str, Any]:
    """Relax, then run NVE: is the energy kept, and the structure?

    Velocities are drawn at twice the temperature: half of it goes into the potential energy.
    The first 50 fs are left out of the slope of the energy.

    Returns
    -------
    dict
        relaxed (bool), slope and spread (meV/atom/ps, meV/atom) of the total energy, closest
        (smallest r/(R_i + R_j)), stretch (largest bond over its relaxed length), moved (Å, the
        farthest atom), temperature (K, mean of the second half), ms (a step).
    """
    atoms.calc = calculator
    relaxed = FIRE(atoms, logfile=os.devnull).run(fmax=0.05, steps=200)
    bonds = _bonds(atoms)
    start, n = atoms.positions.copy(), len(atoms)
    rng = np.random.default_rng(0)
    MaxwellBoltzmannDistribution(atoms, temperature_K=2 * temperature, force_temp=True, rng=rng)
    Stationary(atoms)  # keeps the temperature
    rows: list[tuple[float, ...]] = []

    def look() -> None:
        lengths = atoms.get_all_distances(mic=bool(atoms.pbc.any()))[bonds[0], bonds[1]]
        stretch = float((lengths / bonds[2]).max()) if len(lengths) else 1.0
        moved = float(np.linalg.norm(atoms.positions - start, axis=1).max())
        energy = atoms.get_total_energy()
        rows.append((energy, _closest(atoms), stretch, moved, atoms.get_temperature()))

    dynamics = VelocityVerlet(atoms, timestep * units.fs)
    every = max(1, round(4.0 / timestep))
    dynamics.attach(look, interval=every)
    began = time.perf_counter()
    steps = round(fs / timestep)
    dynamics.run(steps)
    took = time.perf_counter() - began
    energy, closest, stretch, moved, kelvin = np.array(rows).T
    ps = np.arange(len(energy)) * every * timestep / 1000.0
    late = ps >= 0.05
    slope = np.polyfit(ps[late], energy[late], 1)[0] if np.isfinite(energy).all() else np.nan
    return {
        "relaxed": bool(relaxed),
        "slope": round(1000 * float(slope) / n, 4),
        "spread": round(1000 * float(np.std(energy[late])) / n, 4),
        "closest": round(float(closest.min()), 3),
        "stretch": round(float(stretch.max()), 3),
        "moved": round(float(moved.max()), 2),
        "temperature": round(float(kelvin[len(kelvin) // 2 :].mean())),
        "ms": round(1000 * took / steps, 1),
    }


def _bonds(atoms: Atoms) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    lengths = atoms.get_all_distances(mic=bool(atoms.pbc.any()))
    radii = covalent_radii[atoms.numbers]
    i, j = np.nonzero(np.triu(lengths < BONDED * (radii[:, None] + radii), k=1))
    return i, j, lengths[i, j]


def _closest(atoms: Atoms) -> float:
    i, j, lengths = neighbor_list("ijd", atoms, 4.0)
    radii = covalent_radii[atoms.numbers]
    return float((lengths / (radii[i] + radii[j])).min()) if len(lengths) else np.inf


def pairs(atoms: Atoms) -> list[tuple[str, str]]:
    """Give all pairs of elements of which the structure has two atoms."""
    symbols = sorted(set(atoms.symbols))
    counts = atoms.symbols.formula.count()
    both = combinations_with_replacement(symbols, 2)
    return [(a, b) for a, b in both if a != b or counts[a] > 1]


def push(
    atoms: Atoms, calculator: BaseCalculator, pair: tuple[str, str], *, both: bool = True
) -> dict[str, Any] | None:
    """Push the two nearest atoms of a pair of elements together, all others held.

    Parameters
    ----------
    both : bool
        Both move by the same length along the line between them; else the first alone, up to the
        other's place, which costs less in a crystal. In steps of 0.04 Å down to 0.4 Å.

    Returns
    -------
    dict or None
        start (Å), wall (eV above the start, the top of the first wall from outside), turns (Å,
        where), depth (eV, from the top down to the lowest point behind it), lowest (eV from the
        start) and its place `at` (Å); None where the energy does not fall by more than `HOLE`.
    """
    atoms = atoms.copy()
    atoms.set_constraint()
    atoms.calc = calculator
    periodic = bool(atoms.pbc.any())
    lengths = atoms.get_all_distances(mic=periodic)
    symbols = np.array(atoms.get_chemical_symbols())
    wanted = (symbols[:, None] == pair[0]) & (symbols == pair[1]) & (lengths > 1e-6)
    i, j = np.unravel_index(np.where(wanted, lengths, np.inf).argmin(), lengths.shape)
    line = atoms.get_distance(i, j, mic=periodic, vector=True)
    first = float(np.linalg.norm(line))
    grid = np.arange(first, 0.4, -0.04)
    start = atoms.positions.copy()
    energy = np.empty(len(grid))
    share = 0.5 if both else 1.0
    for k, r in enumerate(grid):
        atoms.positions = start
        atoms.positions[i] += share * (1.0 - r / first) * line
        atoms.positions[j] -= (1.0 - share) * (1.0 - r / first) * line
        energy[k] = atoms.get_potential_energy()
    energy -= energy[0]
    top = first_top(energy)
    if top is None:
        return None
    low = top + int(energy[top:].argmin())
    return {
        "start": round(first, 2),
        "wall": round(float(energy[top]), 2),
        "turns": round(float(grid[top]), 2),
        "depth": round(float(energy[top] - energy[low]), 2),
        "lowest": round(float(energy[low]), 2),
        "at": round(float(grid[low]), 2),
    }


def first_top(energy: np.ndarray) -> int | None:
    """Give the first point behind which the energy falls by more than `HOLE` before it is passed.

    The start counts for nothing: coming down from it to a minimum is no wall.
    """
    bottom = int(energy[: _rises(energy) + 1].argmin())
    top = bottom
    for k in range(bottom, len(energy)):
        if energy[k] > energy[top]:
            top = k
        elif energy[top] - energy[k] > HOLE:
            return top
    return None


def _rises(energy: np.ndarray) -> int:
    """Give the point where the energy first stands more than `HOLE` above its lowest so far."""
    above = energy - np.minimum.accumulate(energy) > HOLE
    return int(above.argmax()) if above.any() else len(energy) - 1
