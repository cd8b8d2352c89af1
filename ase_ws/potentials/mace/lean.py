"""A MACE evaluated with few, large operations: the same numbers, several times sooner.

Small structures are bound by the number of operations, not by arithmetic. With frozen weights much
of upstream's work can be done once: what depends on the elements alone, the couplings contracted
with the weights, the order of atoms and edges. What is left are a few dozen dense products.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ase_ws.graphs import graph
from ase_ws.potentials.derivatives import predict_conservative
from ase_ws.potentials.mace.direct import DirectPotential, predict_direct
from ase_ws.potentials.mace.lean_weights import (
    Convolution,
    Layer,
    LeanWeights,
    UnsupportedError,
    monomials,
    product_basis,
    read_weights,
    skip_map,
)
from ase_ws.potentials.mace.model import Features, MACEPotential
from ase_ws.typing import GraphBatch, Potential, Prediction

#: From so many edges on it pays to leave out those of the skin.
TRIM_EDGES = 2000

# What reading a network of an unexpected shape may raise: upstream's own form evaluates it then.
_NOT_READ = (UnsupportedError, AttributeError, LookupError, TypeError, ValueError, RuntimeError)


@dataclass(frozen=True)
class Plan:
    """What stays the same while the atoms move: elements and edges of a batch.

    Attributes
    ----------
    key : tuple of Tensor
        The batch's own tensors; a batch that holds these very tensors has this plan.
    order, back : Tensor, (n_atoms,)
        Atoms sorted by element, and the way back.
    species : list of (element, start, stop)
    send, receive : Tensor, (n_edges,)
        In the sorted order.
    shift : Tensor, (n_edges, 3), or None
        Where periodic boundaries are crossed.
    elements : Tensor, (n_atoms,)
        Sorted.
    n_padding : int
    far : Tensor, (n_edges, 3), or None
        Takes the padding beyond the cutoff.
    """

    key: tuple[Tensor, ...]
    order: Tensor
    back: Tensor
    species: list[tuple[int, int, int]]
    send: Tensor
    receive: Tensor
    shift: Tensor | None
    elements: Tensor
    n_padding: int
    far: Tensor | None


class LeanMACE(torch.nn.Module):
    """A `Potential` that gives the numbers of a `MACEPotential`, with frozen weights.

    Parameters
    ----------
    potential : MACEPotential
        Stays what it is; a change of its weights is noticed at the next call.
    compiled : bool
        Through `torch.compile`: a wait at the first call, then sooner. The edges are padded, so
        that MD of one structure compiles once.

    Raises
    ------
    UnsupportedError
        The network has a part that is not known here, or the numbers differ.
    """

    conservative = True

    def __init__(self, potential: MACEPotential, *, compiled: bool = False):
        super().__init__()
        # Not a submodule: the weights are the other's.
        self._of = [potential]
        self.r_max = potential.r_max
        self.atomic_numbers = potential.atomic_numbers
        self.skin_safe = potential.skin_safe
        self._plan: Plan | None = None
        self._capacity = 0
        self.compiled = False
        self._read()
        self._check()
        self.compiled = compiled
        self._compiled = torch.compile(network, dynamic=False)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return self._of[0].dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._of[0].device

    @property
    def architecture(self) -> object:
        """What the network is built from, without what belongs to the training data."""
        own = {"avg_num_neighbors": 1.0, "scale": (1.0,), "shift": (0.0,)}
        return self._of[0].architecture.model_copy(update=own)

    @property
    def has_pair_energy(self) -> bool:
        """Whether the network has a short-range repulsion."""
        return hasattr(self._of[0].network, "pair_repulsion")

    def forward(
        self,
        batch: GraphBatch,
        *,
        forces: bool,
        stress: bool = False,
        create_graph: bool = False,
    ) -> Prediction:
        """Evaluate (see `ase_ws.typing.Potential`)."""
        return predict_conservative(
            self.atomic_energies, batch, forces=forces, stress=stress, create_graph=create_graph
        )

    def atomic_energies(self, batch: GraphBatch) -> Tensor:
        """Energies per atom, (n_atoms,), eV, float64."""
        return self._evaluate(batch, features=False).energies

    def features(self, batch: GraphBatch) -> Features:
        """As `MACEPotential.features`."""
        return self._evaluate(batch, features=True)

    def _read(self) -> None:
        mace = self._of[0]
        self._read_from = _version(mace)
        self.weights: LeanWeights = read_weights(
            mace.network, mace.head_index, mace.dtype, mace.device
        )
        self._elements: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def up_to_date(self) -> None:
        """Read the weights again if they have changed."""
        if _version(self._of[0]) != self._read_from:
            self._read()

    def tables(self, plan: Plan) -> list[list[tuple[Tensor, Tensor]]]:
        """Product basis and skip for each layer and element of the plan."""
        return [
            [self._of_element(number, element) for element, _, _ in plan.species]
            for number in range(len(self.weights.layers))
        ]

    def edges(self, batch: GraphBatch, plan: Plan) -> tuple[Tensor, Tensor, Tensor]:
        """Vectors, senders and receivers of the edges that count."""
        send, receive, vectors = plan.send, plan.receive, self._vectors(batch, plan)
        if not self.compiled and len(send) > TRIM_EDGES:
            near = (vectors.detach().square().sum(dim=1) < self.r_max**2).nonzero()[:, 0]
            send, receive, vectors = send[near], receive[near], vectors[near]
        return vectors, send, receive

    def e0_of(self, plan: Plan) -> Tensor:
        """Give the reference energy of each atom in the plan's order, (n_atoms,), eV, float64."""
        return self._of[0].e0[plan.elements]

    def _evaluate(self, batch: GraphBatch, features: bool) -> Features:
        self.up_to_date()
        plan = self.planned(batch)
        vectors, send, receive = self.edges(batch, plan)
        arguments = (vectors, send, receive, plan.elements, plan.species, self.tables(plan))
        if self.compiled:
            with warnings.catch_warnings():
                # The compiler looks at the gradients of what is not a leaf, and warns of it.
                warnings.simplefilter("ignore")
                interaction, layers = self._compiled(self.weights, *arguments)
        else:
            interaction, layers = network(self.weights, *arguments)
        total = (self.e0_of(plan) + interaction.double())[plan.back]
        total = total + self._pair_energies(vectors, send, receive, plan)
        if not features:
            return Features(total, total[:, None], total[:, None, None])
        return Features(
            total,
            torch.cat([h[0] for h in layers], dim=1)[plan.back],
            _vector_features(layers, plan),
        )

    def _pair_energies(
        self, vectors: Tensor, send: Tensor, receive: Tensor, plan: Plan
    ) -> Tensor | float:
        """Short-range repulsion (ZBL), where the model has it."""
        if not self.has_pair_energy:
            return 0.0
        network: Any = self._of[0].network
        length = vectors.norm(dim=1, keepdim=True)
        one_hot = torch.nn.functional.one_hot(plan.elements, len(self.atomic_numbers))
        pair = network.pair_repulsion_fn(
            length, one_hot.to(self.dtype), torch.stack([send, receive]), network.atomic_numbers
        )
        return (self.weights.scale * pair)[plan.back].double()

    def _vectors(self, batch: GraphBatch, plan: Plan) -> Tensor:
        ordered = batch.positions.to(self.dtype)[plan.order]
        vectors = ordered[plan.receive] - ordered[plan.send]
        if plan.shift is not None:
            owner = batch.batch[batch.edge_index[0]]
            cell = batch.cell.to(self.dtype)
            shift = torch.einsum("ei,eij->ej", plan.shift, cell[owner])
            vectors = vectors + torch.nn.functional.pad(shift, (0, 0, 0, plan.n_padding))
        return vectors if plan.far is None else vectors + plan.far

    def _of_element(self, number: int, element: int) -> tuple[Tensor, Tensor]:
        """Product basis and skip of an element in a layer, read when the element is first met."""
        if (number, element) not in self._elements:
            mace = self._of[0]
            network: Any = mace.network
            interaction, product = network.interactions[number], network.products[number]
            with torch.no_grad():
                basis = product_basis(product, element).to(mace.device, mace.dtype)
                skip = skip_map(interaction, product, len(self.atomic_numbers), element)
            self._elements[number, element] = (basis.contiguous(), skip.contiguous())
        return self._elements[number, element]

    def planned(self, batch: GraphBatch) -> Plan:
        """Give the plan of the batch, the one before where elements and edges are the same."""
        key = (batch.numbers, batch.edge_index, batch.shifts)
        if self._plan is None or any(a is not b for a, b in zip(self._plan.key, key, strict=True)):
            self._plan = self._new_plan(batch, key)
        return self._plan

    def _new_plan(self, batch: GraphBatch, key: tuple[Tensor, ...]) -> Plan:
        elements = self._of[0].element_indices(batch)
        order = torch.argsort(elements, stable=True)
        back = torch.argsort(order)
        counts = torch.bincount(elements, minlength=len(self.atomic_numbers)).tolist()
        species, start = [], 0
        for element, count in enumerate(counts):
            if count:
                species.append((element, start, start + count))
            start += count
        send, receive = back[batch.edge_index]
        n_padding = self._padding(len(send))
        far = None
        if n_padding:
            # Edges of an atom to itself, beyond the cutoff: they add exactly nothing.
            send, receive = (torch.nn.functional.pad(e, (0, n_padding)) for e in (send, receive))
            far = torch.zeros(len(send), 3, dtype=self.dtype, device=send.device)
            far[-n_padding:, 0] = 2 * self.r_max
        shifted = bool((batch.shifts != 0).any())
        return Plan(
            key=key,
            order=order,
            back=back,
            species=species,
            send=send,
            receive=receive,
            shift=batch.shifts.to(self.dtype) if shifted else None,
            elements=elements[order],
            n_padding=n_padding,
            far=far,
        )

    def _padding(self, n_edges: int) -> int:
        """Edges to add so that a compiled network meets the same shapes again."""
        if not self.compiled:
            return 0
        if n_edges > self._capacity:
            # Headroom for the fluctuations of MD.
            self._capacity = 64 * math.ceil(1.15 * n_edges / 64)
        return self._capacity - n_edges

    def _check(self) -> None:
        """Compare with upstream's forward on a structure that has every element."""
        mace = self._of[0]
        batch = _test_structure(mace)
        with torch.no_grad():
            ours, theirs = self(batch, forces=True), mace(batch, forces=True)
        assert ours.forces is not None and theirs.forces is not None
        tolerance = 1e-9 if self.dtype == torch.float64 else 1e-3
        bound = tolerance * (1.0 + float(theirs.forces.abs().max()))
        for a, b in ((ours.energy, theirs.energy), (ours.forces, theirs.forces)):
            if not float((a - b).abs().max()) <= bound:
                raise UnsupportedError("the numbers differ from upstream's")
        self._plan = None


