"""Where a calculator began, and whether it still says the same there: it is left as it was found.

Many calculators have a state: a self-consistent one takes its last density for its next guess, a
program runs on beside it. The stages of the suite that squeeze and tear atoms can leave behind a
state in which the next ordinary structure comes out wrong, and that is the suite's doing, not the
potential's. Everything about this is here.
"""

from __future__ import annotations

import copy
import functools
import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import FunctionType
from typing import Any, ParamSpec, TypeVar

import numpy as np
from ase import Atoms

from ase_ws.calculators import PotentialCalculator
from ase_ws.md.evaluation import potential_energy
from ase_ws.stability.judged.answers import (
    Judged,
    LostStart,
    MachineError,
    PotentialError,
    energy_tolerance,
    unguarded,
)

#: Displacement in Å of the ordinary structures that a new calculator is tried with, as `Probe`'s.
_AWAY = 0.05

#: What is put back.
_SEEN = ("results", "atoms", "parameters")

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class Home:
    """A calculator and the structure that it comes back to.

    The energy at the start is asked for again after whatever may have upset the calculator. Is it
    another one, the calculator is reset (ASE's `reset`), then made anew in place: as the copy
    that was taken before anything was asked, where it is plain Python, or by its class from its
    `parameters`. Made anew,
    it must also bear as many questions about ordinary structures as the old one was asked: one
    that *wears out* is not forgiven, but left as it is for the checks to find.

    Parameters
    ----------
    calculator : ASE calculator
        That has not been asked anything yet.

    Attributes
    ----------
    questions : int
        Structures that the calculator was asked about, one after the other.
    at_home : int
        How often the start was asked for again.
    worn : bool
        The calculator changes in ordinary use: nothing more is done about it.
    lost : bool
        Nothing has brought the start back.
    patience, slowness : float
        A question takes too long above `patience` seconds and `slowness` times the first ones
        that were answered; for more atoms than the start has, longer by the cube of their number,
        as diagonalisation takes. Defaults 60 s and 100.
    most_tries : int
        A new calculator is tried with no more questions than this. Default 2000.
    """

    patience: float = 60.0
    slowness: float = 100.0
    most_tries: int = 2000

    def __init__(self, calculator: Any):
        self.judged = Judged(calculator, self)
        self._inner = unguarded(calculator)
        self._makers = _makers(self._inner)
        self.questions = self.at_home = self._asked = self._borne = 0
        self.worn = self.lost = self._busy = False
        self._last: np.ndarray | None = None
        self._slowest, self._n_atoms = 0.0, 1
        self._here: Atoms | None = None
        self._energy = np.nan
        self._begun: tuple[Atoms, float] | None = None

    def settle(self, atoms: Atoms) -> None:
        """Take this for the start from now on, with the energy that is given now."""
        here = atoms.copy()
        here.set_constraint()
        here.calc = self.judged
        # What fails here is for those to find who ask next.
        with np.errstate(all="ignore"), suppress(PotentialError, MachineError):
            self._here, self._energy = here, potential_energy(here)
        if self._begun is None and self._here is not None:
            self._begun, self._n_atoms = (self._here, self._energy), len(here)

    def back(self, stage: str) -> bool:
        """Ask for the start, and bring the calculator back to it; say whether it had to be.

        Raises
        ------
        LostStart
            Nothing helps.
        MachineError
        """
        # A start without an energy is for the checks to find.
        if self._busy or self.worn or self._here is None or not np.isfinite(self._energy):
            return False
        with self._at_home():
            off = self._off()
            if self._is_home(off):
                return False
            if self._renewed():
                return True
            if self.worn:
                return False
        self.lost = True
        what = "gives no energy" if np.isinf(off) else f"is off by {off:.3g} eV"
        raise LostStart(
            f"the calculator lost the start in {stage}: asked again, it {what} there, and neither "
            "reset() nor a new one helps: give a fresh one, converge more tightly, or use "
            "static=False"
        )

    def before(self, atoms: Atoms) -> None:
        """Count a question."""
        if self._busy:
            return
        if self._last is None or not np.array_equal(self._last, atoms.positions):
            self.questions += 1
            self._asked += 1
            self._last = atoms.positions.copy()

    def limit(self, n_atoms: int) -> float | None:
        """Most seconds for a question about so many atoms; None for the first of all."""
        if self.questions <= 1:
            return None
        if self.questions == 2:
            # The first structure may have been known already, and the next be far slower. Who
            # needs ten minutes for it needs days for a short run.
            return 10.0 * self.patience
        growth = max(1.0, n_atoms / self._n_atoms) ** 3
        return growth * max(self.patience, self.slowness * self._slowest)

    def took(self, seconds: float) -> None:
        """Note how long a question took."""
        if self.questions <= 2:
            self._slowest = max(self._slowest, seconds)

    def leave(self, last: Atoms | None) -> None:
        """Bring the calculator back to where it was before all, `last` asked about these atoms."""
        if self._begun is not None and not self.lost:
            self._here, self._energy = self._begun
            try:
                self.back("the course of all")
            except LostStart as error:
                warnings.warn(str(error), RuntimeWarning, stacklevel=2)
            except MachineError:
                # The report says so.
                return
        if last is None or self.worn:
            self.reset()
            return
        # What is put back in `results` must be of the atoms that the inside has seen last.
        again = last.copy()
        again.calc = self.judged
        with self._at_home(), suppress(PotentialError, MachineError):
            potential_energy(again)

    @contextmanager
    def _at_home(self) -> Iterator[None]:
        self._busy = True
        try:
            with np.errstate(all="ignore"):
                yield
        finally:
            self._busy = False

    def _off(self, calculator: Any = None) -> float:
        """Change of the energy of the start in eV; infinite where there is none."""
        assert self._here is not None
        self.at_home += 1
        self._asked += 1
        probe = self._here.copy()
        probe.calc = self.judged if calculator is None else calculator
        try:
            return abs(potential_energy(probe) - self._energy)
        except PotentialError:
            return np.inf

    def _is_home(self, off: float) -> bool:
        return off <= energy_tolerance(self._energy)

    def reset(self) -> None:
        """Reset the calculator, where it can be."""
        reset = getattr(self.judged.calculator, "reset", None)
        if callable(reset):
            # Foreign code, and no harm where it fails.
            with suppress(Exception):
                reset()

    def _renewed(self) -> bool:
        """Reset it, or make it anew; say whether that has brought the start back."""
        self.reset()
        if self._is_home(self._off()):
            return True
        for make in self._makers:
            # Foreign code again: it may refuse in any way, and that of ours may find no machine.
            with suppress(Exception):
                fresh = make()
                _swap(self._inner, fresh)
                try:
                    self.reset()
                    helps = self._is_home(self._off())
                    self.worn = helps and not self._bears(make())
                    if helps and not self.worn:
                        self._asked = 0
                        return True
                except BaseException:
                    _swap(self._inner, fresh)
                    raise
                _swap(self._inner, fresh)
                if self.worn:
                    return False
        return False

    def _bears(self, fresh: Any) -> bool:
        """Whether a new calculator bears as many questions as the old one was asked."""
        assert self._here is not None
        asked = min(self._asked, self.most_tries)
        if asked <= self._borne:
            return True
        judged, rng = Judged(fresh, self), np.random.default_rng(3)
        probe = self._here.copy()
        probe.calc = judged
        first = self._here.positions + rng.normal(0.0, _AWAY, probe.positions.shape)
        try:
            probe.positions = first
            energy = potential_energy(probe)
            for _ in range(max(1, asked) - 1):
                away = rng.normal(0.0, _AWAY, probe.positions.shape)
                probe.positions = self._here.positions + away
                potential_energy(probe)
            # The first one again at the end: answers that are always the same are none.
            probe.positions = first
            again = potential_energy(probe)
        except PotentialError:
            return False
        self._borne = asked
        return self._is_home(abs(again - energy)) and self._is_home(self._off(judged))


