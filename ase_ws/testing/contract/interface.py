"""What a potential must have and give: attributes, shapes, precision, no side effects.

Each function yields what is wrong, and nothing where the point holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from numbers import Integral, Real

import numpy as np
import torch
from torch import Tensor

from ase_ws.testing.contract.subject import Subject, as_numpy
from ase_ws.typing import Potential, Prediction

_QUESTIONS = [{"forces": f, "stress": s} for s in (False, True) for f in (False, True)]
_EVERYTHING = _QUESTIONS[-1]


def attributes(potential: Potential) -> Iterator[str]:
    """Expect the attributes, of the right types."""
    r_max = getattr(potential, "r_max", None)
    if not isinstance(r_max, Real) or isinstance(r_max, bool) or not 0 < float(r_max) < np.inf:
        yield f"r_max must be a positive number in Å, not {r_max!r:.60}"
    elements = getattr(potential, "atomic_numbers", None)
    if not isinstance(elements, tuple) or not all(isinstance(z, Integral) for z in elements):
        yield f"atomic_numbers must be a tuple of whole numbers, not {elements!r:.60}"
    elif not elements or set(elements) - set(range(1, 119)) or len(set(elements)) < len(elements):
        yield f"atomic_numbers must be distinct and within 1 to 118, not {elements!r:.60}"
    for name in ("conservative", "skin_safe"):
        value = getattr(potential, name, None)
        if not isinstance(value, bool):
            yield f"{name} must be True or False, not {value!r:.60}"
    if not callable(potential):
        yield "it must be callable"


def shapes(subject: Subject) -> Iterator[str]:
    """Expect a `Prediction` whose parts have the right shapes."""
    batch = subject.batch()
    out = subject.potential(batch, **_EVERYTHING)
    if not isinstance(out, Prediction):
        yield f"expected an ase_ws.typing.Prediction, not {type(out).__name__}"
        return
    n_atoms, n_graphs = len(batch.positions), batch.n_graphs
    expected = {"energy": (n_graphs,), "forces": (n_atoms, 3), "stress": (n_graphs, 3, 3)}
    if out.energies is not None:
        expected["energies"] = (n_atoms,)
    for name, shape in expected.items():
        value = getattr(out, name)
        if not isinstance(value, Tensor):
            yield f"{name} is {type(value).__name__}, expected a tensor of shape {shape}"
        elif tuple(value.shape) != shape:
            yield f"{name} has shape {tuple(value.shape)}, expected {shape}"


def finite(subject: Subject) -> Iterator[str]:
    """Expect no NaN and no infinity."""
    out = subject.potential(subject.batch(), **_EVERYTHING)
    for name, value in out._asdict().items():
        if value is not None and not bool(torch.isfinite(value).all()):
            yield f"{name} holds NaN or infinity"


def precision(subject: Subject) -> Iterator[str]:
    """Expect energies in float64, and torch's default dtype left alone."""
    out = subject.potential(subject.batch(), **_EVERYTHING)
    if torch.get_default_dtype() != subject.default_dtype:
        yield "an evaluation changes torch's default dtype"
    for name, value in out._asdict().items():
        if name in ("energy", "energies") and value is not None and value.dtype != torch.float64:
            yield f"{name} is {value.dtype}, expected torch.float64 whatever the network's"
        elif value is not None and not value.is_floating_point():
            yield f"{name} is {value.dtype}, expected floating-point numbers"


def only_what_is_asked(subject: Subject) -> Iterator[str]:
    """Expect forces and stress when asked for, only then, and the same in any company."""
    full = subject.potential(subject.batch(), **_EVERYTHING)
    limit = subject.values().scale
    for question in _QUESTIONS[:-1]:
        out = subject.potential(subject.batch(), **question)
        asked = _words(question)
        for name, wanted in question.items():
            value, expected = getattr(out, name), getattr(full, name)
            if (value is not None) != wanted:
                yield f"{name} {'missing' if wanted else 'there'} {asked}"
            elif wanted and not _close(value, expected, subject.tolerance.forces * limit):
                yield f"{name} {asked} not the same as with both"
        if not _close(out.energy, full.energy, subject.tolerance.energy * limit * 100):
            yield f"energy {asked} not the same as with both"


def _words(question: dict[str, bool]) -> str:
    return f"with {', '.join(f'{name}={wanted}' for name, wanted in question.items())}"


def _close(a: Tensor, b: Tensor, atol: float) -> bool:
    return a.shape == b.shape and bool(((a.double() - b.double()).abs() <= atol).all())


def energies_add_up(subject: Subject) -> Iterator[str]:
    """Expect energies of atoms, where given, to sum to those of structures."""
    batch = subject.batch()
    out = subject.potential(batch, forces=False)
    if out.energies is not None:
        total = torch.zeros_like(out.energy).index_add(0, batch.batch, out.energies.to(out.energy))
        off = np.abs(as_numpy(total - out.energy)) / as_numpy(batch.n_atoms)
        limit = subject.tolerance.energy * subject.values().scale
        yield from subject.worst("sum of energies", off.tolist(), limit, "eV per atom")


def repeatable(subject: Subject) -> Iterator[str]:
    """Expect two evaluations to agree."""
    yield from subject.differences(subject.values(), subject.values())


def no_mutation(subject: Subject) -> Iterator[str]:
    """Expect the batch as it was: values, `requires_grad`, and no gradients left in it."""
    for requires_grad in (False, True):
        for question in _QUESTIONS:
            batch = subject.batch()
            batch.positions.requires_grad_(requires_grad)
            tensors = {f.name: getattr(batch, f.name) for f in fields(batch)}
            before = {k: v.detach().clone() for k, v in tensors.items() if isinstance(v, Tensor)}
            subject.potential(batch, **question)
            for name, old in before.items():
                new = getattr(batch, name)
                if new.shape != old.shape or not torch.equal(new.detach(), old):
                    yield f"{name} of the batch changed {_words(question)}"
                if new.requires_grad != (requires_grad and name == "positions"):
                    yield f"requires_grad of the batch's {name} changed {_words(question)}"
                if new.is_leaf and new.grad is not None:
                    yield f"a gradient is left in the batch's {name} {_words(question)}"


def without_gradients(subject: Subject) -> Iterator[str]:
    """Expect forces under `torch.no_grad`, as calculators evaluate."""
    with torch.no_grad():
        found = subject.values()
    yield from subject.differences(subject.values(), found)
