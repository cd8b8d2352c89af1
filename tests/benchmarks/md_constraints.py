"""Constraints in MD: every one of ASE's with every integrator, measured.

    python tests/benchmarks/md_constraints.py [--steps 1000] [--only FixAtoms FixedLine]

Small slabs of copper and other elements (EMT) at 300 K and 2 fs, as in
`tests/md/test_md_constraints.py`; printed are the degrees of freedom, the mean temperature with its
standard error (of ten blocks; NVE has none set), the width of the temperatures over the canonical
one, and by how much the conserved quantity moves, in meV/atom.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from ase.calculators.emt import EMT

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent.parent / "md")]


def measure(atoms, integrator: str, steps: int) -> str:
    """One row of the table, or why there is none."""
    from ase_ws import run_md
    from ase_ws.errors import UserError

    ensemble = integrator if integrator in ("nve", "npt") else "nvt"
    bath = {"thermostat": integrator} if ensemble == "nvt" else {}
    if ensemble == "npt":
        atoms.pbc = True
    try:
        result = run_md(
            atoms, EMT(), ensemble=ensemble, temperature=300, steps=steps, timestep=2.0,
            thermostat_time=40.0, interval=2, seed=1, **bath,
        )  # fmt: skip
    except UserError as error:
        return f"refused: {error}"
    kelvin = result.traces["temperature_k"]
    kelvin = kelvin[len(kelvin) // 5 :]
    blocks = np.array([block.mean() for block in np.array_split(kelvin, 10)])
    width = kelvin.std() / (300 * np.sqrt(2 / result.context.n_dof))
    moved = 1e3 * np.ptp(result.traces["conserved_ev_per_atom"])
    row = f"{result.context.n_dof:3d} {kelvin.mean():8.1f} ± {blocks.std(ddof=1) / 10**0.5:4.1f} K"
    end = "" if result.stopped_by is None else f"  stopped: {result.stopped_by.message}"
    return f"{row} {width:6.2f} {moved:9.3f}{end}"


def main() -> None:
    """Print the table."""
    from test_md_constraints import CASES, REFUSED, slab

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--only", nargs="*", default=[])
    arguments = parser.parse_args()
    cases = {name: case[:2] for name, case in CASES.items()}
    cases |= {f"refused: {name}": (slab, case[0]) for name, case in REFUSED.items()}
    for name, (make, constraints) in cases.items():
        if arguments.only and name not in arguments.only:
            continue
        for integrator in ("nve", "bussi", "langevin", "nose-hoover", "npt"):
            atoms = make()
            atoms.set_constraint(constraints(atoms))
            row = measure(atoms, integrator, arguments.steps)
            print(f"{name:28s} {integrator:12s} {row}", flush=True)
            if row.startswith("refused") and integrator == "nve":
                break


if __name__ == "__main__":
    main()
