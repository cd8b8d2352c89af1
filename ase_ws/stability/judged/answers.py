"""The calculator that is judged, at arm's length: any answer, and any exception, is possible."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, PropertyNotImplementedError

from ase_ws.calculators.guarded import GuardedCalculator
from ase_ws.errors import UserError
from ase_ws.md.evaluation import (
    Evaluation,
    MisshapenError,
    describe,
    potential_energy,
    stored,
    well_shaped,
)
from ase_ws.results.finding import Finding
from ase_ws.stability.judged.alarm import TooLongError, within

if TYPE_CHECKING:
    from ase_ws.stability.judged.home import Home

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


class LostStart(MachineError):  # noqa: N818 - no error of the machine, but handled as one
    """The calculator does not say of the start what it said at first; the text says since when."""


#: Names of the findings that say so: each leaves open what was still to be done.
MACHINE, STATE = "machine", "state"


def lost(error: MachineError) -> Finding:
    """Say that the machine has failed: the potential is neither safe nor bad for that."""
    if isinstance(error, LostStart):
        return Finding(STATE, "warn", str(error))
    return Finding(MACHINE, "warn", f"{error}: nothing is known of what was still to be done")


def energy_tolerance(energy: float) -> float:
    """Most that an energy may change by rounding and loose self-consistency, in eV.

    A meV, and four times the spacing of float32 numbers of its size.
    """
    return max(1e-3, 4.0 * float(np.spacing(np.float32(abs(energy)))))


def unguarded(calculator: Any) -> Any:
    """Give the calculator behind its guards, which raise where a check wants to go.

    One that is judged stays so.
    """
    if isinstance(calculator, Judged):
        return Judged(unguarded(calculator.calculator), calculator.home)
    while isinstance(calculator, GuardedCalculator):
        calculator = calculator.calculator
    return calculator


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
        One that is judged already is taken as it is, with its home.
    home : Home, optional
        Brings it back after what may have upset it, and limits how long it may take.

    Attributes
    ----------
    told : str
        What was wrong last.
    """

    def __init__(self, calculator: BaseCalculator, home: Home | None = None):
        if isinstance(calculator, Judged):
            calculator, home = calculator.calculator, home or calculator.home
        self.calculator, self.home = calculator, home
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
        if self.home is not None and atoms is not None:
            self.home.before(atoms)
        before = None if atoms is None else _held(atoms)
        with self._telling():
            try:
                answer = self._in_time(getattr(self.calculator, method), atoms, *args, **kwargs)
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

    def _in_time(
        self, method: Callable[..., Any], atoms: Atoms | None, *args: Any, **kwargs: Any
    ) -> Any:
        if self.home is None or atoms is None:
            return method(*args, **kwargs)
        limit = self.home.limit(len(atoms))
        for last in (False, True):
            started = time.perf_counter()
            try:
                with within(limit):
                    answer = method(*args, **kwargs)
            except TooLongError as error:
                # Once is no sign: the process may have been stopped, or the machine have stalled.
                if last:
                    raise PotentialError(f"the calculator gave {error}, twice") from error
            else:
                self.home.took(time.perf_counter() - started)
                return answer
        raise AssertionError("unreachable")

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
    try:
        return well_shaped(name, answer, n_atoms)
    except MisshapenError as error:
        raise PotentialError(f"the calculator gives {error}") from error


def require_answer(atoms: Atoms, *, stress: bool = False) -> None:
    """Ask for energy and forces of the start once: a bad set-up is no bad potential.

    Raises
    ------
    UserError
        The calculator cannot be evaluated at all. An answer that is not finite passes: that is for
        the checks to find.
    """
    probe = atoms.copy()
    probe.calc = judged = Judged.of(atoms)
    try:
        _ask_all(probe, stress)
    except (PotentialError, MachineError, PropertyNotImplementedError) as error:
        if isinstance(error.__cause__, UserError):
            # It says what to do already.
            raise error.__cause__ from None
        wanted = "energy, forces and stress" if stress else "energy and forces"
        remedy = "use one that knows these elements and properties"
        if not isinstance(error, MachineError) and _answers_in_a_box(probe, stress):
            remedy = (
                "it does with a periodic cell around it, which it seems to need: "
                "atoms.center(vacuum=10); atoms.pbc = True"
            )
        raise UserError(
            f"the calculator cannot give {wanted} of the starting structure ({error}): {remedy}"
        ) from error
    if judged.home is not None:
        judged.home.settle(probe)


def _ask_all(atoms: Atoms, stress: bool) -> None:
    # Overflows and NaN are left to the checks, with or without NumPy's warnings as errors.
    with np.errstate(all="ignore"):
        potential_energy(atoms)
        atoms.get_forces()
        if stress:
            atoms.get_stress()


def _answers_in_a_box(atoms: Atoms, stress: bool) -> bool:
    """Whether a calculator that fails without a periodic cell answers with one."""
    if atoms.pbc.any():
        return False
    boxed = atoms.copy()
    boxed.center(vacuum=10.0)
    boxed.pbc = True
    boxed.calc = atoms.calc
    try:
        _ask_all(boxed, stress)
    except (PotentialError, MachineError, PropertyNotImplementedError):
        return False
    return True
