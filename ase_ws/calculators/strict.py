"""What the calculators of this package share: no keyword is swallowed, no atoms are assumed."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Sequence
from typing import Any, ClassVar

from ase import Atoms
from ase.calculators.calculator import Calculator, CalculatorSetupError, all_changes

from ase_ws.graphs import state_of

#: What `MACECalculator` and ASE's own calculators call things, and what to do here.
_ELSEWHERE = {
    "default_dtype": "its name here is dtype",
    "model_path": "give the file as the first argument",
    "model_paths": "give the file as the first argument; for several use CommitteeCalculator",
    "models": "give the model as the first argument; for several use CommitteeCalculator",
    "model": "give the file as the first argument",
    "compile_mode": "its name here is compile, True or False",
    "fullgraph": "compile=True needs no more",
    "enable_cueq": "compile=True is what makes small structures faster here",
    "enable_oeq": "compile=True is what makes small structures faster here",
    "energy_units_to_eV": "energies are in eV",
    "length_units_to_A": "lengths are in Å",
    "heads": "its name here is head",
    "charges_key": "models that take charges of atoms are not supported",
    "info_keys": "models that take them read 'charge' and 'spin' of atoms.info",
    "arrays_keys": "models that take charges of atoms are not supported",
    "model_type": "the file tells",
}


class StrictCalculator(Calculator):
    """An ASE calculator that refuses what it does not know.

    Parameters
    ----------
    unknown : dict
        Keywords that the subclass has no parameter for.

    Raises
    ------
    TypeError
        Names the first unknown keyword, and what may have been meant.
    """

    _made: ClassVar[tuple[str, ...]] = ()

    def __init__(self, unknown: dict[str, Any]):
        for name in unknown:
            raise TypeError(f"{type(self).__name__} has no keyword '{name}'{self._meant(name)}")
        super().__init__()

    def _prepare(self) -> None:
        """Make what `_made` names; called by the constructor and after unpickling."""

    def __getstate__(self) -> dict[str, Any]:
        """Pickle and copy without what is made from the rest anyway."""
        return {name: value for name, value in vars(self).items() if name not in self._made}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._prepare()

    def set(self, **kwargs: Any) -> dict[str, Any]:
        """Refuse: nothing can be changed in a calculator that is there (ASE's interface)."""
        for name in kwargs:
            raise TypeError(
                f"'{name}' cannot be set in a {type(self).__name__}: make a new one with it"
            )
        return {}

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Name what has changed since the last calculation (ASE's interface); charge and spin too.

        ASE itself does not look at `atoms.info`.
        """
        changes = list(super().check_state(atoms, tol))
        if not changes and self.atoms is not None:
            changes += ["info"] if state_of(self.atoms.info) != state_of(atoms.info) else []
        return changes

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Keep a copy of the atoms; forget results that are not of them (ASE's interface)."""
        self._require(atoms, "energy")
        super().calculate(atoms, list(properties), list(system_changes))
        if system_changes:
            self.results = {}

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True):
        """Give a property, computed where needed (ASE's interface)."""
        if allow_calculation:
            self._require(atoms, name)
        return super().get_property(name, atoms, allow_calculation)

    def _require(self, atoms: Atoms | None, name: str) -> None:
        if atoms is None and self.atoms is None:
            raise CalculatorSetupError(
                f"no atoms: {type(self).__name__} needs them, as in get_property('{name}', atoms)"
            )

    def _meant(self, name: str) -> str:
        if name in _ELSEWHERE:
            return f": {_ELSEWHERE[name]}"
        parameters = inspect.signature(type(self).__init__).parameters
        known = [p for p in parameters if p not in ("self", "unknown")]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        return f": did you mean '{near[0]}'?" if near else f"; it has {', '.join(known)}"
