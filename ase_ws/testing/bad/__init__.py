"""ASE calculators that wrap any good one and break it in one way each, and bad set-ups.

| fault | class | blame |
| --- | --- | --- |
| hole at short range | `Hole` | model |
| step that the forces do not know | `EnergyStep` | model |
| cutoff without shift | `CutoffJump` | model |
| deep well at a wrong distance | `SpuriousMinimum` | model |
| repulsion with the wrong sign | `WrongSignPair` | model |
| NaN, or an exception, beyond a distance | `NaNBeyond`, `RaisesBeyond` | model |
| curl | `Curl` | model |
| forces in the wrong unit, or with the wrong sign | `ScaledForces`, `WrongSign` | model |
| stress with the wrong sign or unit | `ScaledStress` | model |
| noise | `ForceNoise`, `EnergyNoise` | model |
| slow heating | `SlowHeating` | model |
| absolute coordinates matter | `ExternalField` | model |
| a stale cache | `StaleResults` | model |
| pair forces that are not in the energy, or in none | `PairForces`, `RippledForces` | model |
| left and right differ | `Handed` | model |
| float16 | `HalfPrecision` | precision |
| two atoms on top of each other | `on_top` (a structure) | starting structure |
| a time step that is too long | `verlet_limit` (gives it) | timestep |

Each class says in its docstring what is wrong, in which unit, and which checks are meant to find
it. Apart from the fault itself all are right: the forces of `Hole`, say, are the exact gradient of
its energy.
"""

from __future__ import annotations

import numpy as np
from ase import Atoms

from ase_ws.errors import UserError
from ase_ws.testing.bad.forces import (
    HARTREE_PER_BOHR,
    Curl,
    EnergyNoise,
    ExternalField,
    ForceNoise,
    HalfPrecision,
    ScaledForces,
    ScaledStress,
    SlowHeating,
    StaleResults,
    WrongSign,
)
from ase_ws.testing.bad.pairs import (
    CutoffJump,
    EnergyStep,
    Hole,
    NaNBeyond,
    RaisesBeyond,
    SpuriousMinimum,
    WrongSignPair,
)
from ase_ws.testing.bad.slight import Handed, PairForces, RippledForces
from ase_ws.testing.bad.wrapping import Broken, PairTerm, Point

__all__ = [
    "HARTREE_PER_BOHR",
    "Broken",
    "Curl",
    "CutoffJump",
    "EnergyNoise",
    "EnergyStep",
    "ExternalField",
    "ForceNoise",
    "HalfPrecision",
    "Handed",
    "Hole",
    "NaNBeyond",
    "PairForces",
    "PairTerm",
    "Point",
    "RaisesBeyond",
    "RippledForces",
    "ScaledForces",
    "ScaledStress",
    "SlowHeating",
    "SpuriousMinimum",
    "StaleResults",
    "WrongSign",
    "WrongSignPair",
    "on_top",
    "verlet_limit",
]


def on_top(atoms: Atoms, index: int, *, distance: float = 0.1, symbol: str | None = None) -> Atoms:
    """Give a copy with one atom more, `distance` (Å) away from atom `index`.

    Such structures come from merged files and from solvation tools; no potential is to blame.

    Parameters
    ----------
    atoms : Atoms
        Not modified.
    index : int
    distance : float, Å
    symbol : str, optional
        Of the new atom; default that of atom `index`.
    """
    if not -len(atoms) <= index < len(atoms):
        raise UserError(f"there is no atom {index}: the structure has {len(atoms)} atoms")
    twin = Atoms(
        symbol or atoms.get_chemical_symbols()[index],
        positions=[atoms.positions[index] + distance * np.array([0.6, 0.0, 0.8])],
    )
    crowded = atoms.copy()
    crowded.extend(twin)
    return crowded


def verlet_limit(period: float) -> float:
    """Longest time step with which velocity Verlet is stable: Δt = 2/ω = period/π, in fs.

    Beyond, any potential explodes. With an O–H stretch of 9 fs it is 2.9 fs.

    Parameters
    ----------
    period : float, fs
        Of the fastest vibration.
    """
    return period / np.pi
