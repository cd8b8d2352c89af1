"""Fine-tuning on few energies in closed form: linearise the base model, solve, repeat."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ase_ws.errors import UserError
from ase_ws.frames import Frame, composition
from ase_ws.potentials.base import PotentialModule
from ase_ws.training.config import ITERATIONS
from ase_ws.training.evaluate import batches
from ase_ws.training.start import predicted_energies

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
#: Numbers that the Jacobian may hold: 1 GiB in float64, and as much again while it is projected.
MOST_NUMBERS = 2**27


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
    """

    number: int
    noise: float
    rmse: float
    last: bool


def gauss_newton(
    potential: PotentialModule,
    frames: Sequence[Frame],
    *,
    free_e0: bool = True,
    iterations: int = ITERATIONS,
    report: Callable[[Step, PotentialModule], None] = lambda step, potential: None,
) -> PotentialModule:
    """Fit energies by the smallest change of the weights, with the noise chosen by the evidence.

        θ* = argmin Σ_k [(E_k − E(r_k; θ) − Σ_z n_kz x_z) / n_k]² / σ² + |θ − θ0|² / s²

    with θ0 the weights of the base model, x_z free reference energies of the elements and n_k the
    number of atoms. Each iteration replaces E(r; θ) by its linearisation at the current weights,
    which leaves a linear problem of the size of the number of structures (Gauss–Newton on the
    maximum a posteriori; the first iteration is a Gaussian process with the tangent kernel). σ²/s²
    is what maximises the marginal likelihood of the linearised problem, x_z marginalised (REML).
    There is no learning rate, no number of steps and no validation set.

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

    Returns
    -------
    PotentialModule
        In float64.

    Raises
    ------
    UserError
        No more energies than elements to fit, or more than memory holds.
    """
    labelled = [f for f in frames if f.energy is not None]
    refusal = unsolvable(potential, labelled, free_e0=free_e0)
    if refusal is not None:
        raise UserError(refusal)
    sizes = torch.tensor([len(f.numbers) for f in labelled], dtype=torch.float64)
    labels = torch.tensor([f.energy for f in labelled], dtype=torch.float64) / sizes
    counts = torch.from_numpy(_counts(potential, labelled)) / sizes[:, None]
    free = _complement(counts) if free_e0 else torch.eye(len(labelled), dtype=torch.float64)
    start = copy.deepcopy(potential).to(torch.float64)
    current, scale, noise, rmse = start, None, NOISE[-1], math.inf
    for number in range(1, iterations + 1):
        jacobian, energies = _jacobian(current, labelled, sizes)
        jacobian = free.T @ jacobian
        moved = _flat(current) - _flat(start)
        # What is left to explain if the weights went back to where they started.
        target = free.T @ (labels - energies) + jacobian @ moved
        kernel = jacobian @ jacobian.T
        scale = scale or float(kernel.diagonal().mean())
        candidates = NOISE if number <= CHOSEN_AT else (noise,)
        noise, dual = most_likely(kernel / scale, target, candidates)
        current = _with_weights(start, _flat(start) + jacobian.T @ dual / scale)
        del jacobian
        rest = labels - torch.from_numpy(predicted_energies(current, labelled)) / sizes
        if free_e0:
            shift = torch.linalg.lstsq(counts, rest[:, None], driver="gelsd").solution[:, 0]
            current.e0 += shift.to(current.e0.device)
            rest = rest - counts @ shift
        before, rmse = rmse, float(rest.square().mean().sqrt())
        settled = number > CHOSEN_AT and abs(rmse - before) <= CONVERGED * before
        last = settled or number == iterations
        report(Step(number, noise, rmse, last), current)
        if last:
            break
    return current


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
    n_weights = sum(w.numel() for w in _weights(potential))
    if len(frames) * n_weights > MOST_NUMBERS:
        return (
            f"{len(frames)} energies are too many for Gauss-Newton with this model: it holds one "
            "gradient of all weights for each; use --optimizer adam"
        )
    rank = np.linalg.matrix_rank(_counts(potential, frames)) if free_e0 else 0
    if len(frames) < rank + 2:
        return (
            f"{len(frames)} energies and {rank} free reference energies of elements: too little "
            "is left for Gauss-Newton to fit; give more structures, or use --optimizer adam"
        )
    return None


def _counts(potential: PotentialModule, frames: Sequence[Frame]) -> np.ndarray:
    return composition([f.numbers for f in frames], potential.atomic_numbers)


def _weights(potential: PotentialModule) -> list[torch.nn.Parameter]:
    """Weights that are to be fitted; frozen ones stay."""
    return [w for w in potential.parameters() if w.requires_grad]


def _complement(columns: Tensor) -> Tensor:
    """Orthonormal basis of all that is orthogonal to the columns, (n, n − rank)."""
    u, s, _ = torch.linalg.svd(columns, full_matrices=True)
    rank = int((s > 1e-9 * s.max().clamp(min=1e-300)).sum())
    return u[:, rank:]


def _jacobian(
    potential: PotentialModule, frames: Sequence[Frame], sizes: Tensor
) -> tuple[Tensor, Tensor]:
    """Energies per atom and their gradients with respect to all weights, (n_frames, n_weights)."""
    weights = _weights(potential)
    rows = torch.empty(len(frames), sum(w.numel() for w in weights), dtype=torch.float64)
    energies = torch.empty(len(frames), dtype=torch.float64)
    with torch.enable_grad():
        for k, batch in enumerate(batches(frames, potential.r_max, 1, potential.dtype)):
            moved = batch.to(potential.device, potential.dtype)
            energy = potential(moved, forces=False).energy.sum()
            gradients = torch.autograd.grad(energy, weights, allow_unused=True)
            parts = [
                torch.zeros_like(w) if g is None else g
                for g, w in zip(gradients, weights, strict=True)
            ]
            # On the CPU, where the linear algebra is done: it is small beside the gradients.
            rows[k] = torch.cat([p.reshape(-1) for p in parts]).cpu() / sizes[k]
            energies[k] = energy.detach().cpu() / sizes[k]
    return rows, energies


def _flat(potential: PotentialModule) -> Tensor:
    return torch.cat([w.detach().reshape(-1) for w in _weights(potential)]).cpu()


def _with_weights(potential: PotentialModule, weights: Tensor) -> PotentialModule:
    new = copy.deepcopy(potential)
    mine = _weights(new)
    with torch.no_grad():
        for old, part in zip(mine, weights.split([w.numel() for w in mine]), strict=True):
            old.copy_(part.reshape(old.shape))
    return new
