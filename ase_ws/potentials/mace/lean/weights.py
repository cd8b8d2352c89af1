"""A MACE's weights as plain dense tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

Activation = Callable[[Tensor], Tensor]
#: Product basis and skip (see `read.product_basis`, `read.skip_map`) for each layer and element.
Tables = list[list[tuple[Tensor, Tensor]]]


class Convolution(NamedTuple):
    """Messages of a layer: for output column q = (l, m, path), Σ_k C[y, k, q] Y[y] x[k] w[path].

    Attributes
    ----------
    coupling : Tensor, (n_sh, n_k · n_q)
        Clebsch–Gordan coefficients with their normalisation.
    paths : Tensor, (n_q,)
        Path of each column; columns are sorted by l, m, path.
    n_paths : list of int
        Paths that end in each l.
    radial : list of Tensor
        Weights of the radial network, activations' constants folded in.
    activation : callable
    mix : list of Tensor, (n_paths·c, c) for each l
        The linear map after the sum over neighbours, 1/avg_num_neighbors folded in.
    """

    coupling: Tensor
    paths: Tensor
    n_paths: list[int]
    radial: list[Tensor]
    activation: Activation
    mix: list[Tensor]


class Layer(NamedTuple):
    """One interaction and product, from K components (l, m) to M.

    Attributes
    ----------
    up : Tensor, (K, c_in, c)
    convolution : Convolution
    skips_message, skips : bool
        Whether the linear map of the receiver's element (`skip_map`) acts on the message, or
        carries the features past the layer.
    linear : Tensor, (M, c, c_out)
        After the product basis.
    """

    up: Tensor
    convolution: Convolution
    skips_message: bool
    skips: bool
    linear: Tensor


class Readout(NamedTuple):
    """Energy of an atom from its scalars: h·w, or f(h·w₁)·w₂."""

    first: Tensor
    second: Tensor | None
    activation: Activation | None


class LeanWeights(NamedTuple):
    """All that an evaluation needs but what belongs to one element (`Tables`)."""

    embedding: Tensor
    harmonics: Tensor
    max_ell: int
    bessel: Tensor
    prefactor: float
    p: int
    r_max: float
    cutoff_on_radial: bool
    layers: list[Layer]
    readouts: list[Readout]
    scale: Tensor
    shift: Tensor


def is_weight(leaf: Any) -> bool:
    """Whether it is a tensor of floats: not an index, a number, a function."""
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def map_leaves(function: Callable[..., Any], value: Any, *others: Any) -> Any:
    """Apply a function to all that is no list or tuple, with what stands there in the others."""
    if not isinstance(value, list | tuple):
        return function(value, *others)
    parts = [map_leaves(function, *part) for part in zip(value, *others, strict=True)]
    return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
