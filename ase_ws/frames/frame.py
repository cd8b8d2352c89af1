"""One structure with the labels it has."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from ase.data import chemical_symbols
from ase.formula import Formula

from ase_ws.errors import UserError
from ase_ws.graphs import NEUTRAL, closest_pair, graph
from ase_ws.pairs import edges
from ase_ws.typing import GraphBatch, Labels

#: Two atoms closer than this (Å) are one atom written twice: networks answer NaN, or nonsense.
ONE_PLACE = 0.01


# Comparing arrays has no single answer, so frames compare by identity.
@dataclass(frozen=True, eq=False)
class Frame:
    """One structure with the labels it has.

    Attributes
    ----------
    numbers : ndarray, (n_atoms,)
    positions : ndarray, (n_atoms, 3), Å
    cell : ndarray, (3, 3), Å
    pbc : ndarray, (3,), bool
    energy : float or None, eV
    forces : ndarray, (n_atoms, 3), or None, eV/Å
    stress : ndarray, (3, 3), or None, eV/Å³
    source : str
        File and position in it, for messages.
    config_type : str
        What the file calls it; "IsolatedAtom" marks a reference energy.
    state : tuple of float
        Total charge (e) and spin multiplicity, see `ase_ws.graphs.state_of`.
    weights : tuple of float
        Of energy, forces and stress in the loss.
    head : str
        The level of theory that the file says its labels are of; empty where it says none.
    unused : tuple of str
        Keys beside it that look like labels, weights or the like, and were not taken.
    """

    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    energy: float | None = None
    forces: np.ndarray | None = None
    stress: np.ndarray | None = None
    source: str = ""
    config_type: str = ""
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    head: str = ""
    unused: tuple[str, ...] = ()
    state: tuple[float, float] = NEUTRAL

    def is_isolated_atom(self, cutoff: float) -> bool:
        """Whether its energy is a reference energy E0: one atom without a neighbour in reach.

        In a periodic box the images are neighbours: a crystal of one atom is none, a lone atom in
        a wide box is one. `config_type=IsolatedAtom` says so whatever the box.

        Raises
        ------
        UserError
            The file calls several atoms one isolated atom.
        """
        marked = self.config_type.lower().replace("_", "") == "isolatedatom"
        if len(self.numbers) > 1:
            if marked:
                raise UserError(
                    f"{self.source}: config_type={self.config_type}, but it has "
                    f"{len(self.numbers)} atoms; expected one: call it something else"
                )
            return False
        if marked or not self.pbc.any():
            return True
        with self._named():
            return edges(self.positions, self.cell, self.pbc, cutoff)[0].shape[1] == 0

    @property
    def formula(self) -> str:
        """Composition, in Hill's order."""
        symbols = [chemical_symbols[z] for z in self.numbers]
        return str(Formula.from_list(symbols).format("hill"))

    def labels(self) -> Labels:
        """Give the labels as tensors, absent ones masked (and NaN, so that a slip shows)."""
        n = len(self.numbers)
        return Labels(
            # Not through torch's default float32: it would round -17,600 eV to 2 meV.
            energy=torch.tensor(
                [np.nan if self.energy is None else self.energy], dtype=torch.float64
            ),
            has_energy=torch.tensor([self.energy is not None]),
            forces=torch.from_numpy(
                np.full((n, 3), np.nan) if self.forces is None else self.forces
            ),
            has_forces=torch.tensor([self.forces is not None]),
            stress=torch.from_numpy(
                np.full((3, 3), np.nan) if self.stress is None else self.stress
            )[None],
            has_stress=torch.tensor([self.stress is not None]),
            weights=torch.tensor([self.weights], dtype=torch.float64),
        )

    def graph(
        self, cutoff: float, frame_id: int | None = None, dtype: torch.dtype = torch.float64
    ) -> GraphBatch:
        """Give the frame as a graph with every pair up to `cutoff` (Å), see `ase_ws.graphs.graph`.

        Raises
        ------
        UserError
            Two atoms are at one place.
        """
        with self._named():
            made = graph(
                self.numbers,
                self.positions,
                self.cell,
                self.pbc,
                cutoff=cutoff,
                labels=self.labels(),
                frame_id=frame_id,
                state=self.state,
                dtype=dtype,
            )
        closest = closest_pair(made)
        if closest is not None and not closest[0] > ONE_PLACE:
            distance, *pair = closest
            first, second = (f"{chemical_symbols[self.numbers[k]]}{k}" for k in pair)
            raise UserError(
                f"{self.source}: atoms {first} and {second} are {distance:.3g} Å apart; expected "
                "no two atoms at one place: mend or remove the frame"
            )
        return made

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Say in an error which frame it is about."""
        try:
            yield
        except UserError as error:
            raise UserError(f"{self.source or self.formula}: {error}") from error


def content_hash(frames: Iterable[Frame]) -> str:
    """Fingerprint of structures and labels, in their order; names of files do not count."""
    digest = hashlib.sha256()
    for frame in frames:
        arrays = (frame.numbers, frame.positions, frame.cell, frame.pbc, frame.forces, frame.stress)
        for array in arrays:
            digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
        if frame.state != NEUTRAL:
            digest.update(repr(frame.state).encode())
        if any(weight != 1.0 for weight in frame.weights):
            digest.update(repr(frame.weights).encode())
        digest.update(repr(None if frame.energy is None else float(frame.energy)).encode())
    return digest.hexdigest()
