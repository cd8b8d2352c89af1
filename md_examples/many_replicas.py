"""Many replicas in one batch: two molecules, two temperatures, several seeds.

    python md_examples/many_replicas.py [MODEL]

One process; a replica that fails a check leaves the batch, the others go on.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ase.build import molecule
from ase.optimize import BFGS

from ase_ws import PotentialCalculator, run_replicas
from ase_ws.data import BASE_MODEL
from ase_ws.md import MDResult
from ase_ws.stability import default_checks


def main(
    model: str | Path = BASE_MODEL, seeds: int = 4, picoseconds: float = 0.5
) -> list[MDResult]:
    """Run all of them in NVT (Langevin); return the results."""
    calculator = PotentialCalculator(model)
    structures, temperatures = [], []
    for name in ("CH3OH", "CH3CH2OH"):
        atoms = molecule(name)
        atoms.calc = calculator
        BFGS(atoms, logfile=None).run(fmax=0.01, steps=200)
        for temperature in (300.0, 600.0):
            structures += [atoms] * seeds
            temperatures += [temperature] * seeds
    results = run_replicas(
        structures,
        calculator,
        temperature=temperatures,
        steps=round(picoseconds * 2000),
        seeds=range(len(structures)),
        observers=default_checks,
    )
    for result in results:
        end = result.stopped_by.message if result.stopped_by else "fine"
        mean = result.traces["temperature_k"].mean()
        print(f"{result.atoms.get_chemical_formula():6s} {mean:5.0f} K  {result.time_ps} ps  {end}")
    together = sum(r.time_ps for r in results) / sum(r.seconds for r in results)
    print(f"{together * 86.4:.2f} ns/day over all replicas")
    return results


if __name__ == "__main__":
    main(sys.argv[1]) if len(sys.argv) > 1 else main()
