"""Errors on validation frames, and the loss that models are chosen by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ase_ws.frames import Frame
from ase_ws.graphs import collate
from ase_ws.losses import TotalLoss
from ase_ws.losses.supervised import SupervisedLoss
from ase_ws.losses.term import Needs
from ase_ws.potentials.base import PotentialModule
from ase_ws.potentials.derivatives import energy_forces
from ase_ws.training.batches import graphs_of
from ase_ws.training.evaluate import Errors
from ase_ws.training.processes import Processes
from ase_ws.typing import GraphBatch, Potential

#: For each term its sum over labelled structures, and their number.
_Sums = dict[str, tuple[float, int]]
#: Structures that are evaluated at once.
_TOGETHER = 32
#: Errors that are told of each set of validation frames.
BY_SET = ("energy_rmse_mev_per_atom", "forces_rmse_mev_per_angstrom")


@dataclass
class ValidationSet:
    """Frames that are validated together.

    Attributes
    ----------
    name : str
        Of its columns; empty for the only set of a run's frames.
    potential : PotentialModule
        With the head of their level of theory.
    frames : sequence of Frame
    counts : bool
        Whether they are of the level whose errors are those of the model.
    weight : float
        Of their loss.
    """

    name: str
    potential: PotentialModule
    frames: Sequence[Frame]
    counts: bool = True
    weight: float = 1.0
    evaluator: Potential = field(init=False)
    graphs: list[GraphBatch] = field(init=False)

    def __post_init__(self) -> None:
        self.evaluator = self.potential.trainable()
        self.graphs = graphs_of(self.frames, self.potential.r_max, self.potential.dtype)

    @property
    def columns(self) -> list[str]:
        """Names of its own errors."""
        return [f"{self.name}_{error}" for error in BY_SET] if self.name else []

    def evaluate(self, loss: TotalLoss, processes: Processes) -> tuple[Errors, _Sums]:
        """Collect errors and losses of all processes, each of which evaluates a part."""
        mine = self._part(self.graphs[processes.rank :: processes.size], loss)
        errors, sums = Errors(), {}
        for other, values in processes.gathered(mine):
            errors.extend(other)
            _add(sums, values)
        return errors, sums

    def _part(self, graphs: Sequence[GraphBatch], loss: TotalLoss) -> tuple[Errors, _Sums]:
        errors, sums = Errors(), {}
        with torch.no_grad():
            for start in range(0, len(graphs), _TOGETHER):
                batch = collate(graphs[start : start + _TOGETHER])
                here = batch.to(self.potential.device, self.potential.dtype)
                _add(sums, self._batch(here, loss, errors))
        return errors, sums

    def _batch(self, batch: GraphBatch, loss: TotalLoss, errors: Errors) -> _Sums:
        labels = batch.labels
        assert labels is not None
        stress = any(Needs.of(term.loss, batch).stress for term in loss.terms)
        forces = bool(labels.has_forces.any())
        prediction = self.evaluator(batch, forces=forces, stress=stress)
        direct = prediction.forces is not None and not self.potential.conservative
        errors.add(batch, prediction, energy_forces(self.potential, batch) if direct else None)
        value = loss.of(
            prediction, self.evaluator, batch, generator=torch.Generator().manual_seed(0)
        )
        sums = {}
        for term in loss.terms:
            # Means over the labelled structures of each batch become the mean over all of them.
            assert isinstance(term.loss, SupervisedLoss)
            n = term.loss.n_labelled(batch)
            sums[term.name] = (n * float(value.weighted[term.name].detach()), n)
        return sums


def _add(sums: _Sums, values: _Sums) -> None:
    for name, (total, count) in values.items():
        before = sums.get(name, (0.0, 0))
        sums[name] = (before[0] + total, before[1] + count)


def validate(
    sets: Sequence[ValidationSet], loss: TotalLoss, processes: Processes | None = None
) -> dict[str, Any]:
    """Give the errors in meV, those of each named set, and `valid_loss`.

    That is the loss of the sets that count, taken together, and the weighted losses of others.
    """
    every, together, valid_loss = Errors(), {}, 0.0
    of_sets: dict[str, Any] = {}
    for one in sets:
        errors, sums = one.evaluate(loss, processes or Processes())
        metrics = errors.metrics()
        of_sets.update(zip(one.columns, (metrics[error] for error in BY_SET), strict=False))
        if one.counts:
            every.extend(errors)
            _add(together, sums)
        else:
            valid_loss += one.weight * _mean(sums)
    return {"valid_loss": valid_loss + _mean(together), **every.metrics(), **of_sets}


def _mean(sums: _Sums) -> float:
    return sum(total / count for total, count in sums.values() if count)
