"""Radial distribution functions, and the check that compares them with a reference."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from ase_ws.errors import UserError
from ase_ws.md.observer import RunContext, Snapshot
from ase_ws.pairs import find_pairs
from ase_ws.stability.checks.base import Check

#: Functions g(r) by pair of elements, such as "O-O", on the bins of `RDFReference`.
Functions = dict[str, np.ndarray]


@dataclass(frozen=True)
class RDFReference:
    """Reference g(r) of a periodic system.

    Attributes
    ----------
    functions : dict of (n_bins,) arrays
        g(r) by pair of elements.
    reach : float
        Largest r in Å.
    width : float
        Of a bin, Å.
    """

    functions: Functions
    reach: float = 6.0
    width: float = 0.05

    @classmethod
    def of(cls, frames: Sequence[Atoms], reach: float = 6.0, width: float = 0.05) -> RDFReference:
        """Average over frames of a trajectory at the temperature to be checked.

        Raises
        ------
        UserError
            Without frames, or where one is not periodic in three directions, not finite or of
            other elements.
        """
        if not frames or not all(a.pbc.all() and a.cell.rank == 3 for a in frames):
            raise UserError("an RDF needs frames that are periodic in all three directions")
        for number, atoms in enumerate(frames):
            if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()):
                raise UserError(
                    f"RDF reference: frame {number} holds NaN or infinity; leave it out"
                )
            if set(atoms.numbers) != set(frames[0].numbers):
                raise UserError(
                    f"RDF reference: frame {number} has other elements than the first; give "
                    "frames of one system"
                )
        return cls(_mean([radial_distribution(a, reach, width) for a in frames]), reach, width)


def radial_distribution(atoms: Atoms, reach: float, width: float) -> Functions:
    r"""Compute g(r) of one frame for each pair of elements.

    .. math:: g_{ab}(r) = \frac{V}{N_a N_b} \frac{n_{ab}(r)}{4 \pi r^2 \Delta r}

    with n_ab the number of ordered pairs (an atom of a, one of b) in the bin round r.

    Returns
    -------
    dict of (n_bins,) arrays
    """
    edges = np.arange(0.0, reach + 0.5 * width, width)
    shells = 4.0 / 3.0 * np.pi * np.diff(edges**3)
    first, second, distance, _ = find_pairs(atoms, reach)
    elements = np.unique(atoms.numbers)
    functions = {}
    for k, a in enumerate(elements):
        for b in elements[k:]:
            mine = (atoms.numbers[first] == a) & (atoms.numbers[second] == b)
            counts, _ = np.histogram(distance[mine], edges)
            n_pairs = (atoms.numbers == a).sum() * (atoms.numbers == b).sum()
            name = f"{chemical_symbols[a]}-{chemical_symbols[b]}"
            functions[name] = counts / shells * atoms.cell.volume / n_pairs
    return functions


def _mean(several: Sequence[Functions]) -> Functions:
    return {name: np.mean([one[name] for one in several], axis=0) for name in several[0]}


@dataclass
class RDFCheck(Check):
    """Distance of the g(r) of the last while from a reference, ∫|⟨g(r)⟩ − g_ref(r)| dr.

    The largest over the pairs of elements. For liquids and solids at the temperature of the
    reference; not part of `default_checks`, because it needs one.

    Attributes
    ----------
    reference : RDFReference
    fail_at : float
        In Å. Default 1.0, the limit of Fu et al. for the superionic solid LiPS ("Forces are not
        enough", TMLR 2023; for water, with its three pairs, they take 3.0).
    window : float
        Mean over this time, in fs. Default 1,000, as there.
    """

    interval: int = 40
    reference: RDFReference = field(default_factory=lambda: RDFReference({}))
    fail_at: float = 1.0
    window: float = 1000.0

    name: ClassVar[str] = "rdf"
    definition: ClassVar[str] = (
        "integral of |g(r) - g_ref(r)| over r, mean of 1 ps, largest over the pairs of elements; "
        "fails above 1 Å"
    )
    unit: ClassVar[str] = "Å"

    _recent: deque[tuple[float, Functions]] = field(init=False, default_factory=deque, repr=False)

    def start(self, atoms: Atoms, context: RunContext) -> None:
        """Forget any earlier run; the elements must be those of the reference."""
        super().start(atoms, context)
        self._recent = deque()
        self.note = f"needs {self.window / 1000.0:g} ps in one run"
        names = set(radial_distribution(atoms, self.reference.reach, self.reference.width))
        if names != set(self.reference.functions):
            raise UserError(
                f"the RDF reference is for {', '.join(sorted(self.reference.functions)) or 'none'}"
                f", the structure has {', '.join(sorted(names))}: give frames of this system"
            )

    def measure(self, snapshot: Snapshot) -> np.ndarray:
        """Distance for each pair of elements; nothing before the window is full."""
        reference = self.reference
        functions = radial_distribution(snapshot.atoms, reference.reach, reference.width)
        self._recent.append((snapshot.time, functions))
        # The small allowance is for rounding in step × timestep.
        if snapshot.time - self._recent[0][0] < self.window - 1e-6:
            return np.empty(0)
        self.note = ""
        mean = _mean([functions for _, functions in self._recent])
        self._recent.popleft()
        return np.array(
            [
                np.abs(mean[name] - wanted).sum() * reference.width
                for name, wanted in reference.functions.items()
            ]
        )

    def describe(self, snapshot: Snapshot, item: int, value: float) -> tuple[str, tuple[int, ...]]:
        """Name the pair."""
        name = list(self.reference.functions)[item]
        return f"g(r) of {name} is {value:.2f} Å away from the reference", ()
