"""`LeanMACE`: a MACE with frozen weights, evaluated with few operations."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ase_ws.graphs import graph
from ase_ws.potentials.derivatives import ConservativeModule
from ase_ws.potentials.mace.features import Features
from ase_ws.potentials.mace.lean.elements import (
    product_basis,
    product_coupling,
    product_weights,
    sender_maps,
    skip_map,
)
from ase_ws.potentials.mace.lean.network import network
from ase_ws.potentials.mace.lean.plan import Plan, Slots, kinds_of, make_plan, roomy
from ase_ws.potentials.mace.lean.probe import UnsupportedError
from ase_ws.potentials.mace.lean.read import read_weights
from ase_ws.potentials.mace.lean.stacked import StackedMACE
from ase_ws.potentials.mace.lean.weights import (
    ElementParts,
    ElementTable,
    Tables,
)
from ase_ws.typing import GraphBatch, Potential

if TYPE_CHECKING:
    from ase_ws.potentials.mace.model import MACEPotential

#: From so many edges on it pays to leave out those of the skin: measured on models of 16 to 128
#: channels, where 1,000 to 8,000 edges gain 1.1 to 1.5 times, and 130 lose 3 %.
TRIM_EDGES = 300

#: What reading a network of an unexpected shape may raise: upstream's own form evaluates it then.
NOT_READ = (UnsupportedError, AttributeError, LookupError, TypeError, ValueError, RuntimeError)


class Start(NamedTuple):
    """What the atoms of a plan have before they meet.

    Attributes
    ----------
    plan : Plan
    features : Tensor, (n_atoms, c)
        In the order of the plan.
    e0 : Tensor, (n_atoms,), eV, float64
        Reference energies, and what charge and spin add to them.
    tables : list of list of ElementTable
    """

    plan: Plan
    features: Tensor
    e0: Tensor
    tables: Tables

    def is_of(self, plan: Plan, features: Tensor) -> bool:
        """Whether the plan has the same atoms with other edges, as MD has them."""
        return self.plan.species == plan.species and torch.equal(self.features, features)


class LeanMACE(ConservativeModule):
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
        The network has a part that is not known here, or the numbers differ. Other errors of
        `NOT_READ` mean the same.
    """

    #: Whether gradients flow to the network's weights.
    trained = False

    def __init__(self, potential: MACEPotential, *, compiled: bool = False):
        super().__init__()
        # Not a submodule: the weights are the other's.
        self._of = [potential]
        self.r_max = potential.r_max
        self.atomic_numbers = potential.atomic_numbers
        self.skin_safe = potential.skin_safe
        self._width = 0
        self.compiled = False
        self._read()
        self._check()
        self.compiled = compiled
        # Naming the compiler alone costs most of a second.
        self._compiled = torch.compile(network, dynamic=False) if compiled else network

    def atomic_energies(self, batch: GraphBatch) -> Tensor:
        """Energies per atom, (n_atoms,), eV, float64."""
        return self._evaluate(batch)[0]

    def features(self, batch: GraphBatch) -> Features:
        """As `MACEPotential.features`."""
        energies, layers, plan = self._evaluate(batch)
        vectors = [h[1:4].permute(1, 2, 0) for h in layers if len(h) >= 4]
        return Features(
            energies,
            torch.cat([h[0] for h in layers], dim=1)[plan.back],
            torch.cat(vectors, dim=1)[plan.back]
            if vectors
            else layers[0].new_zeros((len(energies), 0, 3)),
        )

    def side_by_side(self, others: Sequence[Potential]) -> StackedMACE | None:
        """Give one evaluation of this and the others, or None where they are not all alike."""
        members = [self, *(p for p in others if isinstance(p, LeanMACE))]
        kinds = [(m._architecture, m.dtype, m.device) for m in members]
        if len(members) <= len(others) or any(kind != kinds[0] for kind in kinds):
            return None
        if any(m._has_pair_energy or m.compiled for m in members):
            return None
        return StackedMACE(members)

    def up_to_date(self) -> None:
        """Read the weights again if they have changed."""
        if self._watch.changed():
            self._read()

    def planned(self, batch: GraphBatch) -> Plan:
        """Give the plan of the batch, the one before where elements and edges are the same."""
        # What another thread puts there meanwhile is of its own batch.
        plan = self._plan
        if plan is None or not plan.fits(batch):
            elements = self._of[0].element_indices(batch)
            kinds = kinds_of(batch, elements) if self._of[0].takes else elements
            width, far = self._width, 2 * self.r_max
            plan = make_plan(
                batch,
                elements,
                kinds,
                dtype=self.dtype,
                width=width,
                beyond=far,
                paired=self._trims(batch.edge_index.shape[1]),
            )
            widest = max(width for _, width in plan.slots.blocks)
            if self.compiled and widest > self._width:
                # So that the compiled network meets the same shapes again.
                self._width = roomy(widest)
                return self.planned(batch)
            self._plan = plan
        return plan

    def start(self, batch: GraphBatch, plan: Plan) -> Start:
        """Give what the atoms of the plan have before they meet, read once for each plan."""
        known = self._start
        if known is None or known.plan is not plan:
            mace = self._of[0]
            elements = mace.element_indices(batch)
            with torch.set_grad_enabled(self.trained and torch.is_grad_enabled()):
                features, energies = mace.start(batch, elements)
            features = features[plan.order]
            if known is not None and known.is_of(plan, features):
                self._start = known._replace(plan=plan)
                return known
            e0 = mace.e0[plan.elements]
            if energies is not None:
                e0 = e0 + energies[plan.order].double()
            layer = self.weights.layers[0]
            senders = [sender_maps(layer, features[first]) for _, first, _ in plan.species]
            tables = [
                [self._of_element(number, element) for element, _, _ in plan.species]
                for number in range(len(self.weights.layers))
            ]
            tables[0] = [
                table._replace(sender=sender)
                for table, sender in zip(tables[0], senders, strict=True)
            ]
            self._start = known = Start(plan, features, e0, tables)
        return known

    def edges(self, batch: GraphBatch, plan: Plan) -> tuple[Tensor, Slots]:
        """Vectors of the edges that count, in their slots."""
        vectors, slots = plan.vectors(batch), plan.slots
        if self._trims(len(vectors)):
            slots = plan.within(vectors, self.r_max)
        return torch.cat([vectors, plan.far]).index_select(0, slots.edge), slots

    def _trims(self, n_edges: int) -> bool:
        """Whether edges beyond the cutoff are left out; compiled, the shapes are to stay."""
        return not self.compiled and n_edges > TRIM_EDGES

    @property
    def _architecture(self) -> object:
        """What the network is built from, without what belongs to the training data."""
        own = {"avg_num_neighbors": 1.0, "scale": (1.0,), "shift": (0.0,)}
        return self._of[0].architecture.model_copy(update=own)

    @property
    def _has_pair_energy(self) -> bool:
        """Whether the network has a short-range repulsion."""
        return hasattr(self._of[0].network, "pair_repulsion")

    def _read(self) -> None:
        mace = self._of[0]
        self._watch = _Watch(mace)
        self.dtype, self.device = mace.dtype, mace.device
        self.weights = read_weights(mace.network, mace.head_index, mace.dtype, mace.device)
        self._plan: Plan | None = None
        self._start: Start | None = None
        self._elements: dict[tuple[int, int], ElementTable] = {}
        self._couplings: dict[int, Tensor] = {}

    def _evaluate(self, batch: GraphBatch) -> tuple[Tensor, list[Tensor], Plan]:
        """Energies per atom, and features of each layer in the order of the plan."""
        # What is kept would be of no use to a later call with forces.
        with torch.inference_mode(False):
            self.up_to_date()
            plan = self.planned(batch)
            start = self.start(batch, plan)
        vectors, slots = self.edges(batch, plan)
        arguments = (start.features, vectors, slots, plan.elements, plan.species, start.tables)
        if self.compiled:
            with warnings.catch_warnings():
                # The compiler looks at the gradients of what is not a leaf, and warns of it.
                warnings.simplefilter("ignore")
                interaction, layers = self._compiled(self.weights, *arguments)
        else:
            interaction, layers = network(self.weights, *arguments)
        total = (start.e0 + interaction.double())[plan.back]
        if self._has_pair_energy:
            total = total + self._pair_energies(vectors, slots, plan)
        return total, layers, plan

    def _pair_energies(self, vectors: Tensor, slots: Slots, plan: Plan) -> Tensor:
        """Short-range repulsion (ZBL)."""
        network: Any = self._of[0].network
        length = vectors.norm(dim=1, keepdim=True)
        # Large atoms may repel each other beyond the cutoff, where upstream has no edges.
        near = (length[:, 0] < self.r_max).nonzero()[:, 0]
        one_hot = torch.nn.functional.one_hot(plan.elements, len(self.atomic_numbers))
        pair = network.pair_repulsion_fn(
            length.index_select(0, near),
            one_hot.to(self.dtype),
            torch.stack([slots.send[near], slots.receive[near]]),
            network.atomic_numbers,
        )
        return (self.weights.scale * pair)[plan.back].double()

    def _of_element(self, number: int, element: int) -> ElementTable:
        """Give what belongs to an element in a layer, read when the element is first met."""
        if (number, element) not in self._elements:
            alike = self.weights.layers[number].alike
            with torch.no_grad():
                parts = self._parts(number, element)
                known = [t for (n, _), t in self._elements.items() if alike and n == number]
                basis = (
                    known[0].basis  # one for all elements
                    if known
                    else product_basis(self._coupling(number), parts.weights)
                )
            self._elements[number, element] = ElementTable(basis, parts.skip.contiguous(), [])
        return self._elements[number, element]

    def _parts(self, number: int, element: int) -> ElementParts:
        """Read what an element has of its own in a layer."""
        parts = element_parts(self._of[0].network, number, element)
        return ElementParts(*(part.to(self.device, self.dtype) for part in parts))

    def _coupling(self, number: int) -> Tensor:
        """Give the coupling of a layer's product basis."""
        if number not in self._couplings:
            network: Any = self._of[0].network
            factors = self.weights.layers[number].factors
            coupling = product_coupling(network.products[number], factors)
            self._couplings[number] = coupling.to(self.device, self.dtype)
        return self._couplings[number]

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


