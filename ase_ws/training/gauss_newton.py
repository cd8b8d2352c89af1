"""Fine-tuning on few energies in closed form: linearise the base model, solve, repeat."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ase_ws.errors import UserError
from ase_ws.frames import Frame, composition
from ase_ws.potentials.base import PotentialModule
from ase_ws.training.posterior import Linear, sample_posterior
from ase_ws.training.settings.optimizer import ITERATIONS
from ase_ws.training.tangent import Tangent

#: Ratios of the noise to the prior variance of a typical energy that the evidence chooses among.
NOISE = tuple(10.0 ** (k / 4) for k in range(-12, 1))
#: Prior of log10 σ²/s²: mean and width. Few energies say little about their noise; without it, 20
#: of them were at times all but ignored.
NOISE_PRIOR = (-1.75, 0.75)
#: The noise is chosen at the first linearisations and then kept: later ones follow the noise.
CHOSEN_AT = 2
#: Done when an iteration changes the error of the fit by less than this part.
CONVERGED = 0.03
#: Energies from which on it is the default: below, neither it nor Adam is better throughout
#: (six molecules in `tests/benchmarks/RESULTS.md`; on acetylacetone it was far behind with one of
#: three draws of 20 labels).
DEFAULT_FROM = 50
#: Energies up to which it is the default: the kernel of more takes hours.
DEFAULT_TO = 2000
#: How often a step is halved before it is given up.
HALVINGS = 12


@dataclass(frozen=True)
class Step:
    """Where an iteration came to.

    Attributes
    ----------
    number : int
        From 1.
    noise : float
        Chosen ratio σ²/s² of the noise to the prior variance of a typical energy.
    rmse : float, eV/atom
        Of the fitted energies.
    last : bool
        Converged, or out of iterations.
    taken : float
        Part of the step that was taken; 0: none of it made the fit better.
    """

    number: int
    noise: float
    rmse: float
    last: bool
    taken: float = 1.0


def gauss_newton(
    potential: PotentialModule,
    frames: Sequence[Frame],
    *,
    free_e0: bool = True,
    iterations: int = ITERATIONS,
    report: Callable[[Step, PotentialModule], None] = lambda step, potential: None,
    progress: Callable[[int, float], None] = lambda number, part: None,
    posterior: Sequence[Frame] = (),
) -> PotentialModule:
    """Fit energies by the smallest change of the weights, with the noise chosen by the evidence.

        θ* = argmin Σ_k w_k [(E_k − E(r_k; θ) − Σ_z n_kz x_z) / n_k]² / σ² + |θ − θ0|² / s²

    with θ0 the weights of the base model, x_z free reference energies of the elements, n_k the
    number of atoms and w_k the weight that the frame brings. Each iteration replaces E(r; θ) by its
    linearisation at the current weights, which leaves a linear problem of the size of the number of
    structures (Gauss–Newton on the maximum a posteriori; the first iteration is a Gaussian process
    with the tangent kernel). σ²/s² is what maximises the marginal likelihood of the linearised
    problem, x_z marginalised (REML).
    There is no learning rate, no number of steps and no validation set. A step that makes what is
    minimised larger, or the fit worse than at the start, is halved until it does not; where none is
    left the last weights stand.

    Parameters
    ----------
    potential : PotentialModule
        The base model at its own E0; not changed.
    frames : sequence of Frame
        With energies; forces are not looked at.
    free_e0 : bool
        Fit x_z; False: the potential's E0 stand (they come from isolated atoms, or are to be kept).
    iterations : int
    report : callable
        Called after each iteration with where it came to and the potential so far.
    progress : callable
        Called with the number of the iteration and the part of it that is done, 0 to 1.
    posterior : sequence of Frame
        Give the potential the posterior of its weights given the labels of these, for the time of
        an iteration. Not of frames that the base model labelled: what it says itself makes it no
        surer.

    Returns
    -------
    PotentialModule
        In float64.

    Raises
    ------
    UserError
        No more energies than elements to fit; NaN.
    """
    labelled = _labelled(frames)
    refusal = unsolvable(potential, labelled, free_e0=free_e0)
    if refusal is not None:
        raise UserError(refusal)
    fit = _Fit(potential, labelled, free_e0=free_e0)
    scale, noise, number = 0.0, NOISE[-1], 0
    before = fit.rmse
    for number in range(1, iterations + 1):
        fit.tangent.progress = partial(progress, number)
        kernel, target = fit.linearised()
        scale = scale or float(kernel.diagonal().mean())
        candidates = NOISE if number <= CHOSEN_AT else (noise,)
        noise, dual = most_likely(kernel / scale, target, candidates)
        taken = fit.step(dual / scale, noise * scale)
        settled = number > CHOSEN_AT and abs(fit.rmse - before) <= CONVERGED * before
        before = fit.rmse
        last = settled or not taken or number == iterations
        report(Step(number, noise, fit.rmse, last, taken), fit.tangent.potential)
        if last:
            break
    if posterior:
        own, known = fit, _labelled(posterior)
        if known != labelled:
            own = _Fit(fit.tangent.potential, known, free_e0=free_e0)
            own.start = fit.start
        own.tangent.progress = partial(progress, number)
        fit.tangent.potential.posterior = sample_posterior(own.linear(noise * scale))
    return fit.tangent.potential


def _labelled(frames: Sequence[Frame]) -> list[Frame]:
    return [f for f in frames if f.energy is not None and f.weights[0] > 0]


class _Fit:
    """Where the weights are, and what is left to explain there."""

    def __init__(self, potential: PotentialModule, frames: Sequence[Frame], *, free_e0: bool):
        self.tangent = Tangent(potential, frames)
        self.start = self.tangent.weights
        divisors = self.tangent.divisors
        self._labels = torch.tensor([f.energy for f in frames], dtype=torch.float64) / divisors
        self._counts = torch.from_numpy(_counts(potential, frames)) / divisors[:, None]
        n = len(frames)
        self._free_e0 = free_e0
        self._free = _complement(self._counts) if free_e0 else torch.eye(n, dtype=torch.float64)
        self._settle()
        self._worst = self.rmse

    def linearised(self) -> tuple[Tensor, Tensor]:
        """Give kernel and target in the complement of the free reference energies."""
        kernel, along = self.tangent.kernel(self.tangent.weights - self.start)
        # What is left to explain if the weights went back to where they started.
        return self._free.T @ kernel @ self._free, self._free.T @ (self._rest + along)

    def linear(self, noise: float) -> Linear:
        """Give the linear problem here; `noise` is σ²/s² in the units of the kernel."""
        return Linear(
            self.tangent, self._rest, self._counts, self._free, self.start, noise, self._free_e0
        )

    def step(self, dual: Tensor, noise: float) -> float:
        """Go to the solution, or part of the way there; give the part, 0 where none is better.

        `noise` is σ²/s² in the units of the kernel: minimised is Σ rest² / noise + |θ − θ0|².
        """
        here, shift = self.tangent.weights, self.tangent.potential.e0.clone()
        way = self.start + self.tangent.transposed(self._free @ dual) - here
        value = self._objective(noise)
        for halvings in range(HALVINGS):
            taken = 0.5**halvings
            self.tangent.weights = here + taken * way
            self.tangent.potential.e0 = shift
            self._settle()
            # Not the other way round: NaN is no improvement.
            if self._objective(noise) <= value and self.rmse <= self._worst:
                return taken
        self.tangent.weights = here
        self.tangent.potential.e0 = shift
        self._settle()
        return 0.0

    def _objective(self, noise: float) -> float:
        moved = self.tangent.weights - self.start
        return float((self._rest @ self._rest) / noise + moved @ moved)

    def _settle(self) -> None:
        """Find what is left at these weights, and fit the reference energies to it."""
        self._rest = self._labels - self.tangent.energies()
        if self._free_e0 and bool(self._rest.isfinite().all()):
            fitted = torch.linalg.lstsq(self._counts, self._rest[:, None], driver="gelsd")
            shift = fitted.solution[:, 0]
            e0 = self.tangent.potential.e0
            self.tangent.potential.e0 = e0 + shift.to(e0.device)
            self._rest = self._rest - self._counts @ shift
        self.rmse = float(self._rest.square().mean().sqrt())


def most_likely(
    kernel: Tensor, target: Tensor, noises: Sequence[float] = NOISE
) -> tuple[float, Tensor]:
    """Choose the noise of a Gaussian process by its evidence, and solve.

    log p(y, λ) = −½ n log(yᵀ(K + λ)⁻¹y) − ½ log det(K + λ) + log p(λ) + const., the amplitude
    maximised over; p(λ) is log-normal, see `NOISE_PRIOR`.

    Parameters
    ----------
    kernel : Tensor, (n, n)
    target : Tensor, (n,)
    noises : sequence of float
        Candidates for λ.

    Returns
    -------
    noise : float
    dual : Tensor, (n,)
        (K + λ)⁻¹ y.

    Raises
    ------
    UserError
        NaN or infinite values.
    """
    if not bool(torch.isfinite(kernel).all() and torch.isfinite(target).all()):
        raise UserError(
            "energies or their gradients are not finite: look for wrong labels or broken structures"
        )
    values, vectors = torch.linalg.eigh(kernel)
    values = values.clamp(min=0.0)
    rotated = vectors.T @ target
    found: list[tuple[float, float]] = []
    for noise in noises:
        quadratic = float((rotated.square() / (values + noise)).sum())
        log_det = float((values + noise).log().sum())
        likelihood = -0.5 * len(target) * math.log(max(quadratic, 1e-300)) - 0.5 * log_det
        prior = -0.5 * ((math.log10(noise) - NOISE_PRIOR[0]) / NOISE_PRIOR[1]) ** 2
        found.append((likelihood + prior, noise))
    noise = max(found)[1]
    return noise, vectors @ (rotated / (values + noise))


def unsolvable(
    potential: PotentialModule, frames: Sequence[Frame], *, free_e0: bool = True
) -> str | None:
    """Say why these energies cannot be fitted in closed form; None if they can."""
    rank = np.linalg.matrix_rank(_counts(potential, frames)) if free_e0 else 0
    if len(frames) < rank + 2:
        return (
            f"{len(frames)} energies and {rank} free reference energies of elements: too little "
            "is left for Gauss-Newton to fit; give more structures, or use --optimizer adam"
        )
    return None


def _counts(potential: PotentialModule, frames: Sequence[Frame]) -> np.ndarray:
    return composition([f.numbers for f in frames], potential.atomic_numbers)


def _complement(columns: Tensor) -> Tensor:
    """Orthonormal basis of all that is orthogonal to the columns, (n, n − rank)."""
    u, s, _ = torch.linalg.svd(columns, full_matrices=True)
    rank = int((s > 1e-9 * s.max().clamp(min=1e-300)).sum())
    return u[:, rank:]
