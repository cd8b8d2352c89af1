"""Integrals along short paths, with an error bar of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# The three-point Gauss rule and its Kronrod extension to seven points, on [-1, 1] (A. S. Kronrod,
# Nodes and Weights of Quadrature Formulas, 1965). Every second node is one of Gauss's.
_HALF = np.array([0.9604912687080203, 0.7745966692414834, 0.4342437493468026])
_WEIGHTS = np.array([0.1046562260264673, 0.2684880898683334, 0.4013974147759622])
#: On [0, 1].
NODES = 0.5 + 0.5 * np.r_[-_HALF, 0.0, _HALF[::-1]]
KRONROD = 0.5 * np.r_[_WEIGHTS, 0.4509165386584741, _WEIGHTS[::-1]]
GAUSS = 0.5 * np.array([5.0, 8.0, 5.0]) / 9.0

#: Noise of the integral of a function over [0, 1] is this × the noise of the function.
INTEGRAL_NOISE = float(np.linalg.norm(KRONROD))


class Integral(NamedTuple):
    """Value of an integral, and how far off it may be."""

    value: float
    error: float


def integrate(
    function: Callable[[float], float],
    expected: float,
    tolerance: float,
    *,
    cautious: bool = False,
    halvings: int = 0,
) -> Integral:
    """Integrate from 0 to 1.

    Gauss's three points are enough where they give what is expected. Else four more make it
    Kronrod's rule, and where the two differ by more than the tolerance each half is done again, up
    to `halvings` times. Their difference is the error bar: that of the coarser rule, and so a
    cautious one. A step of the derivative, which spoils finite differences at any step, hardly
    shows in an integral.

    Parameters
    ----------
    function : callable
    expected : float
    tolerance : float
        In units of the integral.
    cautious : bool
        Take seven points in any case.
    halvings : int

    Returns
    -------
    Integral
        Where three points were enough, the difference to what was expected is the error bar.
    """
    known: dict[float, float] = {}

    def remembered(t: float) -> float:
        if t not in known:
            known[t] = function(t)
        return known[t]

    if not cautious:
        coarse = float(np.array([remembered(float(t)) for t in NODES[1::2]]) @ GAUSS)
        if abs(coarse - expected) <= tolerance:
            return Integral(coarse, abs(coarse - expected))
    return _part(remembered, 0.0, 1.0, tolerance, halvings)


def _part(
    function: Callable[[float], float], start: float, end: float, tolerance: float, halvings: int
) -> Integral:
    length = end - start
    values = np.array([function(float(t)) for t in start + length * NODES])
    value = length * float(values @ KRONROD)
    error = abs(value - length * float(values[1::2] @ GAUSS))
    if error <= tolerance or halvings == 0:
        return Integral(value, error)
    middle = 0.5 * (start + end)
    first = _part(function, start, middle, 0.5 * tolerance, halvings - 1)
    second = _part(function, middle, end, 0.5 * tolerance, halvings - 1)
    return Integral(first.value + second.value, first.error + second.error)
