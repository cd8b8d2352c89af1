"""Numbers and plain sentences for people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

ABSENT = "–"
"""Stands where there is no value."""

_THIN = "\u202f"  # narrow no-break space
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float | None, digits: int = 3, *, keep_zeros: bool = False) -> str:
    """Write a number with some significant digits, a true minus sign and no computer notation.

    Parameters
    ----------
    value : float or None
        The number; None and NaN become a dash.
    digits : int
        Significant digits behind the point; digits before it are never dropped.
    keep_zeros : bool
        Keep trailing zeros, for columns of numbers.

    Returns
    -------
    str
        For example ``"0.5"``, ``"12 345"`` or ``"2 × 10⁻⁷"``.
    """
    if value is None or math.isnan(value):
        return ABSENT
    sign = "−" if value < 0 else ""
    size = abs(value)
    if math.isinf(size):
        return f"{sign}∞"
    if size != 0 and not 1e-4 <= size < 1e6:
        return sign + _power_of_ten(size, digits)
    exponent = math.floor(math.log10(size)) if size else 0
    text = f"{size:,.{max(0, digits - 1 - exponent)}f}"
    if "." in text and not keep_zeros:
        text = text.rstrip("0").rstrip(".")
    whole = text.split(".", maxsplit=1)[0]
    # "1 234" is harder to read than "1234"; from five digits on it is the other way round.
    return sign + text.replace(",", _THIN if len(whole) > len("1,234") else "")


def _power_of_ten(size: float, digits: int) -> str:
    mantissa, exponent = f"{size:.{digits - 1}e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa} × 10{str(int(exponent)).translate(_SUPERSCRIPTS)}"


def value(anything: Any) -> str:
    """Write any plain value (of a setting, a threshold, a version) in one line."""
    if anything is None:
        return ABSENT
    if isinstance(anything, bool):
        return "yes" if anything else "no"
    if isinstance(anything, (int, float)):
        return number(float(anything))
    if isinstance(anything, Mapping):
        return ", ".join(f"{key} {value(item)}" for key, item in anything.items()) or ABSENT
    if isinstance(anything, Sequence) and not isinstance(anything, str):
        return ", ".join(value(item) for item in anything) or ABSENT
    return str(anything) or ABSENT


def kelvin(temperature: float | None) -> str:
    """Write a temperature, or say that it is not known."""
    unknown = temperature is None or math.isnan(temperature)
    return "unknown temperature" if unknown else f"{number(temperature)} K"


def seconds(duration: float | None) -> str:
    """Write a duration the way one says it."""
    if duration is None or not math.isfinite(duration):
        return ABSENT
    if duration < 100:
        return f"{number(duration, 2)} s"
    minutes, rest = divmod(round(duration), 60)
    return f"{minutes} min {rest} s" if rest else f"{minutes} min"


def count(n: int, thing: str) -> str:
    """Write `n` things: "no failure", "1 failure", "2 failures"."""
    return f"{n or 'no'} {thing}{'s' if n > 1 else ''}"


def joined(words: Sequence[str]) -> str:
    """Join words as a sentence does: "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)