def element_parts(network: Any, number: int, element: int) -> ElementParts:
    """Read what an element has of its own in a layer."""
    interaction, product = network.interactions[number], network.products[number]
    n_elements = len(network.atomic_numbers)
    return ElementParts(
        product_weights(product, element), skip_map(interaction, product, n_elements, element)
    )


class _Watch:
    """Notices when a weight or a buffer of a network is changed in place, or replaced.

    Quick, since it is asked at every step: it walks the modules once.
    """

    def __init__(self, mace: MACEPotential):
        self._mace = mace
        modules = [m for m in mace.network.modules() if not isinstance(m, torch.jit.ScriptModule)]
        self._held = [d for m in modules for d in (m._parameters, m._buffers) if d]
        self._seen = self._look()

    def changed(self) -> bool:
        """Whether anything is not as it was."""
        return self._look() != self._seen

    def _look(self) -> list[int]:
        tensors = [t for held in self._held for t in held.values() if t is not None]
        tensors.append(self._mace.reference_energies)
        return [
            self._mace.head_index,
            *map(id, tensors),
            *(t._version for t in tensors),
            *(t.data_ptr() for t in tensors),
        ]


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
        cutoff=mace.r_max + (0.5 if mace.skin_safe else 0.0),
    )
    return batch.to(mace.device, mace.dtype)
