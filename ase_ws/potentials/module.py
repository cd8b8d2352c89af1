"""What every trainable potential of this package has in common: elements, E0, precision."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
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

#: What upstream calls the head of a model that was trained for one level of theory.
ONE_HEAD = ("Default",)


class HeadError(UserError):
    """No such head, or several and none is named; `heads` are those of the model."""

    def __init__(self, message: str, heads: Sequence[str]):
        super().__init__(message)
        self.heads = tuple(heads)


def choose_head(heads: Sequence[str], head: str | None) -> int:
    """Index of the head of this name; of none, as upstream chooses.

    Upstream takes the only head, or the one that is called "default"; without it, it refuses.

    Raises
    ------
    HeadError
        Lists the heads.
    """
    listed = ", ".join(f"'{name}'" for name in heads)
    if head is not None:
        if head not in heads:
            raise HeadError(f"the model has no head '{head}'; its heads are {listed}", heads)
        return list(heads).index(head)
    default = [k for k, name in enumerate(heads) if len(heads) == 1 or name.lower() == "default"]
    if len(default) != 1:
        raise HeadError(
            f"the model has several heads, each with an energy of its own: name one of {listed} "
            "(head=... in Python, --head on the command line)",
            heads,
        )
    return default[0]


class PotentialModule(torch.nn.Module):
    """A `Potential` that can be trained, saved and loaded.

    A subclass evaluates (`forward`), and says how it is built again: `description()` and
    `tensors()` are what a model file holds, `rebuild` makes the potential from them.

    Parameters
    ----------
    r_max : float, Å
    atomic_numbers : iterable of int
    e0 : array, (n_elements,) or (n_heads, n_elements), eV
        Reference energy of each element, in that order; one row serves all heads. Kept in float64
        whatever the precision of the weights. NaN where they are not known: such a head cannot be
        chosen.
    heads : sequence of str
        Of a model that was trained for several levels of theory at once.
    head : str, optional
        The one to evaluate; default as in `choose_head`.

    Attributes
    ----------
    kind : str
        Names the class in model files.
    reference_energies : Tensor, (n_heads, n_elements), eV, float64
    e0 : Tensor, (n_elements,), eV, float64
        The row of the head in use; changing it in place changes that row.
    head_index : int
    architecture : Architecture
        What is needed to build the network again.
    """

    kind: ClassVar[str]
    conservative: bool = True
    skin_safe: bool = True
    architecture: Any  # an Architecture; the subclass says which
    reference_energies: Tensor
    _element_index: Tensor

    def __init__(
        self,
        r_max: float,
        atomic_numbers: Iterable[int],
        e0: np.ndarray | Tensor,
        heads: Sequence[str] = ONE_HEAD,
        head: str | None = None,
    ):
        super().__init__()
        self.r_max = float(r_max)
        self.atomic_numbers = tuple(atomic_numbers)
        self.heads = tuple(heads)
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

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        # Moving to a device or a precision must not round the reference energies.
        exact = self.reference_energies.clone()
        super()._apply(fn, recurse)
        self.reference_energies = exact.to(self.reference_energies.device)
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

        `e0` is a row for each head, or the row of the head that the description names.

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
        last = len(self._element_index) - 1
        elements = self._element_index[batch.numbers.clamp(0, last)]
        unknown = (elements < 0) | (batch.numbers < 0) | (batch.numbers > last)
        if bool(unknown.any()):
            raise UserError(
                f"the model does not know the element(s) {_named(batch, unknown)}; "
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
