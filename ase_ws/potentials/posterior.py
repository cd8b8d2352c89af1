"""How well labels fix the weights of a potential: samples of their posterior, kept with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from ase.data import chemical_symbols
from torch import Tensor

from ase_ws.errors import UserError

_PREFIX = "posterior."


@dataclass(frozen=True, eq=False)
class Posterior:
    """Samples of N(0, Σ), Σ the covariance of weights and reference energies given the labels.

    Attributes
    ----------
    index : Tensor, (n_moved,), int64
        Which numbers of the flat weights (`flat_weights`) are uncertain; the others are taken as
        known.
    weights : Tensor, (n_samples, n_moved)
    e0 : Tensor, (n_samples, n_elements), eV
        Of all elements of the potential.
    noise : float, eV/atom
        What the linearised model cannot explain of an energy.
    elements : tuple of int
        Atomic numbers that labels say something about.
    n_labels : int
    """

    index: Tensor
    weights: Tensor
    e0: Tensor
    noise: float
    elements: tuple[int, ...]
    n_labels: int

    def __len__(self) -> int:
        return len(self.weights)

    def members(self, potential: Any, part: float) -> Iterator[Any]:
        """Give copies of a potential, whose weights are moved by a part of each sample.

        Where the potential is a `PotentialModule` that the samples belong to.
        """
        start = flat_weights(potential)
        for weights, e0 in zip(self.weights, self.e0, strict=True):
            member = potential.with_weights(
                start.index_add(
                    0,
                    self.index.to(start.device),
                    part * weights.to(start.device, start.dtype),
                )
            )
            member.e0 = member.e0 + part * e0.to(member.e0.device)
            yield member

    def check_elements(self, numbers: Sequence[int]) -> None:
        """Refuse elements that no label has.

        Raises
        ------
        UserError
        """
        unknown = sorted(set(numbers) - set(self.elements))
        if unknown:
            names = ", ".join(chemical_symbols[z] for z in unknown)
            raise UserError(
                f"error bars: no label of this model has {names}, so nothing is known of its "
                "errors there; leave error_bars out, or give labels"
            )

    def of(self, potential: Any) -> Posterior:
        """Give it, if the sizes are those of a potential.

        Raises
        ------
        ValueError
            They are not.
        """
        n_weights = sum(weight.numel() for weight in potential.parameters())
        inside = bool(((self.index >= 0) & (self.index < n_weights)).all())
        if not inside or self.e0.shape[1] != len(potential.atomic_numbers):
            raise ValueError("a posterior of another network")
        return self

    def tensors(self) -> dict[str, Tensor]:
        """Give what a model file holds of it."""
        return {
            _PREFIX + "index": self.index.cpu(),
            _PREFIX + "weights": self.weights.float().cpu().contiguous(),
            _PREFIX + "e0": self.e0.double().cpu().contiguous(),
        }

    def description(self) -> dict[str, Any]:
        """Give plain data beside them."""
        return {"noise": self.noise, "elements": list(self.elements), "n_labels": self.n_labels}


def flat_weights(potential: torch.nn.Module) -> Tensor:
    """All weights of a potential, one after the other."""
    return torch.cat([weight.detach().reshape(-1) for weight in potential.parameters()])


def take_posterior(tensors: dict[str, Tensor], description: Mapping[str, Any]) -> Posterior | None:
    """Take a posterior out of the tensors of a model file, where there is one.

    Raises
    ------
    KeyError, TypeError, ValueError
        It is damaged.
    """
    found = {
        name.removeprefix(_PREFIX): tensors.pop(name)
        for name in list(tensors)
        if name.startswith(_PREFIX)
    }
    if not found:
        return None
    posterior = Posterior(
        found["index"],
        found["weights"],
        found["e0"],
        float(description["noise"]),
        tuple(int(z) for z in description["elements"]),
        int(description["n_labels"]),
    )
    n_samples, n_moved = posterior.weights.shape
    if posterior.index.shape != (n_moved,) or len(posterior.e0) != n_samples or n_samples < 1:
        raise ValueError("samples of the posterior of other sizes")
    return posterior
