"""A neighbour list with a skin, reused until an atom has moved half of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from ase import Atoms

from ase_ws.graphs import collate, graph, state_of
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
        #: From the graph's positions to the structure's, (n_atoms, 3), Å.
        self._offset = np.zeros((0, 3))
        self._graph: GraphBatch | None = None
        self._built_for: tuple[Any, ...] | None = None

    def __call__(self, atoms: Atoms) -> GraphBatch:
        """Graph of the structure as it is now."""
        positions = atoms.positions
        if self._graph is None or self._outdated(atoms):
            cell, pbc = np.array(atoms.cell), atoms.pbc.copy()
            cutoff = self.cutoff + self.skin
            state = state_of(atoms.info)
            built = graph(
                atoms.numbers, positions, cell, pbc, cutoff=cutoff, state=state, dtype=self.dtype
            )
            self._offset = positions - built.positions.numpy()
            self._graph = built.to(self.device, self.dtype)
            self._built_for = (atoms.numbers.copy(), positions.copy(), cell, pbc, state)
            self.builds += 1
            return self._graph
        moved = torch.as_tensor(positions - self._offset, dtype=self.dtype, device=self.device)
        return replace(self._graph, positions=moved)

    def forget(self) -> None:
        """Build the list anew at the next call."""
        self._graph = None

    def joined(self, structures: Sequence[Atoms]) -> GraphBatch:
        """Graph of many structures; nothing is kept."""
        graphs = [
            graph(
                a.numbers,
                a.positions,
                np.array(a.cell),
                a.pbc,
                cutoff=self.cutoff,
                state=state_of(a.info),
                dtype=self.dtype,
            )
            for a in structures
        ]
        return collate(graphs).to(self.device, self.dtype)

    def _outdated(self, atoms: Atoms) -> bool:
        assert self._built_for is not None
        numbers, positions, cell, pbc, state = self._built_for
        if (
            len(numbers) != len(atoms)
            or not np.array_equal(numbers, atoms.numbers)
            or not np.array_equal(cell, atoms.cell)
            or not np.array_equal(pbc, atoms.pbc)
            or state != state_of(atoms.info)
        ):
            return True
        moved = ((atoms.positions - positions) ** 2).sum(axis=1).max()
        # Written so that NaN counts as outdated: the new list then refuses it by name.
        return not moved <= (0.5 * self.skin) ** 2
