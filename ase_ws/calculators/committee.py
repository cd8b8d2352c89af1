"""Several potentials as one calculator: their mean, and how far they are apart."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, CalculatorSetupError, all_changes

from ase_ws.calculators.potential import PotentialCalculator, results_of
from ase_ws.calculators.strict import StrictCalculator
from ase_ws.typing import Potential


class CommitteeCalculator(StrictCalculator):
    """Mean energy, forces and stress of several potentials, and their spread.

    With members m = 1..M, mean X̄ and sample standard deviation s(X) = √(Σ_m |X_m − X̄|² / (M−1)):
    `energy` is Ē, `forces` F̄ and `stress` σ̄; `energy_spread` is s(E) in eV, `forces_spread` s(F_i)
    of each atom in eV/Å, (n_atoms,). The mean of conservative members is conservative.

    Parameters
    ----------
    members : sequence of path or Potential
        At least two, which know the same elements; best trained alike with other seeds or frames.
    skin, dtype, device, compile, atoms
        As in `PotentialCalculator`.
    head : str, or sequence of str or None, optional
        Of multi-head models: the same for all members, or one for each.

    Attributes
    ----------
    members : list of PotentialCalculator
    conservative : bool

    Raises
    ------
    TypeError
        A keyword that is none of these.

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
    _made = ("_together",)

    def __init__(
        self,
        members: Sequence[str | os.PathLike[str] | Potential],
        *,
        skin: float = 0.5,
        dtype: torch.dtype | str | None = None,
        device: str | torch.device | None = None,
        compile: bool = False,
        head: str | Sequence[str | None] | None = None,
        atoms: Atoms | None = None,
        **unknown: Any,
    ):
        super().__init__(unknown)
        if isinstance(members, str | os.PathLike) or len(members) < 2:
            raise CalculatorSetupError("a committee needs at least two members: give a list")
        for number, member in enumerate(members):
            if isinstance(member, BaseCalculator):
                raise CalculatorSetupError(
                    f"member {number} is a {type(member).__name__}, an ASE calculator: a committee "
                    "takes model files or potentials (of a PotentialCalculator, its `potential`)"
                )
        heads = [head] * len(members) if head is None or isinstance(head, str) else list(head)
        if len(heads) != len(members):
            raise CalculatorSetupError(f"{len(heads)} heads for {len(members)} members")
        self.members = [
            PotentialCalculator(m, skin=skin, dtype=dtype, device=device, compile=compile, head=h)
            for m, h in zip(members, heads, strict=True)
        ]
        first, *others = (set(m.potential.atomic_numbers) for m in self.members)
        for number, elements in enumerate(others, start=1):
            if elements != first:
                raise CalculatorSetupError(
                    f"members 0 and {number} know other elements: {sorted(first)} and "
                    f"{sorted(elements)}; a committee must agree on what it can judge"
                )
        self.conservative = all(m.conservative for m in self.members)
        self._prepare()
        if atoms is not None:
            atoms.calc = self

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Compute the asked properties into `self.results` (ASE's interface)."""
        super().calculate(atoms, properties, system_changes)
        wanted = {"forces" if name == "forces_spread" else name for name in properties}
        self.results.update(_mean_and_spread(self._of_members(wanted)))

    def in_float64(self) -> CommitteeCalculator:
        """Give a committee of its own on float64 copies of the members, not compiled."""
        members = [member.in_float64() for member in self.members]
        return CommitteeCalculator(
            [member.potential for member in members], skin=members[0].graph.skin
        )

    def _prepare(self) -> None:
        first, *others = (m.evaluator for m in self.members)
        # One pass for all, where the first knows how and the others are like it.
        join = getattr(first, "side_by_side", None)
        self._together = None if join is None else join(others)

    def _of_members(self, wanted: set[str]) -> list[dict[str, Any]]:
        """Results of each member, in one pass where they share an architecture."""
        assert self.atoms is not None
        if self._together is not None and "stress" not in wanted:
            batch = self.members[0].graph(self.atoms)
            return [results_of(p) for p in self._together(batch, forces="forces" in wanted)]
        for member in self.members:
            member.calculate(self.atoms, sorted(wanted), all_changes)
        return [member.results for member in self.members]

    def reset(self) -> None:
        """Forget results, atoms and neighbour lists (ASE's interface)."""
        super().reset()
        for member in getattr(self, "members", []):
            member.reset()


def _mean_and_spread(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name in found[0]:
        values = np.array([results[name] for results in found])
        mean = values.mean(axis=0)
        out[name] = float(mean) if mean.ndim == 0 else mean
        if name == "energy":
            out["energy_spread"] = float(values.std(ddof=1))
        elif name == "forces":
            squares = ((values - mean) ** 2).sum(axis=(0, 2)) / (len(values) - 1)
            out["forces_spread"] = np.sqrt(squares)
    return out
