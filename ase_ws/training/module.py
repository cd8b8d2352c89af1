"""The training step as a LightningModule, and the data it is fed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from ase_ws.devices import resolve_dtype
from ase_ws.errors import DivergedError
from ase_ws.frames import Frame
from ase_ws.graphs import collate
from ase_ws.losses import TotalLoss
from ase_ws.losses.supervised import SupervisedLoss
from ase_ws.losses.term import Needs
from ase_ws.potentials.base import PotentialModule
from ase_ws.potentials.derivatives import energy_forces
from ase_ws.training.config import FinetuneConfig
from ase_ws.training.evaluate import Errors
from ase_ws.typing import GraphBatch, Potential

#: Where a checkpoint keeps the fingerprints of its inputs.
INPUTS = "ase_ws_inputs"
_E0 = "ase_ws_reference_energies"


#: Factor of the learning rate by the part of the steps that is done after the warm-up.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda done: 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)),
    "trapezoid": lambda done: min(1.0, 0.01 + 0.99 * (1 - done) / 0.3),
    "exponential": lambda done: 0.01**done,
    "constant": lambda done: 1.0,
}


class FinetuneModule(L.LightningModule):
    """Minimises a `TotalLoss`; everything random in a step follows from (seed, step).

    Parameters
    ----------
    potential : PotentialModule
    loss, valid_loss : TotalLoss
        The second is supervised only: what a model is chosen by.
    config : FinetuneConfig
        Resolved.
    frames : sequence of Frame
        Training frames, for messages.
    inputs : mapping of str to str
        Fingerprints of the inputs, kept in the checkpoint for a run that goes on.
    """

    def __init__(
        self,
        potential: PotentialModule,
        loss: TotalLoss,
        valid_loss: TotalLoss,
        config: FinetuneConfig,
        *,
        frames: Sequence[Frame] = (),
        inputs: Mapping[str, str] | None = None,
    ):
        super().__init__()
        self.frames, self.inputs = frames, dict(inputs or {})
        self.potential = potential
        self.loss = loss
        self.valid_loss = valid_loss
        self.config = config
        self.errors = Errors()
        self.valid_sums: dict[str, tuple[float, int]] = {}
        # In a list: what it holds is no part of the module's state.
        self._trainable: list[Any] = [None, None]

    @property
    def evaluator(self) -> Potential:
        """The form of the potential that is trained."""
        if self._trainable[0] is not self.potential:
            self._trainable = [self.potential, self.potential.trainable()]
        return self._trainable[1]

    def configure_optimizers(self) -> Any:
        """AdamW, a linear warm-up, and the schedule of the learning rate."""
        settings = self.config.optimizer
        optimizer = torch.optim.AdamW(
            [w for w in self.potential.parameters() if w.requires_grad],
            lr=settings.learning_rate or 1e-3,
            weight_decay=settings.weight_decay,
            amsgrad=True,
        )
        warmup, last = settings.warmup_steps or 0, settings.max_steps or 1
        shape = SCHEDULES[settings.schedule or "cosine"]

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / (warmup + 1)
            return shape(min(1.0, (step - warmup) / max(1, last - warmup)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def transfer_batch_to_device(
        self, batch: GraphBatch, device: torch.device, dataloader_idx: int
    ) -> GraphBatch:
        """Move a batch; its geometry takes the model's precision."""
        return batch.to(device, self.potential.dtype)

    def training_step(self, batch: GraphBatch, batch_idx: int) -> torch.Tensor:
        """Return the total loss; its components are logged by name."""
        generator = torch.Generator().manual_seed(
            _seed(self.config.seed, _DISPLACEMENTS, self.global_step)
        )
        value = self.loss(
            self.evaluator,
            batch,
            generator=generator,
            step=self.global_step,
            n_steps=self.config.optimizer.max_steps or 0,
        )
        if not bool(torch.isfinite(value.total)):
            raise DivergedError(
                f"the loss became NaN or infinite at step {self.global_step}, on "
                f"{self._sources(batch)}: lower the learning rate (--set "
                "optimizer.learning_rate=...) or look for wrong labels; the best model so far was "
                "kept"
            )
        self.log_dict(
            {"train_loss": value.total, **{f"train_{k}": v for k, v in value.raw.items()}},
            batch_size=batch.n_graphs,
        )
        return value.total

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note what the run was made from, and the reference energies, which are no weights."""
        checkpoint[INPUTS] = self.inputs
        checkpoint[_E0] = self.potential.reference_energies.cpu()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on at the same reference energies: on another device they would be fitted anew."""
        self.potential.reference_energies.copy_(checkpoint[_E0])

    def _sources(self, batch: GraphBatch) -> str:
        ids = [] if batch.frame_ids is None or not self.frames else batch.frame_ids.tolist()
        names = [self.frames[k].source for k in ids[:3] if self.frames[k].source]
        more = f" and {len(ids) - 3} more" if len(ids) > 3 else ""
        return (", ".join(names) + more) if names else "this batch"

    def on_validation_epoch_start(self) -> None:
        """Forget the last validation."""
        self.errors = Errors()
        self.valid_sums = {}

    def validation_step(self, batch: GraphBatch, batch_idx: int) -> None:
        """Collect errors; forces need gradients although nothing is trained."""
        labels = batch.labels
        assert labels is not None
        stress = any(Needs.of(term.loss, batch).stress for term in self.valid_loss.terms)
        forces = bool(labels.has_forces.any())
        prediction = self.evaluator(batch, forces=forces, stress=stress)
        direct = prediction.forces is not None and not self.potential.conservative
        self.errors.add(batch, prediction, energy_forces(self.potential, batch) if direct else None)
        value = self.valid_loss.of(
            prediction, self.evaluator, batch, generator=torch.Generator().manual_seed(0)
        )
        for term in self.valid_loss.terms:
            # Means over the labelled structures of each batch become the mean over all of them.
            assert isinstance(term.loss, SupervisedLoss)
            n = term.loss.n_labelled(batch)
            total, count = self.valid_sums.get(term.name, (0.0, 0))
            self.valid_sums[term.name] = (total + n * float(value.weighted[term.name]), count + n)

    def validation_metrics(self) -> dict[str, float | None]:
        """Errors of the last validation in meV, and the loss that models are chosen by."""
        loss = sum(total / count for total, count in self.valid_sums.values() if count)
        return {"valid_loss": loss, **self.errors.metrics()}