class LeanDirect(torch.nn.Module):
    """A `DirectPotential` on a lean body: one forward pass of few operations."""

    conservative = False

    def __init__(self, potential: DirectPotential, *, compiled: bool = False):
        super().__init__()
        self._of = [potential]
        self.body = LeanMACE(potential.body, compiled=compiled)
        self.r_max = potential.r_max
        self.atomic_numbers = potential.atomic_numbers
        self.skin_safe = potential.skin_safe

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return self._of[0].dtype

    def forward(
        self,
        batch: GraphBatch,
        *,
        forces: bool,
        stress: bool = False,
        create_graph: bool = False,
    ) -> Prediction:
        """Evaluate (see `ase_ws.typing.Potential`)."""
        return predict_direct(
            self.body,
            self._of[0].readout,
            batch,
            forces=forces,
            stress=stress,
            create_graph=create_graph,
        )


def lean(potential: Potential, *, compiled: bool = False) -> Potential:
    """Give a form of the potential that evaluates sooner, or the potential where there is none.

    Its weights are those of the potential, also when they change later. Not for training: nothing
    flows back to the weights.
    """
    try:
        if isinstance(potential, MACEPotential):
            return LeanMACE(potential, compiled=compiled)
        if isinstance(potential, DirectPotential):
            return LeanDirect(potential, compiled=compiled)
    except _NOT_READ:
        pass
    return potential


