"""What every trainable potential of this package has in common: elements, E0, precision."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from ase.data import chemical_symbols
from torch import Tensor
from typing_extensions import Self

from ase_ws.errors import UserError
from ase_ws.graphs import edge_vectors, graph
from ase_ws.typing import GraphBatch, Prediction


class PotentialModule(torch.nn.Module):
    """A `Potential` that can be trained, saved and loaded.

    A subclass evaluates (`forward`), and says how it is built again: `description()` and
    `tensors()` are what a model file holds, `rebuild` makes the potential from them.

    Parameters
    ----------
    r_max : float, Å
    atomic_numbers : iterable of int
    e0 : array, (n_elements,), eV
        Reference energy of each element, in that order. Kept in float64 whatever the precision
        of the weights.

    Attributes
    ----------
    kind : str
        Names the class in model files.
    architecture : Architecture
        What is needed to build the network again.
    """

    kind: ClassVar[str]
    conservative: bool = True
    skin_safe: bool = True
    architecture: Any  # an Architecture; the subclass says which
    e0: Tensor
    _element_index: Tensor

    def __init__(self, r_max: float, atomic_numbers: Iterable[int], e0: np.ndarray | Tensor):
        super().__init__()
        self.r_max = float(r_max)
        self.atomic_numbers = tuple(atomic_numbers)
        self.register_buffer("e0", torch.as_tensor(e0, dtype=torch.float64), persistent=False)
        index = torch.full((119,), -1, dtype=torch.int64)
        index[list(self.atomic_numbers)] = torch.arange(len(self.atomic_numbers))
        self.register_buffer("_element_index", index, persistent=False)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        # Moving to a device or a precision must not round the reference energies.
        e0 = self.e0.clone()
        super()._apply(fn, recurse)
        self.e0 = e0.to(self.e0.device)
        return self

    def forward(
        self,
        batch: GraphBatch,
        *,
        forces: bool,
        stress: bool = False,
        create_graph: bool = False,
    ) -> Prediction:
        """Evaluate (see `ase_ws.typing.Potential`)."""
        raise NotImplementedError

    def description(self) -> dict[str, Any]:
        """Plain data (JSON) from which, with `tensors`, the potential is built again."""
        dtype = str(self.dtype).removeprefix("torch.")
        architecture = self.architecture.model_copy(update={"dtype": dtype})
        return {"architecture": architecture.model_dump(mode="json")}

    def tensors(self) -> dict[str, Tensor]:
        """Weights and buffers by name, without E0."""
        raise NotImplementedError

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

        Raises
        ------
        UserError
            The weights do not fit the architecture.
        pydantic.ValidationError, KeyError
            The description is damaged.
        """
        raise NotImplementedError

    def element_indices(self, batch: GraphBatch) -> Tensor:
        """Index of each atom's element in `atomic_numbers`, (n_atoms,); refuses unknown ones."""
        elements = self._element_index[batch.numbers]
        if bool((elements < 0).any()):
            unknown = _symbols(set(batch.numbers[elements < 0].tolist()))
            raise UserError(
                f"the model does not know the element(s) {unknown}; "
                f"it knows {_symbols(self.atomic_numbers)}"
            )
        return elements


def leak_beyond_cutoff(potential: PotentialModule, skin: float = 1.0) -> float:
    """Largest change of an atomic energy (eV) when edges beyond `r_max` are added.

    Zero for networks that multiply every message by a cutoff that ends at `r_max`; anything above
    rounding is reported as it is. Evaluated on a fixed cluster of known elements in the network's
    own precision.
    """
    rng = np.random.default_rng(0)
    n = 8
    numbers = np.resize(potential.atomic_numbers, n)
    positions = rng.uniform(0, potential.r_max * 1.1, (n, 3))
    wide = graph(
        numbers, positions, np.zeros((3, 3)), np.zeros(3, bool), cutoff=potential.r_max + skin
    ).to(potential.device, potential.dtype)
    inside = edge_vectors(wide).norm(dim=1) < potential.r_max
    tight = replace(wide, edge_index=wide.edge_index[:, inside], shifts=wide.shifts[inside])
    with torch.no_grad():
        a, b = (potential(g, forces=False).energies for g in (wide, tight))
    assert a is not None
    assert b is not None
    leak = float((a - b).abs().max())
    # Adding zeros can change the order of a sum, hence its rounding.
    scale = float((a - potential.e0[potential.element_indices(wide)]).abs().max())
    rounding = 100 * torch.finfo(potential.dtype).eps * max(scale, 1e-3)
    # NaN counts as a leak: nothing can be said of it.
    return 0.0 if leak <= rounding else leak


def _symbols(numbers: Iterable[int]) -> str:
    return ", ".join(chemical_symbols[z] for z in sorted(numbers))


def load_weights(network: torch.nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put weights into a network; every weight must be there, buffers may be absent.

    Raises
    ------
    UserError
        Weights are missing, unknown, or of another shape than the architecture says.
    """
    try:
        missing, unexpected = network.load_state_dict(dict(tensors), strict=False)
    except RuntimeError as error:
        detail = " ".join(str(error).split())
        raise UserError(f"the weights do not fit the architecture: {detail:.300}") from error
    weights = {name for name, _ in network.named_parameters()}
    # Buffers (coupling coefficients, masks) are rebuilt from the architecture.
    lost = [name for name in missing if name in weights]
    if lost or unexpected:
        raise UserError(
            f"the weights do not fit the architecture: missing {lost[:3]}, "
            f"unexpected {list(unexpected)[:3]}"
        )
