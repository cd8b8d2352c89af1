"""Heat a molecule step by step until a check stops it.

    python md_examples/thermal_ramp.py [MODEL]

Each temperature starts from where the one before ended, velocities and all.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ase.build import molecule
from ase.optimize import BFGS

from ase_ws import PotentialCalculator, run_md
from ase_ws.data import BASE_MODEL
from ase_ws.stability import default_checks


def main(
    model: str | Path = BASE_MODEL,
    temperatures: tuple[float, ...] = (300.0, 600.0, 900.0, 1200.0),
    picoseconds: float = 0.5,
) -> float:
    """Run methanol at each temperature; return the last one that it survived, K."""
    atoms = molecule("CH3OH")
    atoms.calc = PotentialCalculator(model)
    BFGS(atoms, logfile=None).run(fmax=0.01, steps=200)
    survived = 0.0
    for k, temperature in enumerate(temperatures):
        result = run_md(
            atoms,
            temperature=temperature,
            thermostat_time=25.0,
            steps=round(picoseconds * 2000),
            keep_velocities=k > 0,
            observers=default_checks(),
        )
        if result.stopped_by is not None:
            print(f"{temperature:.0f} K: {result.stopped_by.check}: {result.stopped_by.message}")
            break
        print(f"{temperature:.0f} K: fine, mean {result.traces['temperature_k'].mean():.0f} K")
        atoms, survived = result.atoms, temperature
    return survived


if __name__ == "__main__":
    main(sys.argv[1]) if len(sys.argv) > 1 else main()
