"""How often does it fail? A rate from counted failures, with an exact upper limit."""

from __future__ import annotations

from scipy.stats import chi2


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
    if total_ps <= 0:
        return None
    return float(chi2.ppf(confidence, 2 * failures + 2)) / (2.0 * total_ps)
