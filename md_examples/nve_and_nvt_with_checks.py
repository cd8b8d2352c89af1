"""Run NVE and NVT MD with the stability checks watching, and read what they say.

    python md_examples/nve_and_nvt_with_checks.py [MODEL]

The checks stop a run at the first failure (a broken bond, a close contact, a runaway temperature,
a drift of the conserved quantity, NaN) and say which atoms are to blame.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ase.build import molecule
from ase.optimize import BFGS

from ase_ws import PotentialCalculator
from ase_ws.data import BASE_MODEL
from ase_ws.md import MDResult, run_md
from ase_ws.stability import default_checks


def main(model: str | Path = BASE_MODEL, picoseconds: float = 1.0) -> list[MDResult]:
    """Run methanol at 300 K in both ensembles; return the results."""
    atoms = molecule("CH3OH")
    atoms.calc = PotentialCalculator(model)
    BFGS(atoms, logfile=None).run(fmax=0.01, steps=200)

    results = []
    for ensemble in ("nve", "nvt"):
        result = run_md(
            atoms,
            ensemble=ensemble,
            temperature=300.0,
            steps=round(picoseconds * 1000 / 0.5),
            timestep=0.5,
            seed=1,
            observers=default_checks(),
        )
        conserved = 1000 * result.traces["conserved_ev_per_atom"]
        print(
            f"{ensemble}: {result.time_ps:.2f} ps, "
            f"mean {result.traces['temperature_k'].mean():.0f} K, "
            f"conserved quantity {conserved[-1] - conserved[0]:+.3f} meV/atom, "
            f"{result.ns_per_day:.2f} ns/day"
        )
        for finding in result.warnings:
            print(f"  warning: {finding.message}")
        if result.stopped_by is not None:
            print(f"  stopped by {result.stopped_by.check}: {result.stopped_by.message}")
        results.append(result)
    return results


if __name__ == "__main__":
    main(sys.argv[1]) if len(sys.argv) > 1 else main()
