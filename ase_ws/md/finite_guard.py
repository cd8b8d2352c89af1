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
        bad = [item for item in self._quantities(snapshot) if not _finite(item[1])]
        if not bad:
            return []
        atoms = next((_bad_rows(values) for name, values in bad if name in _PER_ATOM), ())
        where = f" ({label_atoms(snapshot.atoms, atoms)})" if atoms else ""
        return [
            Finding(
                check="finite",
                severity="fail",
                message=f"not finite: {', '.join(name for name, _ in bad)}{where}",
                atoms=atoms,
                step=snapshot.step,
                time=snapshot.time,
                temperature=snapshot.context.temperature,
            )
        ]

    @staticmethod
    def _quantities(snapshot: Snapshot) -> list[tuple[str, np.ndarray]]:
        # In the order of cause and effect: the atoms are named after the first.
        atoms = snapshot.atoms
        quantities = [
            ("positions", atoms.arrays["positions"]),
            ("cell", atoms.cell.array),
            ("energy", np.asarray(snapshot.energy)),
            ("forces", snapshot.forces),
            ("momenta", atoms.get_momenta()),
            ("conserved quantity", np.asarray(snapshot.conserved)),
        ]
        if snapshot.stress is not None:
            quantities.append(("stress", np.asarray(snapshot.stress)))
        return quantities


_PER_ATOM = ("positions", "forces", "momenta")


def _bad_rows(values: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.flatnonzero(~np.isfinite(values).all(axis=1)))


def _finite(values: np.ndarray) -> bool:
    return bool(np.isfinite(values).all())
