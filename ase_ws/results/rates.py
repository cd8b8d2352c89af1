"""How often does it fail, and when? Rates and survival from counted failures, with intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic.dataclasses import dataclass
from scipy.stats import chi2, norm

from ase_ws.results.record import CONFIG, Numbers, Record, about


def failure_rate(failures: int, total_ps: float) -> float | None:
    """Maximum-likelihood rate n / T in 1/ps; None where nothing was simulated.

    T is the time that all replicas together ran before they failed or ended; this is the
    estimate for exponentially distributed, censored lifetimes.
    """
    return failures / total_ps if total_ps > 0 else None


def failure_rate_upper(failures: int, total_ps: float, *, confidence: float = 0.95) -> float | None:
    """Exact one-sided upper limit of a Poisson rate in 1/ps; None where nothing was simulated.

    λ_up = χ²(confidence; 2n + 2) / (2 T) (Garwood, Biometrika 28, 437, 1936); with no failure
    this is −ln(0.05)/T = 2.996/T, the "rule of three".
    """
    if not total_ps > 0:
        return None
    return float(chi2.ppf(confidence, 2 * failures + 2)) / (2.0 * total_ps)


def failure_rate_interval(
    failures: int, total_ps: float, *, confidence: float = 0.95
) -> tuple[float, float] | None:
    """Exact two-sided interval of a Poisson rate in 1/ps; None where nothing was simulated.

    [χ²((1 − c)/2; 2n), χ²((1 + c)/2; 2n + 2)] / (2 T) (Garwood 1936); with no failure the lower
    end is 0 and the upper one the one-sided limit, because nothing is left for the other side.
    """
    if not total_ps > 0:
        return None
    if failures == 0:
        upper = failure_rate_upper(0, total_ps, confidence=confidence)
        return 0.0, float("nan") if upper is None else upper
    tail = 0.5 * (1.0 - confidence)
    low = chi2.ppf(tail, 2 * failures) / (2.0 * total_ps)
    high = chi2.ppf(1.0 - tail, 2 * failures + 2) / (2.0 * total_ps)
    return float(low), float(high)


@dataclass(frozen=True, config=CONFIG)
class Survival(Record):
    """Kaplan-Meier estimate of the fraction that has not failed, a step function, with its band."""

    time_ps: Numbers = about("Times in ps at which the steps are.", list)
    fraction: Numbers = about("Fraction without a failure from this time on.", list)
    low: Numbers = about("Lower edge of the 95 % band.", list)
    high: Numbers = about("Upper edge of the 95 % band.", list)


def survival_curve(
    times: Sequence[float], failed: Sequence[bool], *, confidence: float = 0.95
) -> Survival:
    r"""Estimate the share of replicas that still run at time t (Kaplan and Meier).

    .. math:: S(t) = \prod_{t_k \le t} (1 - d_k / n_k)

    with d_k failures at t_k among n_k replicas at risk; runs that ended without a failure count
    until their end (J. Am. Stat. Assoc. 53, 457, 1958). The interval is that of Wilson for
    S n out of n, n being the number of replicas whose fate at t is known (they failed before, or
    still ran), which stays inside [0, 1] and does not shrink to nothing where no replica or every
    replica failed.

    Parameters
    ----------
    times : sequence of float
        Time in ps at which each replica failed or ended.
    failed : sequence of bool
        Whether it failed.
    confidence : float
        Two-sided.

    Returns
    -------
    Survival
    """
    ends, failures = np.asarray(times, dtype=float), np.asarray(failed, dtype=bool)
    if len(ends) == 0:
        return Survival()
    points, share = [0.0], [1.0]
    for time in np.unique(ends[failures]):
        at_risk = int((ends >= time).sum())
        deaths = int((failures & (ends == time)).sum())
        points.append(float(time))
        share.append(share[-1] * (1.0 - deaths / at_risk))
    if ends.max() > points[-1]:
        points.append(float(ends.max()))
        share.append(share[-1])
    known = [int((failures | (ends >= time)).sum()) for time in points]
    bands = [_wilson(s, n, confidence) for s, n in zip(share, known, strict=True)]
    return Survival(points, share, [low for low, _ in bands], [high for _, high in bands])


def _wilson(share: float, n: int, confidence: float) -> tuple[float, float]:
    """Interval of a share of n (Wilson, J. Am. Stat. Assoc. 22, 209, 1927)."""
    z = float(norm.ppf(0.5 + 0.5 * confidence))
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))