def network(
    w: LeanWeights,
    vectors: Tensor,
    send: Tensor,
    receive: Tensor,
    elements: Tensor,
    species: list[tuple[int, int, int]],
    tables: list[list[tuple[Tensor, Tensor]]],
) -> tuple[Tensor, list[Tensor]]:
    """Interaction energy of each atom, and the features of each layer, (M, n, c)."""
    length = vectors.norm(dim=1, keepdim=True)
    harmonics = monomials(vectors / length, w.max_ell) @ w.harmonics
    cutoff = _envelope(length / w.r_max, w.p)
    radial = w.prefactor * torch.sin(w.bessel * length) / length
    if w.cutoff_on_radial:
        radial = radial * cutoff
    h = w.embedding[elements][None]
    energies = h.new_zeros(len(elements), 1)
    kept = []
    for layer, readout, table in zip(w.layers, w.readouts, tables, strict=True):
        conv = layer.convolution
        gates = _radial_network(radial, conv.radial, conv.activation)
        if not w.cutoff_on_radial:
            gates = gates * cutoff
        x = torch.bmm(h, layer.up)[:, send].transpose(0, 1)
        message = _messages(x, harmonics, gates, conv, receive, len(elements))
        h = _product(layer, h, message, species, table)
        first = h[0] @ readout.first
        if readout.second is not None:
            assert readout.activation is not None
            first = readout.activation(first) @ readout.second
        energies = energies + first
        kept.append(h)
    return w.scale * energies[:, 0] + w.shift, kept


