"""The one check that every run has: nothing may become NaN or infinite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from ase_ws.md.observer import RunContext, Snapshot, label_atoms
from ase_ws.results.finding import Finding


@dataclass
class FiniteGuard:
    """Fail when energy, forces, stress, positions, momenta or cell hold NaN or infinity.

    The runner always puts one in front, because every other number is meaningless after that:
    ASE integrates NaN silently to the last step.

    Attributes
    ----------
    interval : int
        Steps between two looks. Default 1: a comparison of nine numbers to a few thousand costs
        microseconds.
    """

    interval: int = 1

    def start(self, atoms: Atoms, context: RunContext) -> None:
        """Nothing to remember."""

    def check(self, snapshot: Snapshot) -> Sequence[Finding]:
        """Give a "fail" that names the quantities, and the atoms where one belongs to atoms."""
        live = snapshot.atoms
        # In the order of cause and effect: the atoms are named after the first.
        quantities = {
            "positions": live.arrays["positions"],
            "cell": live.cell.array,
            "energy": snapshot.energy,
            "forces": snapshot.forces,
            "momenta": live.get_momenta(),
            "conserved quantity": snapshot.conserved,
            "stress": 0.0 if snapshot.stress is None else snapshot.stress,
        }
        bad = [name for name, values in quantities.items() if not np.isfinite(values).all()]
        if not bad:
            return []
        of_atoms = [quantities[name] for name in bad if name in ("positions", "forces", "momenta")]
        rows = np.flatnonzero(~np.isfinite(of_atoms[0]).all(axis=1)) if of_atoms else ()
        atoms = tuple(int(i) for i in rows)
        where = f" ({label_atoms(live, atoms)})" if atoms else ""
        return [
            Finding(
                check="finite",
                severity="fail",
                message=f"not finite: {', '.join(bad)}{where}",
                atoms=atoms,
                step=snapshot.step,
                time=snapshot.time,
                temperature=snapshot.context.temperature,
            )
        ]