def _makers(calculator: Any) -> list[Callable[[], Any]]:
    """Ways to make the calculator anew, as it is now."""
    makers: list[Callable[[], Any]] = []
    if _is_plain(calculator):
        with suppress(Exception):
            spare = copy.deepcopy(calculator)
            makers.append(lambda: copy.deepcopy(spare))
    parameters = getattr(calculator, "parameters", None)
    # Without parameters nothing says that the class would give the same calculator.
    if isinstance(parameters, dict) and parameters:
        with suppress(Exception):
            known = copy.deepcopy(dict(parameters))
            makers.append(lambda: type(calculator)(**copy.deepcopy(known)))
    return makers


def _is_plain(thing: Any, depth: int = 6) -> bool:
    """Whether a thing is made of numbers, text and plain Python objects alone, and may be copied.

    What else a calculator may hold (handles of C libraries, files, sockets, networks) is shared
    by a copy, which closes it when it goes, or is large.
    """
    if thing is None or isinstance(
        thing, (bool, int, float, complex, str, bytes, np.ndarray, np.generic, type, FunctionType)
    ):
        return True
    if depth == 0 or hasattr(type(thing), "__del__"):
        return False
    if isinstance(thing, (list, tuple, set, frozenset)):
        return all(_is_plain(part, depth - 1) for part in thing)
    inside = dict(thing) if isinstance(thing, dict) else getattr(thing, "__dict__", None)
    # Without a dictionary it is somebody's C code, but for random numbers.
    if inside is None:
        return isinstance(thing, np.random.Generator)
    return all(_is_plain(part, depth - 1) for part in inside.values())


