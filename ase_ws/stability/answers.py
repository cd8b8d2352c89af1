"""The calculator that is judged, at arm's length: any answer, and any exception, is possible."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, PropertyNotImplementedError

from ase_ws.errors import UserError
from ase_ws.md.evaluation import Evaluation, describe, potential_energy, stored
from ase_ws.md.observer import Finding

#: What says nothing about the potential: a full disk, a lost program, a broken pipe.
_THE_MACHINES = (OSError, EOFError)
#: What the atoms hold that no calculator may change.
_GIVEN = ("positions", "numbers", "momenta")


class PotentialError(ValueError):
    """The potential has raised, or has given what is no answer; the text says which.

    Among `CALCULATOR_FAILURES`, and no RuntimeError, for which contextlib makes an exception.
    """


class MachineError(OSError):
    """The machine has failed while the potential was asked; the text says how."""


#: Name of the finding that says so.
MACHINE = "machine"


def lost(error: MachineError) -> Finding:
    """Say that the machine has failed: the potential is neither safe nor bad for that."""
    return Finding(MACHINE, "warn", f"{error}: nothing is known of what was still to be done")


@contextmanager
def translated() -> Iterator[None]:
    """Give whatever a calculator raises one of the two names above.

    Raises
    ------
    PotentialError, MachineError
    PropertyNotImplementedError
        As it is: that is an answer.
    """
    try:
        yield
    except (PotentialError, MachineError, PropertyNotImplementedError):
        raise
    except _THE_MACHINES as error:
        raise MachineError(f"the calculator was lost: {describe(error)}") from error
    except Exception as error:
        # Foreign code: there is no telling what it raises.
        raise PotentialError(f"the calculator raised {describe(error)}") from error


# ASE's own types say that its getters return None.
# pyright: reportIncompatibleMethodOverride=false
class Judged(BaseCalculator):
    """Passes questions on to a calculator, and answers back if they are answers.

    The energy must be one number, forces (n_atoms, 3), the stress (6,) or (3, 3), and the atoms
    must stay as they were. Energy and forces there must be; the stress, and an energy of its own
    that the forces derive from, not. Numbers that are not finite pass: to find them is for the
    checks, which name the atoms. Everything else is that of the calculator, results and caches
    included.

    Parameters
    ----------
    calculator : ASE calculator
        One that is judged already is taken as it is.

    Attributes
    ----------
    told : str
        What was wrong last.
    """

    def __init__(self, calculator: BaseCalculator):
        self.calculator = calculator.calculator if isinstance(calculator, Judged) else calculator
        self.told = ""

    @classmethod
    def of(cls, atoms: Atoms) -> Judged:
        """Take the calculator that is attached to the atoms."""
        assert atoms.calc is not None
        return cls(atoms.calc)

    def __getattr__(self, name: str) -> Any:
        if name == "calculator":
            raise AttributeError(name)
        return getattr(self.calculator, name)

    @property
    def implemented_properties(self) -> list[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Those of the calculator."""
        return getattr(self.calculator, "implemented_properties", [])

    def calculate(
        self, atoms: Atoms, properties: Sequence[str], system_changes: Sequence[str]
    ) -> None:
        """Nothing is computed here (ASE's interface)."""
        raise NotImplementedError("ask for a property")

    def get_property(
        self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True
    ) -> Any:
        """Ask for a property (ASE's interface)."""
        return self._ask(name, atoms, "get_property", name, atoms, allow_calculation)

    def get_potential_energy(
        self, atoms: Atoms | None = None, force_consistent: bool = False
    ) -> float:
        """Give the energy in eV (ASE's interface)."""
        if force_consistent:
            return self._ask("energy", atoms, "get_potential_energy", atoms, force_consistent=True)
        return self._ask("energy", atoms, "get_potential_energy", atoms)

    def get_forces(self, atoms: Atoms | None = None) -> np.ndarray:
        """Give the forces in eV/Å, (n_atoms, 3) (ASE's interface)."""
        return self._ask("forces", atoms, "get_forces", atoms)

    def get_stress(self, atoms: Atoms | None = None) -> np.ndarray:
        """Give the stress in eV/Å³, (6,) (ASE's interface)."""
        return self._ask("stress", atoms, "get_stress", atoms)

    def stored(self) -> Evaluation | None:
        """Give what the calculator has computed last, see `ase_ws.md.evaluation.stored`."""
        found = stored(self.calculator)
        if found is None:
            return None
        with self._telling():
            return found._replace(energy=_checked("energy", found.energy, len(found.forces)))

    def _ask(self, name: str, atoms: Atoms | None, method: str, *args: Any, **kwargs: Any) -> Any:
        before = None if atoms is None else _held(atoms)
        with self._telling():
            try:
                answer = getattr(self.calculator, method)(*args, **kwargs)
            except PropertyNotImplementedError as error:
                if name not in ("energy", "forces") or kwargs:
                    raise
                raise PotentialError(
                    f"the calculator gives no {name}: {describe(error)}"
                ) from error
            if atoms is None or before is None:
                return answer
            _require_same(atoms, before)
            return _checked(name, answer, len(atoms))

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            with translated():
                yield
        except (PotentialError, MachineError) as error:
            self.told = str(error)
            raise


def _held(atoms: Atoms) -> dict[str, np.ndarray]:
    held = {name: atoms.arrays[name].copy() for name in _GIVEN if name in atoms.arrays}
    return {**held, "cell": atoms.cell.array.copy()}


def _require_same(atoms: Atoms, before: dict[str, np.ndarray]) -> None:
    for name, held in before.items():
        now = atoms.cell.array if name == "cell" else atoms.arrays.get(name)
        if now is None or not np.array_equal(now, held, equal_nan=True):
            if name == "cell":
                atoms.set_cell(held)
            else:
                atoms.arrays[name] = held
            raise PotentialError(f"the calculator changes the {name} of the atoms it is given")


def _checked(name: str, answer: Any, n_atoms: int) -> Any:
    shapes = {"forces": [(n_atoms, 3)], "stress": [(6,), (3, 3)]}
    if answer is None:
        raise PotentialError(f"the calculator gives no {name}, but None")
    if name in ("energy", "free_energy"):
        if np.size(answer) != 1:
            raise PotentialError(f"the calculator gives {np.size(answer)} numbers as the energy")
        return float(np.asarray(answer, dtype=float).reshape(()))
    if name not in shapes:
        return answer
    values = np.array(answer, dtype=float)
    if values.shape not in shapes[name]:
        raise PotentialError(
            f"the calculator gives {name} of shape {values.shape}, not {shapes[name][0]}"
        )
    return values


def require_answer(atoms: Atoms, *, stress: bool = False) -> None:
    """Ask for energy and forces of the start once: a bad set-up is no bad potential.

    Raises
    ------
    UserError
        The calculator cannot be evaluated at all. An answer that is not finite passes: that is for
        the checks to find.
    """
    probe = atoms.copy()
    probe.calc = Judged.of(atoms)
    try:
        # Overflows and NaN are left to the checks, with or without NumPy's warnings as errors.
        with np.errstate(all="ignore"):
            potential_energy(probe)
            probe.get_forces()
            if stress:
                probe.get_stress()
    except (PotentialError, MachineError, PropertyNotImplementedError) as error:
        if isinstance(error.__cause__, UserError):
            # It says what to do already.
            raise error.__cause__ from None
        wanted = "energy, forces and stress" if stress else "energy and forces"
        raise UserError(
            f"the calculator cannot give {wanted} of the starting structure ({error}): use one "
            "that knows these elements and properties"
        ) from error
