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


class MisshapenError(ValueError):
    """What a calculator gives is no answer; the text says what it is instead."""


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
    """Read energy, forces and stress right after an integrator has asked for the forces.

    Through `atoms` each of these costs a comparison of the whole state (some 80 µs), so where
    nothing stands between the getters and the stored results these are read directly.

    Raises
    ------
    MisshapenError
        See `well_shaped`.
    """
    found = stored(atoms.calc)
    if found is None:
        found = Evaluation(
            energy=potential_energy(atoms, apply_constraint=False),
            forces=atoms.get_forces(apply_constraint=False),
            stress=getattr(atoms.calc, "results", {}).get("stress"),
        )
    return Evaluation(
        well_shaped("energy", found.energy, len(atoms)),
        well_shaped("forces", found.forces, len(atoms)),
        found.stress,
    )


def well_shaped(name: str, answer: Any, n_atoms: int) -> Any:
    """Give what a calculator answers as a number, or as an array of its own, of the right shape.

    The energy is one number, forces are (n_atoms, 3), the stress is (6,) or (3, 3); any other
    property passes as it is. Numbers that are not finite pass too: those are for the checks.

    Raises
    ------
    MisshapenError
        NumPy would stretch it, or say so less clearly.
    """
    if answer is None:
        raise MisshapenError(f"no {name}, but None")
    if name not in ("energy", "free_energy", "forces", "stress"):
        return answer
    values = np.array(answer, dtype=float)
    if name in ("energy", "free_energy"):
        if values.size != 1:
            raise MisshapenError(f"{values.size} numbers as the energy")
        return values.item()
    expected = (n_atoms, 3) if name == "forces" else (6,)
    if values.shape != expected and not (name == "stress" and values.shape == (3, 3)):
        raise MisshapenError(f"{name} of shape {values.shape}, expected {expected}")
    return values


def misshapen(atoms: Atoms) -> Exception | None:
    """Say what is wrong with the shape of the last forces, which integrators say less clearly."""
    forces = getattr(atoms.calc, "results", {}).get("forces")
    try:
        if forces is not None:
            well_shaped("forces", forces, len(atoms))
    except (TypeError, ValueError) as error:
        return error
    return None


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
            well_shaped("forces", atoms.get_forces(apply_constraint=False), len(atoms))
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
