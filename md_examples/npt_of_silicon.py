"""NPT of a crystal: volume and temperature at one atmosphere.

    python md_examples/npt_of_silicon.py [MODEL]

MODEL must know silicon. Without it the Stillinger-Weber potential of matscipy is used: `run_md`
takes any ASE calculator.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ase.build import bulk
from ase.calculators.calculator import Calculator
from matscipy.calculators.manybody import Manybody
from matscipy.calculators.manybody.explicit_forms import StillingerWeber
from matscipy.calculators.manybody.explicit_forms.stillinger_weber import (
    Stillinger_Weber_PRB_31_5262_Si,
)

from ase_ws import PotentialCalculator, run_md
from ase_ws.md import MDResult
from ase_ws.stability import default_checks


def main(model: str | Path | None = None, picoseconds: float = 2.0) -> MDResult:
    """Run 64 atoms at 300 K and 1 bar; return the result."""
    calculator: Calculator = (
        Manybody(**StillingerWeber(Stillinger_Weber_PRB_31_5262_Si))
        if model is None
        else PotentialCalculator(model)
    )
    atoms = bulk("Si", cubic=True) * (2, 2, 2)
    result = run_md(
        atoms,
        calculator,
        ensemble="npt",
        temperature=300.0,
        pressure=1.0,
        timestep=1.0,
        steps=round(picoseconds * 1000),
        barostat_time=500.0,
        flexible_cell=True,
        observers=default_checks(),
    )
    late = slice(len(result.traces["step"]) // 2, None)
    volume = result.traces["volume_a3"][late].mean() / len(atoms)
    print(f"mean volume {volume:.2f} Å³/atom, {result.traces['temperature_k'][late].mean():.0f} K")
    print(f"stopped by: {result.stopped_by}")
    return result


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