def _seed(*numbers: int) -> int:
    """Mix run seed, purpose and step into one seed, so that no two streams are alike."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


_DISPLACEMENTS, _SHUFFLE = 0, 1


class StepBatches(Sampler[list[int]]):
    """The frames of each training step, which follow from (seed, step) alone.

    The frames are shuffled, dealt in batches, and shuffled anew; what does not fill a batch waits
    for the next deal. The whole training is one pass over this
    sampler, so a resumed run goes on with exactly the batches it would have seen.

    Parameters
    ----------
    n_frames, batch_size : int
    n_steps : int
        Length of the training.
    seed : int
    first : int
        Step to go on from.
    """

    def __init__(self, n_frames: int, batch_size: int, n_steps: int, seed: int, first: int = 0):
        self.n_frames, self.batch_size = n_frames, min(batch_size, n_frames)
        self.n_steps, self.seed, self.first = n_steps, seed, first

    def __len__(self) -> int:
        # All steps, also on resuming: Lightning counts the ones done before as fetched.
        return self.n_steps

    def __iter__(self) -> Iterator[list[int]]:
        per_pass = self.n_frames // self.batch_size
        order: list[int] = []
        shuffled = -1
        for step in range(self.first, self.n_steps):
            pass_number, k = divmod(step, per_pass)
            if pass_number != shuffled:
                generator = torch.Generator().manual_seed(_seed(self.seed, _SHUFFLE, pass_number))
                order = torch.randperm(self.n_frames, generator=generator).tolist()
                shuffled = pass_number
            yield order[k * self.batch_size : (k + 1) * self.batch_size]


def train_loader(
    frames: Sequence[Frame], cutoff: float, config: FinetuneConfig, first_step: int = 0
) -> DataLoader[GraphBatch]:
    """Batches for training. Graphs are built once; a step only joins them."""
    graphs = [f.graph(cutoff, k, resolve_dtype(config.dtype)) for k, f in enumerate(frames)]
    settings = config.optimizer
    batches = StepBatches(
        len(graphs), settings.batch_size or 1, settings.max_steps or 1, config.seed, first_step
    )
    # A list is a map-style data set.
    return DataLoader(graphs, batch_sampler=batches, collate_fn=collate)  # pyright: ignore[reportArgumentType]


def valid_loader(
    frames: Sequence[Frame], cutoff: float, dtype: torch.dtype
) -> DataLoader[GraphBatch]:
    """Batches for validation, in order, to be evaluated in `dtype`."""
    graphs = [f.graph(cutoff, k, dtype) for k, f in enumerate(frames)]
    return DataLoader(graphs, batch_size=32, collate_fn=collate)  # pyright: ignore[reportArgumentType]
