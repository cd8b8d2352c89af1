"""The potential under test, evaluated as the calculators do, and what counts as a difference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from ase_ws.graphs import collate, graph, state_of
from ase_ws.typing import GraphBatch, Potential


@dataclass(frozen=True)
class Tolerance:
    """What rounding may do.

    All but the steps grow with the largest force of the structures where that is above 1 eV/Å.

    Attributes
    ----------
    energy : float, eV per atom
    forces : float, eV/Å
    stress : float, eV/Å³
    slope : float, eV/Å
        Between forces and differences of the energy over `step`; a tenth of it, in eV/Å³, between
        stress and differences over `strain`.
    curvature : float
        Between gradients of forces and differences of forces over `step`, as a fraction.
    step : float, Å
    strain : float
    """

    energy: float
    forces: float
    stress: float
    slope: float
    curvature: float
    step: float
    strain: float


TOLERANCES = {
    torch.float64: Tolerance(1e-7, 1e-6, 1e-6, 1e-5, 1e-4, step=3e-4, strain=1e-4),
    # Energies of a few eV per atom are known to 1e-6 eV: over 0.01 Å that is 1e-4 eV/Å an atom.
    torch.float32: Tolerance(2e-4, 2e-3, 2e-3, 2e-2, 5e-2, step=1e-2, strain=3e-3),
}


@dataclass(frozen=True)
class Values:
    """Results for a list of structures.

    Attributes
    ----------
    energy : list of float, eV
    forces : list of ndarray, (n_atoms, 3), eV/Å
    stress : list of ndarray, (3, 3), eV/Å³
    """

    energy: list[float]
    forces: list[np.ndarray]
    stress: list[np.ndarray]

    @property
    def scale(self) -> float:
        """The largest force, or 1 eV/Å."""
        return max(1.0, *(float(np.abs(f).max()) for f in self.forces))


class Subject:
    """A potential and the structures that it is evaluated on.

    Parameters
    ----------
    potential : Potential
    structures : sequence of Atoms
    """

    def __init__(self, potential: Potential, structures: Sequence[Atoms]):
        self.potential, self.structures = potential, list(structures)
        self.dtype: torch.dtype = getattr(potential, "dtype", torch.float64)
        self.device = getattr(potential, "device", "cpu")
        self.tolerance = TOLERANCES.get(self.dtype, TOLERANCES[torch.float32])
        self.default_dtype = torch.get_default_dtype()
        self.rng = np.random.default_rng(0)

    def batch(self, structures: Sequence[Atoms] | None = None, skin: float = 0.0) -> GraphBatch:
        """Build a fresh graph: nothing that one evaluation does can reach the next."""
        cutoff = float(self.potential.r_max) + skin
        graphs = [
            graph(
                a.numbers,
                a.positions,
                np.array(a.cell),
                a.pbc,
                cutoff=cutoff,
                state=state_of(a.info),
            )
            for a in (self.structures if structures is None else structures)
        ]
        return collate(graphs).to(self.device, self.dtype)

    def values(self, structures: Sequence[Atoms] | None = None, skin: float = 0.0) -> Values:
        """Evaluate structures in one batch."""
        batch = self.batch(structures, skin)
        out = self.potential(batch, forces=True, stress=True)
        assert out.forces is not None
        assert out.stress is not None
        ends = np.cumsum(batch.n_atoms.tolist())[:-1]
        return Values(
            as_numpy(out.energy).tolist(),
            np.split(as_numpy(out.forces), ends),
            list(as_numpy(out.stress)),
        )

    def energies(self, structures: Sequence[Atoms]) -> np.ndarray:
        """Energies of structures, (n,), eV."""
        return as_numpy(self.potential(self.batch(structures), forces=False).energy)

    def changed(self, change: Callable[[Atoms], None]) -> list[Atoms]:
        """Copy the structures and do something to each copy."""
        copies = [atoms.copy() for atoms in self.structures]
        for atoms in copies:
            change(atoms)
        return copies

    def differences(self, expected: Values, found: Values) -> Iterator[str]:
        """Tell what of two sets of values differs by more than rounding: the worst of each."""
        scale, tolerance = expected.scale, self.tolerance
        energy = [
            abs(a - b) / len(atoms)
            for a, b, atoms in zip(expected.energy, found.energy, self.structures, strict=True)
        ]
        yield from self.worst("energy", energy, tolerance.energy * scale, "eV per atom")
        forces = _largest(expected.forces, found.forces)
        yield from self.worst("forces", forces, tolerance.forces * scale, "eV/Å")
        stress = _largest(expected.stress, found.stress)
        yield from self.worst("stress", stress, tolerance.stress * scale, "eV/Å³")

    def worst(self, what: str, off: Sequence[float], limit: float, unit: str) -> Iterator[str]:
        """Report the structure that is furthest off, if it is too far (NaN is)."""
        k = int(np.argmax(off))
        if not off[k] <= limit:
            atoms = self.structures[k]
            name = atoms.get_chemical_formula() + (", periodic," if atoms.pbc.any() else "")
            yield f"{what} of {name} off by {off[k]:.2g} {unit} (rounding allows {limit:.1g})"


def _largest(expected: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> list[float]:
    return [float(np.abs(a - b).max()) for a, b in zip(expected, found, strict=True)]


def as_numpy(tensor: Tensor) -> np.ndarray:
    """Values of a tensor in float64."""
    return tensor.detach().cpu().double().numpy()
