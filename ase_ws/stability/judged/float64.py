"""The same potential in float64."""

from __future__ import annotations

from collections.abc import Callable

from ase.calculators.calculator import BaseCalculator


def raised_precision(calculator: BaseCalculator | None) -> BaseCalculator | None:
    """Give the same potential in float64, where the calculator can and is not there already.

    A calculator can where it has a method `in_float64()`, and is there where its property
    `is_float64` is true; those of this package have both.
    """
    raise_it: Callable[[], BaseCalculator] | None = getattr(calculator, "in_float64", None)
    if raise_it is None or getattr(calculator, "is_float64", False):
        return None
    return raise_it()
