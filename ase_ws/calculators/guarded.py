"""Any ASE calculator under guard: every single point is checked before anyone uses it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase.calculators.calculator import (
    BaseCalculator,
    CalculationFailed,
    CalculatorSetupError,
    all_changes,
)

from ase_ws.calculators.strict import StrictCalculator
from ase_ws.pairs import closest_contact

OnViolation = Literal["raise", "warn", "record"]
#: A check of one's own: None where all is well, else a `Violation`.
Check = Callable[[Atoms, dict[str, Any]], "Violation | None"]


@dataclass(frozen=True)
class Violation:
    """What was wrong with a single point.

    Attributes
    ----------
    check : str
    message : str
        One line, with the atoms by name.
    value, threshold : float or None
    atoms : tuple of int
    """

    check: str
    message: str
    value: float | None = None
    threshold: float | None = None
    atoms: tuple[int, ...] = ()


class ViolationError(CalculationFailed):
    """A single point did not pass; `violations` says why."""

    def __init__(self, violations: Sequence[Violation]):
        super().__init__("; ".join(f"{v.check}: {v.message}" for v in violations))
        self.violations = list(violations)


class ViolationWarning(UserWarning):
    """A single point did not pass."""


class GuardedCalculator(StrictCalculator):
    """Wrap any ASE calculator; its results pass only if they pass the checks.

    =========  ============================================================  =====================
    check      fails when                                                    default
    =========  ============================================================  =====================
    finite     energy, forces, stress or positions hold NaN or infinity      always
    contact    two atoms are closer than `contact` (R_i + R_j)               0.5, as in MD
    force      an atom feels more than `max_force`                           50 eV/Å, as in MD
    spread     a committee's `forces_spread` of an atom exceeds `max_spread` off
    =========  ============================================================  =====================

    Parameters
    ----------
    calculator : ASE calculator
    on_violation : {"raise", "warn", "record"}
        Raise a `ViolationError`, warn, or only keep it in `violations`. NaN is never silent: with
        "record" it raises as well.
    contact : float or None
        None leaves the check out, here and below.
    max_force : float or None, eV/Å
    max_spread : float or None, eV/Å
        Needs a calculator that knows "forces_spread", such as `CommitteeCalculator`.
    checks : sequence of callable
        More checks: called as `check(atoms, results)`, give a `Violation` or None.
    atoms : Atoms, optional
        Get the calculator attached.

    Raises
    ------
    TypeError
        A keyword that is none of these.

    Attributes
    ----------
    violations : list of Violation
        All so far.

    Examples
    --------
    >>> atoms.calc = GuardedCalculator(calc, max_force=30)  # doctest: +SKIP
    """

    def __init__(
        self,
        calculator: BaseCalculator,
        on_violation: OnViolation = "raise",
        *,
        contact: float | None = 0.5,
        max_force: float | None = 50.0,
        max_spread: float | None = None,
        checks: Sequence[Check] = (),
        atoms: Atoms | None = None,
        **unknown: Any,
    ):
        super().__init__(unknown)
        if on_violation not in ("raise", "warn", "record"):
            raise CalculatorSetupError(
                f"on_violation is {on_violation!r}: use 'raise', 'warn' or 'record'"
            )
        self.calculator = calculator
        self.implemented_properties = list(calculator.implemented_properties)
        if max_spread is not None and "forces_spread" not in self.implemented_properties:
            raise CalculatorSetupError(
                "max_spread needs a calculator that knows 'forces_spread': a CommitteeCalculator"
            )
        self.on_violation: OnViolation = on_violation
        self.contact, self.max_force, self.max_spread = contact, max_force, max_spread
        self.checks = list(checks)
        self.violations: list[Violation] = []
        if atoms is not None:
            atoms.calc = self

    @property
    def conservative(self) -> bool:
        """Whether the forces are the gradient of the energy, as far as the calculator says."""
        return getattr(self.calculator, "conservative", True)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Compute the asked properties and check them (ASE's interface)."""
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None
        wanted = list(properties)
        if self.max_spread is not None and "forces" in wanted:
            wanted.append("forces_spread")
        # Before the calculator sees them: many take NaN for atoms without neighbours.
        found = _not_finite({"positions": self.atoms.positions, "cell": self.atoms.cell.array})
        results: dict[str, Any] = {}
        if not found:
            results = {n: self.calculator.get_property(n, self.atoms) for n in wanted}
            results |= {
                name: value
                for name, value in getattr(self.calculator, "results", {}).items()
                if name not in results
            }
            found = [v for v in self._violations(self.atoms, results) if v is not None]
        self._report(found)
        self.results.update(results)

    def in_float64(self) -> GuardedCalculator:
        """Give the same guard around a float64 copy, or the calculator itself if it has none."""
        raised: Any = getattr(self.calculator, "in_float64", None)
        return GuardedCalculator(
            raised() if raised is not None else self.calculator,
            self.on_violation,
            contact=self.contact,
            max_force=self.max_force,
            max_spread=self.max_spread,
            checks=self.checks,
        )

    def reset(self) -> None:
        """Forget results and atoms, here and inside (ASE's interface)."""
        super().reset()
        inner = getattr(getattr(self, "calculator", None), "reset", None)
        if callable(inner):
            inner()

    def _violations(self, atoms: Atoms, results: dict[str, Any]) -> list[Violation | None]:
        names = ("energy", "free_energy", "energies", "forces", "stress")
        bad = _not_finite({n: results[n] for n in names if results.get(n) is not None})
        if bad:
            return list(bad)
        return [
            _contact(atoms, self.contact),
            _limit("force", _norms(results.get("forces")), self.max_force, atoms, "eV/Å"),
            _limit("spread", results.get("forces_spread"), self.max_spread, atoms, "eV/Å"),
            *(check(atoms, results) for check in self.checks),
        ]

    def _report(self, found: Sequence[Violation]) -> None:
        self.violations += found
        if not found:
            return
        if self.on_violation == "raise" or any(v.check == "finite" for v in found):
            self.results = {}
            raise ViolationError(found)
        if self.on_violation == "warn":
            warnings.warn(str(ViolationError(found)), ViolationWarning, stacklevel=4)


def _not_finite(quantities: dict[str, Any]) -> list[Violation]:
    bad = [name for name, value in quantities.items() if not np.isfinite(value).all()]
    return [Violation("finite", f"not finite: {', '.join(bad)}")] if bad else []


def _norms(forces: np.ndarray | None) -> np.ndarray | None:
    return None if forces is None else np.linalg.norm(forces, axis=1)


def _limit(
    check: str, values: np.ndarray | None, limit: float | None, atoms: Atoms, unit: str
) -> Violation | None:
    if values is None or limit is None or len(values) == 0:
        return None
    worst = int(values.argmax())
    if values[worst] <= limit:
        return None
    name = f"{atoms.symbols[worst]}{worst}"
    message = f"{values[worst]:.3g} {unit} on {name}, above {limit:g} {unit}"
    return Violation(check, message, float(values[worst]), limit, (worst,))


def _contact(atoms: Atoms, limit: float | None) -> Violation | None:
    """Find the closest pair in units of the sum of covalent radii, periodic images included."""
    contact = None if limit is None else closest_contact(atoms, limit)
    if contact is None:
        return None
    message = f"{contact.told(atoms)}, {contact.ratio:.2f} of their radii, below {limit:g}"
    return Violation("contact", message, contact.ratio, limit, (contact.first, contact.second))
