"""A neighbour list with a skin, reused until an atom has moved half of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from ase import Atoms

from ase_ws.graphs import collate, graph
from ase_ws.typing import GraphBatch


class SkinnedGraph:
    """Gives the graph of a moving structure, building its edges only when it must.

    With edges up to `cutoff + skin`, every pair within `cutoff` is in the list as long as no atom
    has moved by more than skin/2 since it was built, in an unchanged cell. This is exact for
    potentials to which edges beyond `cutoff` add nothing (`Potential.skin_safe`).

    Parameters
    ----------
    cutoff : float, Å
    skin : float, Å
        0 builds the list at every step.
    device, dtype
        Of the graphs.
    """

    def __init__(self, cutoff: float, skin: float, device: torch.device | str, dtype: torch.dtype):
        if not skin >= 0:
            raise ValueError(f"skin must not be negative (Å): {skin}")
        self.cutoff, self.skin, self.device, self.dtype = cutoff, skin, device, dtype
        self.builds = 0
        self._centre = np.zeros(3)
        self._graph: GraphBatch | None = None
        self._built_for: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None = None

    def __call__(self, atoms: Atoms) -> GraphBatch:
        """Graph of the structure as it is now."""
        positions = atoms.positions
        if self._graph is None or self._outdated(atoms):
            cell, pbc = np.array(atoms.cell), atoms.pbc.copy()
            # float32 has steps of 8e-6 Å at 100 Å from the origin: take the centre off before.
            if self.dtype == torch.float32:
                self._centre = positions.mean(axis=0)
            self._graph = graph(
                atoms.numbers, positions - self._centre, cell, pbc, cutoff=self.cutoff + self.skin
            ).to(self.device, self.dtype)
            self._built_for = (atoms.numbers.copy(), positions.copy(), cell, pbc)
            self.builds += 1
            return self._graph
        moved = torch.as_tensor(positions - self._centre, dtype=self.dtype, device=self.device)
        return replace(self._graph, positions=moved)

    def forget(self) -> None:
        """Build the list anew at the next call."""
        self._graph = None

    def joined(self, structures: Sequence[Atoms]) -> GraphBatch:
        """Graph of many structures, each about its own centre; nothing is kept."""
        graphs = []
        for atoms in structures:
            positions = atoms.positions - atoms.positions.mean(axis=0)
            graphs.append(
                graph(atoms.numbers, positions, np.array(atoms.cell), atoms.pbc, cutoff=self.cutoff)
            )
        return collate(graphs).to(self.device, self.dtype)

    def _outdated(self, atoms: Atoms) -> bool:
        assert self._built_for is not None
        numbers, positions, cell, pbc = self._built_for
        if (
            len(numbers) != len(atoms)
            or not np.array_equal(numbers, atoms.numbers)
            or not np.array_equal(cell, atoms.cell)
            or not np.array_equal(pbc, atoms.pbc)
        ):
            return True
        moved = ((atoms.positions - positions) ** 2).sum(axis=1).max()
        # Written so that NaN counts as outdated: the new list then refuses it by name.
        return not moved <= (0.5 * self.skin) ** 2
