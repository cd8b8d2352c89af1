"""The contract test: every point of `ase_ws.typing.Potential`, on a few structures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from ase import Atoms
from ase.data import chemical_symbols

from ase_ws.testing.contract import interface, slopes, symmetry
from ase_ws.testing.contract.structures import example_structures
from ase_ws.testing.contract.subject import Subject
from ase_ws.typing import Potential


class PotentialContractError(ValueError):
    """A potential breaks its contract.

    Attributes
    ----------
    violations : tuple of str
        One for each point that does not hold: "point: what was found".
    """

    def __init__(self, potential: object, violations: Sequence[str]):
        self.violations = tuple(violations)
        name = type(potential).__name__
        lines = "\n".join(f"- {violation}" for violation in violations)
        super().__init__(f"{name} breaks the contract of ase_ws.typing.Potential:\n{lines}")


_Points = dict[str, Callable[[Subject], Iterator[str]]]

# One stage after the other: without numbers of the right shape there is nothing to compare.
_SHAPES: _Points = {"shapes": interface.shapes}
_FINITE: _Points = {"finite": interface.finite}
_NUMBERS: _Points = {
    "precision": interface.precision,
    "only what is asked for": interface.only_what_is_asked,
    "energies per atom": interface.energies_add_up,
    "repeatable": interface.repeatable,
    "no mutation": interface.no_mutation,
    "torch.no_grad": interface.without_gradients,
    "batch equals single": symmetry.batching,
    "translation": symmetry.translation,
    "rotation": symmetry.rotation,
    "reflection": symmetry.reflection,
    "permutation": symmetry.permutation,
    "wrapping": symmetry.wrapping,
    "skin_safe": symmetry.cutoff,
    "conservative": slopes.forces,
    "stress": slopes.stress,
    "create_graph": slopes.second_derivatives,
}


def validate_potential(potential: Potential, structures: Sequence[Atoms] | None = None) -> None:
    """Raise unless a potential keeps the contract of `ase_ws.typing.Potential`.

    Looked at: attributes; shapes; finite numbers; precision (energies in float64); nothing
    computed that was not asked for; energies of atoms that add up to the total; two evaluations
    that agree; a batch left as it was; forces under `torch.no_grad`; a batch like its structures
    one by one; invariance under translation, rotation, reflection, permutation, and moving atoms
    by whole lattice vectors (forces and stress turn along); edges beyond `r_max` that add nothing
    where `skin_safe`; forces −dE/dr and stress (1/V) dE/dε against central differences where
    `conservative`; forces that can be differentiated with `create_graph`.

    Parameters
    ----------
    potential : Potential
        Evaluated in its own `dtype` and on its own `device`, where it has these attributes
        (default float64 on the CPU). In float32 the tolerances are some thousand times wider:
        validate in float64 as well.
    structures : sequence of Atoms, optional
        Default: rattled molecules, a lone atom, and a small crystal, made of elements that the
        potential knows. A potential that is only good for some structures should get its own, and
        slightly disordered ones: symmetry hides mistakes.

    Raises
    ------
    PotentialContractError
        Lists every point that does not hold.
    ValueError
        No structures, or one with an element that the potential does not know.

    Examples
    --------
    >>> from ase_ws.testing import Morse, validate_potential
    >>> validate_potential(Morse())
    """
    violations = [f"attributes: {found}" for found in interface.attributes(potential)]
    if violations:
        raise PotentialContractError(potential, violations)
    if structures is None:
        structures = example_structures(potential.atomic_numbers, potential.r_max)
    _require_known(structures, potential.atomic_numbers)
    subject = Subject(potential, structures)
    try:
        for stage in (_SHAPES, _FINITE, _NUMBERS):
            for name, check in stage.items():
                violations += [f"{name}: {found}" for found in _found(check, subject)]
            if violations:
                raise PotentialContractError(potential, violations)
    finally:
        # A potential may have changed it: that is one of the points.
        torch.set_default_dtype(subject.default_dtype)


def _require_known(structures: Sequence[Atoms], elements: tuple[int, ...]) -> None:
    if len(structures) == 0:
        raise ValueError("no structures to validate on: expected at least one")
    unknown = {int(z) for atoms in structures for z in atoms.numbers} - set(elements)
    if unknown:
        symbols = ", ".join(chemical_symbols[z] for z in sorted(unknown))
        raise ValueError(f"the structures hold {symbols}, which the potential does not know")


def _found(check: Callable[[Subject], Iterator[str]], subject: Subject) -> list[str]:
    found: list[str] = []
    try:
        for violation in check(subject):
            found.append(violation)
    except Exception as error:  # noqa: BLE001 - someone else's code: whatever it raises is a finding
        found.append(f"raised {type(error).__name__}: {' '.join(str(error).split()):.200}")
    return list(dict.fromkeys(found))
