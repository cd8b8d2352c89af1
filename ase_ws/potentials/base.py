"""What every trainable potential of this package has in common: elements, E0, precision."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from ase.data import chemical_symbols
from torch import Tensor

from ase_ws.errors import UserError
from ase_ws.potentials.architecture import Architecture
from ase_ws.potentials.derivatives import ConservativeModule
from ase_ws.potentials.heads import ONE_HEAD, choose_head
from ase_ws.potentials.posterior import Posterior
from ase_ws.potentials.weights import Matrix
from ase_ws.typing import GraphBatch, Potential


class PotentialModule(ConservativeModule):
    """A `Potential` that can be trained, saved and loaded.

    A subclass evaluates (`atomic_energies`), and says how it is built again: `description()` and
    `tensors()` are what a model file holds, `rebuild` makes the potential from them. It may offer
    forms that evaluate and train sooner (`lean`, `trainable`) and forces of their own
    (`with_direct_forces`).

    Parameters
    ----------
    architecture : Architecture
        What is needed to build the network again; of type `architecture_type`.
    e0 : array, (n_elements,) or (n_heads, n_elements), eV
        Reference energy of each element, in the order of `architecture.atomic_numbers`; one row
        serves all heads. Kept in float64 whatever the precision of the weights. NaN where they
        are not known: such a head cannot be chosen.
    head : str, optional
        Of a model that was trained for several levels of theory at once (`architecture.heads`)
        the one to evaluate; default as in `choose_head`.

    Attributes
    ----------
    kind : str
        Names the class in model files.
    reference_energies : Tensor, (n_heads, n_elements), eV, float64
    e0 : Tensor, (n_elements,), eV, float64
        The row of the head in use; changing it in place changes that row.
    head_index : int
    takes : tuple of str
        Keys of `atoms.info` that the energy depends on, of "charge" and "spin".
    network : torch.nn.Module
    """

    kind: ClassVar[str]
    architecture_type: ClassVar[type[Architecture]]
    architecture: Any
    network: torch.nn.Module
    reference_energies: Tensor
    _element_index: Tensor

    def __init__(
        self, architecture: Architecture, e0: np.ndarray | Tensor, head: str | None = None
    ):
        super().__init__()
        #: How well labels fix the weights, where that is known.
        self.posterior: Posterior | None = None
        self.architecture = architecture
        self.r_max = architecture.r_max
        self.atomic_numbers = architecture.atomic_numbers
        self.heads: tuple[str, ...] = getattr(architecture, "heads", ONE_HEAD)
        self.head_index = choose_head(self.heads, head)
        self.register_buffer("reference_energies", self._all_heads(e0), persistent=False)
        index = torch.full((119,), -1, dtype=torch.int64)
        index[list(self.atomic_numbers)] = torch.arange(len(self.atomic_numbers))
        self.register_buffer("_element_index", index, persistent=False)

    def _all_heads(self, e0: np.ndarray | Tensor) -> Tensor:
        rows = torch.as_tensor(e0, dtype=torch.float64)
        shape = (len(self.heads), len(self.atomic_numbers))
        if tuple(rows.shape) not in (shape, shape[1:]):
            raise UserError(
                f"reference energies of shape {tuple(rows.shape)}: expected {shape}, one for each "
                "head and element"
            )
        rows = rows.expand(shape).clone()
        known = rows.isfinite().all(dim=1).tolist()
        if not known[self.head_index]:
            raise UserError(
                f"the reference energies of head '{self.head}' are not known, only those of "
                f"{[name for name, k in zip(self.heads, known, strict=True) if k]}: use the model "
                "that this one was made from"
            )
        return rows

    @property
    def takes(self) -> tuple[str, ...]:
        """Keys of `atoms.info` that the energy depends on, see `ase_ws.graphs.state_of`."""
        return ()

    @property
    def head(self) -> str:
        """Name of the head in use."""
        return self.heads[self.head_index]

    @property
    def e0(self) -> Tensor:
        """Reference energies of the head in use, (n_elements,), eV, float64."""
        return self.reference_energies[self.head_index]

    @e0.setter
    def e0(self, value: Tensor) -> None:
        # Also the second half of `potential.e0 += shift`.
        self.reference_energies[self.head_index] = value

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        # Moving to a device or a precision must not round the reference energies.
        exact = self.reference_energies.clone()
        super()._apply(fn, recurse)
        self.reference_energies = exact.to(self.reference_energies.device)
        return self

    def description(self) -> dict[str, Any]:
        """Plain data (JSON) from which, with `tensors`, the potential is built again."""
        dtype = str(self.dtype).removeprefix("torch.")
        architecture = self.architecture.model_copy(update={"dtype": dtype})
        return {"architecture": architecture.model_dump(mode="json")}

    def tensors(self) -> dict[str, Tensor]:
        """Weights and buffers of the network by name, without E0."""
        # Some networks also keep their version there, which is no tensor.
        state = self.network.state_dict()
        return {name: value for name, value in state.items() if isinstance(value, Tensor)}

    def fingerprint(self) -> str:
        """Hash of everything that decides what it answers: architecture, weights, E0."""
        digest = hashlib.sha256(json.dumps(self.description(), sort_keys=True).encode())
        for name, value in [*sorted(self.tensors().items()), ("e0", self.e0)]:
            digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    @classmethod
    def rebuild(
        cls,
        description: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        e0: np.ndarray,
        head: str | None = None,
    ) -> PotentialModule:
        """Build the potential from what a model file holds; `head` for multi-head models.

        `e0` is a row for each head, or the row of the head that the description names.

        Raises
        ------
        UserError
            The weights do not fit the architecture.
        pydantic.ValidationError, KeyError
            The description is damaged.
        """
        raise NotImplementedError

    def with_weights(self, values: Tensor) -> PotentialModule:
        """Give a copy with other weights, from one vector of all of them, (n_weights,)."""
        # Without the posterior, which may be larger than all the rest.
        other = copy.deepcopy(self, {id(self.posterior): None})
        parts = values.split([weight.numel() for weight in other.parameters()])
        with torch.no_grad():
            for weight, part in zip(other.parameters(), parts, strict=True):
                weight.copy_(part.view(weight.shape))
        return other

    def lean(self, *, compiled: bool = False) -> Potential:
        """Give a form that evaluates sooner, or the potential itself where it has none.

        Its weights are those of the potential, also when they change later. Not for training:
        nothing flows back to the weights.

        Parameters
        ----------
        compiled : bool
            Through `torch.compile`: a wait at the first call, then sooner.
        """
        return self

    def trainable(self) -> Potential:
        """Give a form whose steps of training are sooner, or the potential itself.

        Gradients flow to the weights of the potential, whose changes it follows.
        """
        return self

    def with_heads(self, sources: Mapping[str, str]) -> PotentialModule:
        """Give a potential with these heads, each beginning as the one of this that it names.

        Raises
        ------
        UserError
            Potentials of this kind have one head.
        """
        raise UserError(f"a model of kind '{self.kind}' has one head: several need a MACE")

    def of_head(self, head: str) -> PotentialModule:
        """Give this potential with another of its heads in use; they share all that they hold."""
        other = copy.copy(self)
        other.head_index = choose_head(self.heads, head)
        if other.head_index != self.head_index:
            other.posterior = None
        return other

    def matrices(self) -> list[Matrix]:
        """Give the matrices among the weights: what may be moved by one of low rank."""
        return [
            Matrix(weight, 0, *weight.shape) for weight in self.parameters() if weight.dim() == 2
        ]

    def with_direct_forces(self, *, scale: float, seed: int) -> PotentialModule:
        """Give a potential with this energy, and a readout of forces that is to be trained.

        Parameters
        ----------
        scale : float, eV/Å
            Size of a typical force.
        seed : int
            Of the readout's weights.

        Raises
        ------
        UserError
            There is none for this kind of potential.
        """
        raise UserError(f"--forces direct: a model of kind '{self.kind}' cannot have them")

    def with_energy_forces(self) -> PotentialModule:
        """Give the potential whose forces are −dE/dr of this energy."""
        return self

    def element_indices(self, batch: GraphBatch) -> Tensor:
        """Index of each atom's element in `atomic_numbers`, (n_atoms,); refuses unknown ones."""
        last = len(self._element_index) - 1
        elements = self._element_index[batch.numbers.clamp(0, last)]
        unknown = (elements < 0) | (batch.numbers < 0) | (batch.numbers > last)
        if bool(unknown.any()):
            raise UserError(
                f"the model does not know the element(s) {_named(batch, unknown)}; "
                f"it knows {_symbols(self.atomic_numbers)}"
            )
        return elements


def _symbols(numbers: Iterable[int]) -> str:
    return ", ".join(_symbol(z) for z in sorted(numbers))


def _symbol(number: int) -> str:
    return chemical_symbols[number] if 0 <= number < len(chemical_symbols) else f"Z={number}"


def _named(batch: GraphBatch, which: Tensor) -> str:
    """Name each element once, by its first atom as the structure counts them."""
    first: dict[int, int] = {}
    starts = torch.cumsum(batch.n_atoms, 0) - batch.n_atoms
    for atom in which.nonzero()[:, 0].tolist():
        start = int(starts[batch.batch[atom]])
        first.setdefault(int(batch.numbers[atom]), atom - start)
    return ", ".join(f"{_symbol(z)} (atom {k})" for z, k in sorted(first.items()))
