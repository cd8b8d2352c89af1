"""Ask a calculator for what MD needs, and tell bad geometry from a bad set-up."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError

from ase_ws.calculators.strict import StrictCalculator
from ase_ws.errors import UserError

#: What a calculator may raise because of the geometry it was given: ASE's CalculatorError and
#: torch's errors are RuntimeErrors, NumPy's LinAlgError is a ValueError, and a neighbour list of
#: a collapsed structure can run out of memory. OSError is left out: a full disk or a lost
#: subprocess says nothing about the potential. KeyboardInterrupt is no Exception.
CALCULATOR_FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    RuntimeWarning,
    TypeError,
    ValueError,
)


def potential_energy(atoms: Atoms, *, apply_constraint: bool = True) -> float:
    """Energy in eV that the forces derive from: "free_energy" where there is one, else "energy"."""
    try:
        return float(
            atoms.get_potential_energy(force_consistent=True, apply_constraint=apply_constraint)
        )
    except PropertyNotImplementedError:
        return float(atoms.get_potential_energy(apply_constraint=apply_constraint))


class Evaluation(NamedTuple):
    """What the calculator says about the current positions.

    Attributes
    ----------
    energy : float
        In eV, see `potential_energy`, without constraints.
    forces : (n_atoms, 3) array
        In eV/Å, without constraints.
    stress : (6,) array or None
        In eV/Å³, where it was computed anyway.
    """

    energy: float
    forces: np.ndarray
    stress: np.ndarray | None


def evaluate(atoms: Atoms) -> Evaluation:
    """Read what `_results` gives; forces of another shape, which NumPy would stretch, raise."""
    found = _results(atoms)
    require_shape(found.forces, len(atoms), 3)
    return found


def require_shape(values: Any, *shape: int, name: str = "forces") -> None:
    """Raise a ValueError for results of another shape."""
    if np.shape(values) != shape:
        raise ValueError(f"{name} of shape {np.shape(values)}, expected {shape}")


def misshapen(atoms: Atoms) -> ValueError | None:
    """Say that the calculator's last forces have another shape, which NumPy says less clearly."""
    forces = getattr(atoms.calc, "results", {}).get("forces")
    try:
        if forces is not None:
            require_shape(forces, len(atoms), 3)
    except ValueError as error:
        return error
    return None


def _results(atoms: Atoms) -> Evaluation:
    """Read energy, forces and stress right after an integrator has asked for the forces.

    Through `atoms` each of these costs a comparison of the whole state (some 80 µs), so where
    nothing stands between the getters and the stored results these are read directly.
    """
    found = stored(atoms.calc)
    if found is not None:
        return Evaluation(float(found.energy), np.array(found.forces), found.stress)
    stress = getattr(atoms.calc, "results", {}).get("stress")
    energy = potential_energy(atoms, apply_constraint=False)
    return Evaluation(energy, atoms.get_forces(apply_constraint=False), stress)


def stored(calculator: Any) -> Evaluation | None:
    """Give what was computed last, as it is; None where the getters might say something else.

    A calculator that stands before another one says for itself what is stored, by a method
    `stored`.
    """
    if not isinstance(calculator, Calculator):
        own = getattr(type(calculator), "stored", None)
        return None if own is None else own(calculator)
    known = calculator.results.keys() & set(calculator.implemented_properties)
    if not _plain(calculator) or not {"energy", "forces"} <= known:
        return None
    results = calculator.results
    energy = results["free_energy" if "free_energy" in known else "energy"]
    return Evaluation(energy, results["forces"], results.get("stress"))


def _plain(calculator: Calculator) -> bool:
    """Whether its getters do nothing but look into `results`: ASE's own, and ours."""
    names = ("get_property", "get_potential_energy", "get_forces")
    return any(
        all(getattr(type(calculator), name) is getattr(known, name) for name in names)
        for known in (Calculator, StrictCalculator)
    )


def check_structure(atoms: Atoms) -> None:
    """Raise a `UserError` where no MD can start: no atoms, NaN, masses that are none."""
    if len(atoms) == 0:
        raise UserError("the structure has no atoms: give one with at least two")
    if not np.isfinite(atoms.positions).all() or not np.isfinite(atoms.cell.array).all():
        raise UserError("the starting positions or cell hold NaN or infinity: mend the structure")
    masses = atoms.get_masses()
    wrong = np.flatnonzero(~(np.isfinite(masses) & (masses > 0)))
    if len(wrong):
        raise UserError(
            f"atom {wrong[0]} ({atoms.symbols[wrong[0]]}) has a mass of {masses[wrong[0]]:g} amu: "
            "MD needs positive masses, set them"
        )


def check_start(atoms: Atoms, *, stress: bool = False) -> None:
    """Evaluate the starting structure once, so that a bad set-up is told apart from a bad run.

    Raises
    ------
    UserError
        Where the calculator cannot be evaluated at all: an element that it does not know, no
        forces, or no stress where `stress` is asked for. A result that is not finite passes
        here: that is for the checks to find.
    """
    try:
        # Overflows and NaN are left to the checks, with or without NumPy's warnings as errors.
        with np.errstate(all="ignore"):
            potential_energy(atoms)
            require_shape(atoms.get_forces(apply_constraint=False), len(atoms), 3)
            if stress:
                atoms.get_stress()
    except UserError:
        raise
    except CALCULATOR_FAILURES as error:
        wanted = "energy, forces and stress" if stress else "energy and forces"
        raise UserError(
            f"the calculator cannot give {wanted} of the starting structure "
            f"({describe(error)}): use one that knows these elements and properties"
        ) from error


def describe(error: BaseException) -> str:
    """Name an exception and quote its first line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