def _swap(first: Any, second: Any) -> None:
    """Exchange what two objects of a class hold, so that all who know the first have the second.

    The old state stays whole in the other object, which takes it along when it is deleted.
    """
    first.__dict__, second.__dict__ = second.__dict__, first.__dict__


def as_found(judge: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Lend a function the calculators of its `atoms`, or `calculator`, and `compare`."""
    signature = inspect.signature(judge)

    @functools.wraps(judge)
    def judging(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        bound = signature.bind(*args, **kwargs)
        given = bound.arguments
        if given.get("calculator") is None:
            given["calculator"] = getattr(given.get("atoms"), "calc", None)
        with ExitStack() as stack:
            for name in ("calculator", "compare"):
                if given.get(name) is not None:
                    given[name] = stack.enter_context(visiting(given[name]))
            return judge(*bound.args, **bound.kwargs)

    return judging


@contextmanager
def visiting(calculator: Any) -> Iterator[Any]:
    """Give a calculator that has a `Home`, or one of this package's own; leave it as it was.

    Its `results`, `atoms` and `parameters` are put back, and what it says next of the structure
    that it was asked about is what it said before.
    """
    inner = unguarded(calculator)
    layers = [layer for layer in {id(x): x for x in (calculator, inner)}.values() if _open(layer)]
    found = [_held(layer) for layer in layers]
    home = None if type(inner) is PotentialCalculator else Home(calculator)
    try:
        yield calculator if home is None else home.judged
        if home is not None:
            home.leave(next((held.get("atoms") for held in reversed(found)), None))
    except BaseException:
        # The user waits for an answer, not for another evaluation.
        if home is not None and home.questions:
            home.reset()
        raise
    finally:
        for layer, held in zip(layers, found, strict=True):
            vars(layer).update(held)


def _open(calculator: Any) -> bool:
    return hasattr(calculator, "__dict__")


def _held(calculator: Any) -> dict[str, Any]:
    """Give what a calculator shows; what is in it stays the user's own object."""
    held = {name: vars(calculator)[name] for name in _SEEN if name in vars(calculator)}
    if isinstance(held.get("parameters"), dict):
        held["parameters"] = copy.copy(held["parameters"])
    # Arrays of results may be written into by the next calculation.
    with suppress(Exception):
        held |= {"results": copy.deepcopy(held["results"])}
    return held
