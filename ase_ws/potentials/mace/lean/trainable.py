"""`TrainableMACE`: the lean form for training, where gradients flow to the network's weights."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ase_ws.potentials.mace.lean.elements import product_basis
from ase_ws.potentials.mace.lean.follow import Copies, Followed
from ase_ws.potentials.mace.lean.model import LeanMACE, element_parts
from ase_ws.potentials.mace.lean.read import tree
from ase_ws.potentials.mace.lean.weights import (
    ElementParts,
    ElementTable,
    map_leaves,
    multiplied,
)

if TYPE_CHECKING:
    from ase_ws.potentials.mace.model import MACEPotential


class TrainableMACE(LeanMACE):
    """A `Potential` that gives the numbers of a `MACEPotential`, and gradients of its weights.

    At every call the lean weights are made from those of the network, by copies and products. Only
    what belongs to the elements of the batch is.

    Parameters
    ----------
    potential : MACEPotential
        Stays what it is: its weights are what is trained.

    Raises
    ------
    UnsupportedError
        As in `LeanMACE`; or a lean weight is no copy of one of the network.
    """

    trained = True

    def __init__(self, potential: MACEPotential):
        head = potential.head_index
        self._followed = Followed(potential.network)
        # In float64, whatever precision the network has for now.
        self._found = self._followed.copies(lambda net: tree(net, head))
        self._found_elements: dict[tuple[int, int], ElementParts] = {}
        super().__init__(potential)

    def __deepcopy__(self, memo: dict[int, Any]) -> TrainableMACE:
        """Copy with the potential; how its weights are read stays shared."""
        new = copy.copy(self)
        new._of = [copy.deepcopy(self._of[0], memo)]
        new._read()
        return new

    def up_to_date(self) -> None:
        """Make the lean weights anew."""
        mace = self._of[0]
        if (mace.device, mace.dtype) != (self.device, self.dtype):
            self._read()
        self.weights = multiplied(self._now(self._copies))
        self._elements, self._start = {}, None

    def _read(self) -> None:
        self.dtype, self.device = self._of[0].dtype, self._of[0].device
        self._copies = self._here(self._found)
        self._element_copies = {k: self._here(v) for k, v in self._found_elements.items()}
        self._plan, self._couplings = None, {}

    def _now(self, made: Any) -> Any:
        weights = list(self._of[0].network.parameters())
        return map_leaves(lambda x: x.of(weights) if isinstance(x, Copies) else x, made)

    def _here(self, made: Any) -> Any:
        """Move what was read; the numbers take the precision."""

        def move(x: Any) -> Any:
            if isinstance(x, Tensor) and not x.is_floating_point():
                return x.to(self.device)
            return x.to(self.device, self.dtype) if isinstance(x, Tensor | Copies) else x

        return map_leaves(move, made)

    def _of_element(self, number: int, element: int) -> ElementTable:
        if (number, element) not in self._elements:
            if (number, element) not in self._element_copies:
                found = self._followed.copies(lambda net: element_parts(net, number, element))
                self._found_elements[number, element] = found
                self._element_copies[number, element] = self._here(found)
            parts = self._now(self._element_copies[number, element])
            basis = product_basis(self._coupling(number), parts.weights)
            self._elements[number, element] = ElementTable(basis, parts.skip, [])
        return self._elements[number, element]