def _messages(
    x: Tensor, harmonics: Tensor, gates: Tensor, conv: Convolution, receive: Tensor, n_atoms: int
) -> list[Tensor]:
    """Sum over neighbours and mix: for each l, (n_atoms, 2l+1, c)."""
    n_edges, n_k, channels = x.shape
    n_q = len(conv.paths)
    coupled = (harmonics @ conv.coupling).view(n_edges, n_q, n_k)
    weight = gates.view(n_edges, sum(conv.n_paths), channels).index_select(1, conv.paths)
    edge = (torch.bmm(coupled, x) if n_k > 1 else coupled * x) * weight
    summed = x.new_zeros((n_atoms, n_q, channels)).index_add(0, receive, edge)
    out, start = [], 0
    for degree, n_paths in enumerate(conv.n_paths):
        stop = start + (2 * degree + 1) * n_paths
        part = summed[:, start:stop].reshape(n_atoms, 2 * degree + 1, n_paths * channels)
        out.append(part @ conv.mix[degree])
        start = stop
    return out


def _product(
    layer: Layer,
    h: Tensor,
    message: list[Tensor],
    species: list[tuple[int, int, int]],
    table: list[tuple[Tensor, Tensor]],
) -> Tensor:
    """Apply the product basis of every element and the linear map; add what skips the layer."""
    outs, skips = [], []
    for (_, start, stop), (basis, skip) in zip(species, table, strict=True):
        x = torch.cat([part[start:stop] for part in message], dim=1).transpose(0, 1)
        if layer.skips_message:
            x = torch.bmm(x, skip)
        outs.append(_contract(x.permute(2, 1, 0), basis))
        if layer.skips:
            skips.append(torch.bmm(h[: len(skip), start:stop], skip))
    out = outs[0] if len(outs) == 1 else torch.cat(outs, dim=1)
    out = torch.bmm(out, layer.linear)
    if not skips:
        return out
    past = skips[0] if len(skips) == 1 else torch.cat(skips, dim=1)
    if len(past) == len(out):
        return out + past
    return torch.cat([out[: len(past)] + past, out[len(past) :]])


def _contract(x: Tensor, basis: Tensor) -> Tensor:
    """Σ H x̃ .. x (see `product_basis`) for atoms of one element: (c, n, K) to (M, n, c)."""
    channels, n, k = x.shape
    one = x.new_ones(channels, n, 1)
    factor = torch.cat([one, x], dim=2)
    product = factor if basis.shape[1] > 1 else one
    while product.shape[2] < basis.shape[1]:
        product = (product[:, :, :, None] * factor[:, :, None, :]).flatten(2)
    half = torch.bmm(product, basis).view(channels, n, k, -1)
    return (half * x[..., None]).sum(dim=2).permute(2, 1, 0)


def _radial_network(
    x: Tensor, weights: list[Tensor], activation: Callable[[Tensor], Tensor]
) -> Tensor:
    for weight in weights[:-1]:
        x = activation(x @ weight)
    return x @ weights[-1]


def _envelope(x: Tensor, p: int) -> Tensor:
    """Upstream's polynomial cutoff of x = r/r_max: 1 at 0, 0 from 1 on."""
    a, b, c = (p + 1.0) * (p + 2.0) / 2.0, p * (p + 2.0), p * (p + 1.0) / 2
    return (1.0 - x**p * (a - x * (b - c * x))) * (x < 1)


def _vector_features(kept: list[Tensor], plan: Plan) -> Tensor:
    vectors = [h[1:4].permute(1, 2, 0) for h in kept if len(h) >= 4]
    if not vectors:
        return kept[0].new_zeros((kept[0].shape[1], 0, 3))
    return torch.cat(vectors, dim=1)[plan.back]


def _version(mace: MACEPotential) -> tuple[int, ...]:
    first = next(mace.network.parameters())
    return (
        id(first),
        first.data_ptr(),
        sum(p._version for p in mace.network.parameters()),
        mace.reference_energies._version,
    )


def _test_structure(mace: MACEPotential) -> GraphBatch:
    """Atoms of every element at random, none closer than 1 Å, with some beyond the cutoff."""
    rng = np.random.default_rng(0)
    numbers = list(mace.atomic_numbers)[:10]
    numbers = (numbers * 6)[: max(6, len(numbers))]
    positions: list[np.ndarray] = []
    while len(positions) < len(numbers):
        trial = rng.uniform(0, 3.0 + 0.2 * len(numbers), size=3)
        if all(np.linalg.norm(trial - p) > 1.0 for p in positions):
            positions.append(trial)
    batch = graph(
        np.array(numbers),
        np.array(positions),
        np.zeros((3, 3)),
        np.zeros(3, bool),
        cutoff=mace.r_max + 0.5,
    )
    return batch.to(mace.device, mace.dtype)
