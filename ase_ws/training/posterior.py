"""The posterior of the weights after a fit of energies in closed form, and samples of it.

With J the derivatives of the labelled energies per atom by the weights, A those by the reference
energies x (which are free), prior δ ~ N(0, a) and noise N(0, aν), the covariance of (δ, x) given
the labels is that of a linear model (Bishop, Pattern Recognition and Machine Learning, 3.3;
linearised Laplace: Immer et al., AISTATS 2021). A sample is the solution of the same least squares
for labels of noise and a prior drawn at random (Matheron's rule; Wilson et al., JMLR 22, 2021),

    δ = δ_p + JᵀP (PᵀJJᵀP + ν)⁻¹ Pᵀ(ε − J δ_p),    x = A⁺(ε − J δ),

with P a basis of what is orthogonal to A. It needs products with J alone, as the fit does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ase_ws.frames import elements_of
from ase_ws.potentials.posterior import Posterior
from ase_ws.training.tangent import Tangent

#: Samples: the error of a standard deviation of one number is 1/√(2n), of a whole frame's less.
SAMPLES = 8


@dataclass(frozen=True)
class Linear:
    """The linear problem at a solution.

    Attributes
    ----------
    tangent : Tangent
        At the solution.
    rest : Tensor, (n,), eV/atom
        What is left of the labels there.
    counts : Tensor, (n, n_elements)
        Atoms of each element, per atom.
    free : Tensor, (n, n − rank)
        Basis of what is orthogonal to the free reference energies.
    start : Tensor, (n_weights,)
        Mean of the prior.
    ratio : float
        ν, the variance of the noise over that of the prior.
    free_e0 : bool
    """

    tangent: Tangent
    rest: Tensor
    counts: Tensor
    free: Tensor
    start: Tensor
    ratio: float
    free_e0: bool


def sample_posterior(problem: Linear, n_samples: int = SAMPLES, seed: int = 0) -> Posterior:
    """Draw samples of the posterior of weights and reference energies.

    Parameters
    ----------
    problem : Linear
    n_samples : int
    seed : int

    Returns
    -------
    Posterior
    """
    generator = torch.Generator().manual_seed(seed)
    tangent, n = problem.tangent, len(problem.rest)
    index = tangent.active()
    prior = torch.zeros(len(problem.start), n_samples, dtype=torch.float64)
    prior[index] = torch.randn(len(index), n_samples, generator=generator, dtype=torch.float64)
    drawn = torch.randn(n, n_samples, generator=generator, dtype=torch.float64)
    weights, e0, amplitude = condition(problem, prior, problem.ratio**0.5 * drawn)
    scale = amplitude**0.5
    return Posterior(
        tangent.all_weights(index),
        (scale * weights[index]).T.float(),
        (scale * e0).T,
        float(scale * problem.ratio**0.5),
        tuple(elements_of(tangent.numbers)),
        n,
    )


def condition(problem: Linear, prior: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, float]:
    """Turn draws of prior and noise into draws of the posterior, all for a prior of variance 1.

    Parameters
    ----------
    problem : Linear
    prior : Tensor, (n_weights, k)
    noise : Tensor, (n, k)
        Of variance ν.

    Returns
    -------
    weights : Tensor, (n_weights, k)
    e0 : Tensor, (n_elements, k)
    amplitude : float
        Variance of the prior that makes the labels most likely.
    """
    moved = problem.tangent.weights - problem.start
    kernel, along = problem.tangent.kernel(torch.cat([moved[:, None], prior], dim=1))
    solve = Solver(kernel, problem.free, problem.ratio)
    dual = solve(noise - along[:, 1:])
    weights = prior + problem.tangent.transposed(dual)
    e0 = torch.zeros(problem.counts.shape[1], prior.shape[1], dtype=torch.float64)
    if problem.free_e0:
        left = noise - along[:, 1:] - kernel @ dual
        e0 = torch.linalg.lstsq(problem.counts, left, driver="gelsd").solution
    return weights, e0, solve.amplitude(problem.rest + along[:, 0])


class Solver:
    """v ↦ P (PᵀKP + ν)⁻¹ Pᵀ v, and the amplitude of the prior.

    Parameters
    ----------
    kernel : Tensor, (n, n)
    free : Tensor, (n, m)
        P.
    ratio : float
        ν.
    """

    def __init__(self, kernel: Tensor, free: Tensor, ratio: float):
        m = free.shape[1]
        inner = free.T @ kernel @ free + ratio * torch.eye(m, dtype=kernel.dtype)
        self.free, self._factor = free, torch.linalg.cholesky(inner)

    def __call__(self, values: Tensor) -> Tensor:
        """Apply it to (n,) or (n, k)."""
        columns = values if values.dim() > 1 else values[:, None]
        found = self.free @ torch.cholesky_solve(self.free.T @ columns, self._factor)
        return found if values.dim() > 1 else found[:, 0]

    def amplitude(self, target: Tensor) -> float:
        """Variance of the prior that makes the labels most likely, yᵀ(K + ν)⁻¹y / m."""
        return float(target @ self(target)) / self.free.shape[1]
