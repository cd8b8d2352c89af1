"""A MACE's weights as plain dense tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

Activation = Callable[[Tensor], Tensor]


class Product(NamedTuple):
    """A weight that is the product of two matrices of weights, as it is read."""

    left: Tensor
    right: Tensor


class Dense(NamedTuple):
    """One layer of a radial network: activation(norm(x·weight + bias)).

    Attributes
    ----------
    weight : Tensor, (n_in, n_out)
    bias : Tensor, (n_out,), or None
    norm : tuple of Tensor or None
        Weight and bias of a LayerNorm.
    """

    weight: Tensor
    bias: Tensor | None
    norm: tuple[Tensor, Tensor] | None


class Sides(NamedTuple):
    """What sender and receiver add to the first layer of a radial network, before its activation.

    Attributes
    ----------
    sender, receiver : Tensor, (n_elements, n_out) or (n_scalars, n_out)
    by_element : bool
        Rows of the element; else maps of the atom's scalars.
    """

    sender: Tensor
    receiver: Tensor
    by_element: bool


class Radial(NamedTuple):
    """A radial network without its last layer.

    Attributes
    ----------
    layers : list of Dense
    activation : callable
        Its constants are folded into the weights.
    sides : Sides or None
    biased : bool
        The last layer has a bias: the last column of what comes out is 1.
    """

    layers: list[Dense]
    activation: Activation
    sides: Sides | None
    biased: bool


class Paths(NamedTuple):
    """Paths of a convolution from components of degree l to components of degree L.

    With w the radial network's last layer, message_L += Σ_p Σ_k C_p[y, M, k] Y[y] w_p x[k] mix_p.

    Attributes
    ----------
    start : int
        First component k of degree l.
    n_k, n_m : int
        2l + 1 and 2L + 1.
    degree : int
        L.
    coupling : Tensor, (n_sh, n_paths · n_m · n_k)
        Clebsch–Gordan coefficients with their normalisation.
    last : Tensor, (n_paths, n_hidden, c)
    mix : Tensor, (n_paths, c, c')
        The linear map after the sum over neighbours, its normalisation folded in.
    """

    start: int
    n_k: int
    n_m: int
    degree: int
    coupling: Tensor
    last: Tensor
    mix: Tensor


class AllPaths(NamedTuple):
    """All paths of a convolution at once, for few edges: column q = (L, m, path).

    Attributes
    ----------
    coupling : Tensor, (n_sh, n_q · K)
    path : Tensor, (n_q,), int64
        Path of each column.
    last : Tensor, (n_hidden, n_paths · c)
    mix : list of Tensor, (n_paths · c, c') for each L
    """

    coupling: Tensor
    path: Tensor
    last: Tensor
    mix: list[Tensor]


class Density(NamedTuple):
    """Message / (α + β Σ tanh(f²)), where f is a radial network of one output."""

    radial: Radial
    last: Tensor
    alpha: Tensor
    beta: Tensor


class Gate(NamedTuple):
    """Non-linearity of a message: linear maps of its degrees around gates.

    Attributes
    ----------
    residual : list of Tensor, (c, c') for each degree
        What the atom's own features add to the message.
    scalars, gates : Tensor, ()
        Constants of the activations.
    after : list of Tensor, (c, c) for each degree
    """

    residual: list[Tensor]
    scalars: Tensor
    gates: Tensor
    after: list[Tensor]


class Layer(NamedTuple):
    """One interaction and product, from K components (l, m) to M.

    Attributes
    ----------
    up : Tensor, (K, c_in, c)
    radial : Radial
    paths : list of Paths
        In the order of `degree`.
    together : AllPaths
        The same.
    density : Density or None
    gate : Gate or None
    skips_message, skips : bool
        Whether the linear map of the receiver's element (`elements.skip_map`) acts on the message,
        or carries the features past the layer.
    linear : Tensor, (M, c, c_out)
        After the product basis.
    factors : Tensor, (correlation − 1, n_products), int64
        Which components of x̃ = (1, x) each product has, see `elements.product_basis`.
    alike : bool
        The product basis is the same for all elements.
    """

    up: Tensor
    radial: Radial
    paths: list[Paths]
    together: AllPaths
    density: Density | None
    gate: Gate | None
    skips_message: bool
    skips: bool
    linear: Tensor
    factors: Tensor
    alike: bool


class ElementParts(NamedTuple):
    """What is read of one element in one layer: see `elements.product_basis`, and `skip_map`."""

    weights: Tensor
    skip: Tensor


class ElementTable(NamedTuple):
    """What belongs to one element in one layer.

    Attributes
    ----------
    basis, skip : Tensor
        See `elements.product_basis` and `elements.skip_map`.
    sender : list of Tensor, (n_hidden, c') for each degree
        In the first layer, where all atoms of an element are alike: how its radial functions
        become a message. Empty in the others.
    """

    basis: Tensor
    skip: Tensor
    sender: list[Tensor]


#: For each layer and element.
Tables = list[list[ElementTable]]


class Readout(NamedTuple):
    """Energy of an atom from its scalars: h·w, or f(h·w₁)·w₂, or f(f(h·w₁)·w + b)·w₂ + b₂.

    Attributes
    ----------
    layers : list of Dense
    activation : callable or None
    """

    layers: list[Dense]
    activation: Activation | None


class Basis(NamedTuple):
    """Radial functions of an edge.

    Attributes
    ----------
    function : callable
        Of lengths, (n, 1), and `weights`.
    weights : Tensor
    transform : callable or None
        Of lengths, radii of the two ends, each (n, 1), and `constants`.
    constants : Tensor
    radii : Tensor, (n_elements,)
    p : int
        Of upstream's polynomial cutoff.
    r_max : float
    on_radial : bool
        Whether the cutoff multiplies these functions; else the last hidden layer.
    """

    function: Callable[[Tensor, Tensor], Tensor]
    weights: Tensor
    transform: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] | None
    constants: Tensor
    radii: Tensor
    p: int
    r_max: float
    on_radial: bool


class LeanWeights(NamedTuple):
    """All that an evaluation needs but what belongs to one element (`Tables`).

    Attributes
    ----------
    harmonics : list of Tensor
        Y_0, then Y_l from the products of Y_(l-1) and the direction.
    basis : Basis
    layers : list of Layer
    readouts : list of Readout or None
        One for each layer.
    scale, shift : Tensor, ()
    """

    harmonics: list[Tensor]
    basis: Basis
    layers: list[Layer]
    readouts: list[Readout | None]
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


def multiplied(value: Any) -> Any:
    """Give the same with every `Product` multiplied."""
    if isinstance(value, Product):
        return value.left @ value.right
    if not isinstance(value, list | tuple):
        return value
    parts = [multiplied(part) for part in value]
    return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
