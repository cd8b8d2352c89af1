"""Several potentials as one calculator: their mean, and how far they are apart."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, CalculatorSetupError, all_changes

from ase_ws.calculators.potential import PotentialCalculator
from ase_ws.typing import Potential


class CommitteeCalculator(Calculator):
    """Mean energy, forces and stress of several potentials, and their spread.

    With members m = 1..M, mean X̄ and sample standard deviation s(X) = √(Σ_m |X_m − X̄|² / (M−1)):
    `energy` is Ē, `forces` F̄ and `stress` σ̄; `energy_spread` is s(E) in eV, `forces_spread` s(F_i)
    of each atom in eV/Å, (n_atoms,). The mean of conservative members is conservative.

    Parameters
    ----------
    members : sequence of path or Potential
        At least two, which know the same elements; best trained alike with other seeds or frames.
    skin, dtype, device, compile
        As in `PotentialCalculator`.

    Attributes
    ----------
    members : list of PotentialCalculator
    conservative : bool

    Notes
    -----
    A small spread does not prove that the members are right: they may err together. A large one
    says that these atoms are far from what all of them have seen.

    Examples
    --------
    >>> atoms.calc = CommitteeCalculator(["a.safetensors", "b.safetensors"])  # doctest: +SKIP
    >>> atoms.get_potential_energy()  # doctest: +SKIP
    >>> atoms.calc.get_property("forces_spread", atoms).max()  # doctest: +SKIP
    """

    implemented_properties = [  # noqa: RUF012 - ASE's class attribute is a list
        "energy",
        "free_energy",
        "energies",
        "forces",
        "stress",
        "energy_spread",
        "forces_spread",
    ]

    def __init__(
        self,
        members: Sequence[str | os.PathLike[str] | Potential],
        *,
        skin: float = 0.5,
        dtype: torch.dtype | str | None = None,
        device: str = "cpu",
        compile: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if isinstance(members, str | os.PathLike) or len(members) < 2:
            raise CalculatorSetupError("a committee needs at least two members: give a list")
        self.members = [
            PotentialCalculator(m, skin=skin, dtype=dtype, device=device, compile=compile)
            for m in members
        ]
        first, *others = (set(m.potential.atomic_numbers) for m in self.members)
        for number, elements in enumerate(others, start=1):
            if elements != first:
                raise CalculatorSetupError(
                    f"members 0 and {number} know other elements: {sorted(first)} and "
                    f"{sorted(elements)}; a committee must agree on what it can judge"
                )
        self.conservative = all(m.conservative for m in self.members)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Compute the asked properties into `self.results` (ASE's interface)."""
        super().calculate(atoms, list(properties), list(system_changes))
        if system_changes:
            self.results = {}
        wanted = {"forces" if name == "forces_spread" else name for name in properties}
        found = []
        for member in self.members:
            member.calculate(self.atoms, sorted(wanted), all_changes)
            found.append(member.results)
        self.results.update(_mean_and_spread(found))

    def reset(self) -> None:
        """Forget results, atoms and neighbour lists (ASE's interface)."""
        super().reset()
        for member in getattr(self, "members", []):
            member.reset()


def _mean_and_spread(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for name in found[0]:
        values = np.array([results_of[name] for results_of in found])
        mean = values.mean(axis=0)
        results[name] = float(mean) if mean.ndim == 0 else mean
        if name == "energy":
            results["energy_spread"] = float(values.std(ddof=1))
        elif name == "forces":
            squares = ((values - mean) ** 2).sum(axis=(0, 2)) / (len(values) - 1)
            results["forces_spread"] = np.sqrt(squares)
    return results
