"""Drift of the conserved quantity: a slope with an honest error, and the check built on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import numpy as np
from ase import Atoms
from scipy.stats import t as student_t

from ase_ws.md.observer import RunContext, Snapshot
from ase_ws.results.finding import Finding
from ase_ws.stability.checks.base import Check

#: Blocks of the fit: few enough to be long, and enough to tell their scatter.
BLOCKS = 10
#: A slope of so many times the limit fails at its first sight.
AT_ONCE = 10.0


class Slope(NamedTuple):
    """A fitted slope: its value and the half width of its confidence interval."""

    value: float
    half_width: float

    @property
    def at_least(self) -> float:
        """Smallest absolute slope inside the interval; 0 where the interval holds 0."""
        # np.maximum, because max() would turn NaN into 0.
        return float(np.maximum(0.0, abs(self.value) - self.half_width))


def fit_slope(
    times: np.ndarray, values: np.ndarray, *, blocks: int = BLOCKS, confidence: float = 0.999
) -> Slope:
    r"""Fit a line through block means.

    Neighbouring points of a trajectory are correlated (the conserved quantity of velocity Verlet
    swings with the vibrations), so a plain fit would claim an error that is far too small. The
    means of a few blocks are nearly independent (Flyvbjerg and Petersen, J. Chem. Phys. 91, 461,
    1989):

    .. math:: b = \frac{\sum (t_k - \bar t)(y_k - \bar y)}{\sum (t_k - \bar t)^2}, \quad
       \sigma_b^2 = \frac{\sum (y_k - \bar y - b(t_k - \bar t))^2}{(n - 2)\sum (t_k - \bar t)^2}
       \cdot \frac{1 + \rho}{1 - \rho}

    with block means t_k, y_k. What correlation is left between neighbouring blocks (a thermostat
    is slower than a block of a short run) enters as that of a first-order autoregressive process,
    ρ being the lag-1 autocorrelation of the residuals plus 3/n for its bias in short series. The
    interval is Student's with n − 2 degrees of freedom. On made-up noise with a correlation time
    of a quarter of the run, a 99.9 % interval misses the true slope in 2 % of the cases (7 %
    without ρ); of 1/16 of the run or less, in fewer than 0.3 %.

    Parameters
    ----------
    times, values : (n,) arrays
        At least one point per block.
    blocks : int
        Number of blocks n.
    confidence : float
        Two-sided confidence of the interval.

    Returns
    -------
    Slope
        In units of `values` per unit of `times`.
    """
    edges = np.linspace(0, len(times), blocks + 1).astype(int)[:-1]
    counts = np.diff(np.append(edges, len(times)))
    t = np.add.reduceat(times, edges) / counts
    y = np.add.reduceat(values, edges) / counts
    t, y = t - t.mean(), y - y.mean()
    spread = float(t @ t)
    slope = float(t @ y) / spread
    residuals = y - slope * t
    error = np.sqrt(float(residuals @ residuals) / ((blocks - 2) * spread))
    error *= _correlation_factor(residuals)
    factor = student_t.ppf(0.5 + 0.5 * confidence, blocks - 2)
    return Slope(slope, float(factor * error))


def _correlation_factor(residuals: np.ndarray) -> float:
    """Factor √((1 + ρ)/(1 − ρ)) by which correlated residuals widen the error."""
    variance = float(residuals @ residuals)
    if variance == 0.0:
        return 1.0
    rho = float(residuals[1:] @ residuals[:-1]) / variance + 3.0 / len(residuals)
    rho = np.clip(rho, 0.0, 0.95)
    return float(np.sqrt((1.0 + rho) / (1.0 - rho)))


@dataclass
class DriftCheck(Check):
    """Slope of the conserved quantity per atom (NVE: E + K; NVT and NPT: the thermostat's).

    It counts as crossed only when the whole confidence interval of the slope (99.9 %, see
    `fit_slope`) lies beyond a limit, so noise does not fail a run; and nothing is said before
    enough data is there. A slope beyond ten times the limit fails at once, a smaller one when it
    is still there on twice the data: a start that settles (a cell under a barostat does so for
    half a picosecond) looks like a drift at first. At the end of the run the smaller limit warns.

    Attributes
    ----------
    warn_at, fail_at : float
        In meV/atom/ps. Defaults 0.1 and 1: at 1 meV/atom/ps a microcanonical run heats by 4 K per
        ps in a solid (3 k_B per atom): 100 K in 25 ps, which no average over NVE survives.
    skip : float
        Left out at the start, in fs. Default 200: the kinetic energy of a relaxed structure first
        spreads into the potential, and Verlet's own energy error changes with it.
    least : float
        Data needed before judging, in fs. Default 300, so that a block of the fit (30 fs) spans
        a few of the fastest vibrations (9 fs).
    confidence : float
        Default 0.999, because the check looks many times.
    """

    interval: int = 5
    warn_at: float = 0.1
    fail_at: float = 1.0
    skip: float = 200.0
    least: float = 300.0
    confidence: float = 0.999

    name: ClassVar[str] = "drift"
    definition: ClassVar[str] = (
        "slope of the conserved quantity per atom; beyond a limit when the {confidence:.1%} "
        "confidence interval is; warns above {warn_at:g}, fails above {fail_at:g} meV/atom/ps"
    )
    unit: ClassVar[str] = "meV/atom/ps"

    slope: Slope | None = field(init=False, default=None)
    _suspected: float = field(init=False, default=np.inf, repr=False)
    _times: list[float] = field(init=False, default_factory=list, repr=False)
    _values: list[float] = field(init=False, default_factory=list, repr=False)
    _next: float = field(init=False, default=0.0, repr=False)

    def start(self, atoms: Atoms, context: RunContext) -> None:
        """Forget any earlier run."""
        super().start(atoms, context)
        self.slope, self._suspected = None, np.inf
        self._times, self._values = [], []
        self._next = self.skip + self.least
        self.note = f"needs {self._next / 1000.0:g} ps in one run"

    def check(self, snapshot: Snapshot) -> Sequence[Finding]:
        """Take one more point; fit when enough has come since the last fit."""
        if snapshot.time >= self.skip - 1e-6:
            self._times.append(snapshot.time / 1000.0)
            self._values.append(1000.0 * snapshot.conserved / len(snapshot.atoms))
        last = snapshot.step >= self.context.steps
        enough = snapshot.time >= self.skip + self.least - 1e-6 and len(self._times) >= BLOCKS
        due = snapshot.time >= self._next - 1e-6
        if not enough or not (due or last):
            return []
        # Each fit reads all points; a growing distance between fits keeps the total cheap.
        self._next = self.skip + 1.1 * (snapshot.time - self.skip)
        return self._judge(snapshot, last)

    def _judge(self, snapshot: Snapshot, last: bool) -> Sequence[Finding]:
        slope = fit_slope(np.array(self._times), np.array(self._values), confidence=self.confidence)
        self.slope = slope
        self.worst, self.worst_time = slope.value, snapshot.time
        self.note = f"slope {slope.value:+.3g} ± {slope.half_width:.2g} at the end of the run"
        if self.status == "not judged":
            self.status = "passed"
        if self._is_confirmed(slope, snapshot.time - self.skip, last):
            return [self.finding("fail", snapshot, 0, slope.value)]
        # A small slope matters over the whole run only; early on it may be a start that settles.
        if last and self.beyond(slope.at_least, self.warn_at):
            return [self.finding("warn", snapshot, 0, slope.value)]
        return []

    def _is_confirmed(self, slope: Slope, span: float, last: bool) -> bool:
        """Whether the slope fails: far beyond the limit, or beyond it on enough data."""
        if not self.beyond(slope.at_least, self.fail_at):
            self._suspected = np.inf
            return False
        self._suspected = min(self._suspected, span)
        # At the end there is no more to come: twice the least is enough then.
        enough = 2.0 * (self.least if last else self._suspected)
        return bool(self.beyond(slope.at_least, AT_ONCE * self.fail_at)) or span >= enough - 1e-6

    def describe(self, snapshot: Snapshot, item: int, value: float) -> tuple[str, tuple[int, ...]]:
        """Say how fast and how surely."""
        width = self.slope.half_width if self.slope is not None else float("nan")
        return f"the conserved quantity drifts by {value:+.2f} ± {width:.2f} meV/atom/ps", ()
