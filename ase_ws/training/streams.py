"""What a training step asks of which frames, and the gradients that follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from ase_ws.errors import DivergedError
from ase_ws.frames import Frame
from ase_ws.losses import TotalLoss
from ase_ws.potentials.base import PotentialModule
from ase_ws.training.batches import DISPLACEMENTS, Batches, seed_of
from ase_ws.training.config import FinetuneConfig
from ase_ws.training.processes import Processes
from ase_ws.typing import GraphBatch, Potential


@dataclass
class Stream:
    """Frames of one level of theory, and the loss that a step adds for some of them.

    Attributes
    ----------
    potential : PotentialModule
        With the head of that level; several streams share its network.
    losses : sequence of TotalLoss
        A second one counts from the second stage on.
    batches : Batches
    frames : sequence of Frame
        For messages.
    name : str
        Of its columns in the metrics; empty for the frames of the run.
    weight : float
        Factor of its loss.
    """

    potential: PotentialModule
    losses: Sequence[TotalLoss]
    batches: Batches
    frames: Sequence[Frame]
    name: str = ""
    weight: float = 1.0
    evaluator: Potential = field(init=False)

    def __post_init__(self) -> None:
        self.evaluator = self.potential.trainable()

    def backward(
        self, step: int, settings: FinetuneConfig, processes: Processes
    ) -> dict[str, float]:
        """Add the gradients of this process's share of the step; give that of each loss.

        L = Σ_p (n_p / n) L_p over the parts p that the step's n structures are dealt to, each
        with its own displacements. Everything random follows from (seed, step, part).

        Raises
        ------
        DivergedError
            NaN or infinite; names the frames.
        """
        values: dict[str, float] = {}
        optimizer = settings.optimizer
        loss = self.losses[-1 if optimizer.in_second_stage(step) else 0]
        rank, size = processes.rank, processes.size
        for part, share, graphs in self.batches.parts(step, optimizer.parts * size, rank, size):
            batch = graphs.to(self.potential.device, self.potential.dtype)
            own = (part,) if part else ()
            seed = seed_of(settings.seed, DISPLACEMENTS, step, *own)
            value = loss(
                self.evaluator,
                batch,
                generator=torch.Generator().manual_seed(seed),
                step=step,
                n_steps=optimizer.max_steps or 0,
            )
            if not bool(torch.isfinite(value.total)):
                raise DivergedError(
                    f"the loss became NaN or infinite at step {step}, on {self._sources(batch)}: "
                    "lower the learning rate (--set optimizer.learning_rate=...) or look for "
                    "wrong labels; the best model so far was kept"
                )
            (self.weight * share * value.total).backward()
            for name, raw in {"loss": value.total, **value.raw}.items():
                values[name] = values.get(name, 0.0) + share * float(raw.detach())
        prefix = f"train_{self.name}_" if self.name else "train_"
        return {f"{prefix}{name}": value for name, value in values.items()}

    def _sources(self, batch: GraphBatch) -> str:
        ids = [] if batch.frame_ids is None or not self.frames else batch.frame_ids.tolist()
        names = [self.frames[k].source for k in ids[:3] if self.frames[k].source]
        more = f" and {len(ids) - 3} more" if len(ids) > 3 else ""
        return (", ".join(names) + more) if names else "this batch"
