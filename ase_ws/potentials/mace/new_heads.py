"""Heads added to a MACE, or left out: a readout, scale, shift and E0 each, all else is shared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ase_ws.errors import UserError
from ase_ws.potentials.heads import choose_head
from ase_ws.potentials.mace.model import MACEPotential, build_mace
from ase_ws.potentials.weights import load_weights


def with_heads(potential: MACEPotential, sources: Mapping[str, str]) -> MACEPotential:
    """Give a potential with these heads, each with the readout and energies of one that is there.

    Parameters
    ----------
    potential : MACEPotential
        Stays as it is.
    sources : mapping of str to str
        Name of each head, and the head of `potential` that it begins as. The first is in use.

    Returns
    -------
    MACEPotential
        Every head evaluates as the one that it begins as.

    Raises
    ------
    UserError
        No such head; a network whose charge or spin has an energy for each head.
    """
    old = potential.architecture
    if old.use_embedding_readout:
        raise UserError(
            "heads cannot be added to this model: its charge and spin have an energy for each head"
        )
    taken = [choose_head(old.heads, name) for name in sources.values()]
    architecture = old.model_copy(
        update={
            "heads": tuple(sources),
            "scale": tuple(old.scale[k] for k in taken),
            "shift": tuple(old.shift[k] for k in taken),
            "dtype": str(potential.dtype).removeprefix("torch."),
        }
    )
    e0 = potential.reference_energies[taken].cpu().numpy()
    new = build_mace(architecture, e0, head=next(iter(sources)))
    tensors = {
        name: value.cpu()
        for name, value in potential.tensors().items()
        if not name.startswith(("readouts.", "scale_shift.", "atomic_energies_fn."))
    }
    network: Any = new.network
    before: Any = potential.network
    for name in ("scale", "shift"):
        value = torch.atleast_1d(getattr(before.scale_shift, name))[taken]
        tensors[f"scale_shift.{name}"] = value.reshape(
            getattr(network.scale_shift, name).shape
        ).cpu()
    for layer, (mine, source) in enumerate(zip(network.readouts, before.readouts, strict=True)):
        for name, linear in mine.named_children():
            if not name.startswith("linear"):
                continue
            # The hidden units stand one head after the other; the first map takes no such.
            first = name in ("linear", "linear_1")
            found = _blocks(getattr(source, name), linear, taken, len(old.heads), first=first)
            tensors |= {f"readouts.{layer}.{name}.{key}": value for key, value in found.items()}
    load_weights(new.network, {**new.tensors(), **tensors})
    return new.to(potential.device)


def _blocks(old: Any, new: Any, taken: list[int], n_old: int, *, first: bool) -> dict[str, Tensor]:
    """Weights and biases of a linear map of readouts, those of each head from its source."""
    rows, columns = old.instructions[0].path_shape
    n_rows, n_columns = new.instructions[0].path_shape
    weight = old.weight.detach().cpu().view(rows, columns)
    wide = weight.new_zeros(n_rows, n_columns)
    bias = old.bias.detach().cpu() if old.bias.numel() else None
    biases = []
    high, broad = rows // n_old, columns // n_old
    for k, source in enumerate(taken):
        here, there = (
            (slice(None), slice(None))
            if first
            else (slice(k * high, (k + 1) * high), slice(source * high, (source + 1) * high))
        )
        to, of = slice(k * broad, (k + 1) * broad), slice(source * broad, (source + 1) * broad)
        wide[here, to] = weight[there, of]
        if bias is not None:
            biases.append(bias[of])
    # e3nn divides by the root of the number of rows.
    found = {"weight": (wide * math.sqrt(n_rows / rows)).reshape(-1)}
    return found if bias is None else {**found, "bias": torch.cat(biases)}
