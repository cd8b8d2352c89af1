"""Gradient steps: the loop, what it leaves in a checkpoint, and how it goes on from one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ase_ws.losses import TotalLoss
from ase_ws.potentials.base import PotentialModule
from ase_ws.training.config import FinetuneConfig
from ase_ws.training.history import History
from ase_ws.training.low_rank import LowRank
from ase_ws.training.optimizer import Average, Rate, make_optimizer
from ase_ws.training.processes import Processes
from ase_ws.training.resume import write_checkpoint
from ase_ws.training.streams import Stream
from ase_ws.training.validation import ValidationSet, validate

Progress = Callable[[float, int, dict[str, Any]], None]

_E0 = "reference_energies"


class Loop:
    """Minimises the losses of some streams of frames; (seed, step) decides on all that is random.

    Parameters
    ----------
    potential : PotentialModule
        What is trained, validated and saved.
    config : FinetuneConfig
        Resolved.
    streams : sequence of Stream
        A step adds the losses of all.
    sets : sequence of ValidationSet
    valid_losses : sequence of TotalLoss
        What models are chosen by; a second one from the second stage on.
    history : History
    checkpoint : Path
        Written after every validation.
    inputs : dict of str to str
        Fingerprints of what the run is made from, for the checkpoint.
    processes : Processes
    """

    def __init__(
        self,
        potential: PotentialModule,
        config: FinetuneConfig,
        streams: Sequence[Stream],
        sets: Sequence[ValidationSet],
        valid_losses: Sequence[TotalLoss],
        history: History,
        *,
        checkpoint: Path,
        inputs: dict[str, str],
        processes: Processes,
    ):
        self.potential, self.config, self.streams = potential, config, streams
        self.sets, self.valid_losses = sets, valid_losses
        self.history, self.checkpoint, self.inputs = history, checkpoint, inputs
        self.processes = processes
        settings = config.optimizer
        self._last = settings.max_steps or 1
        rank = config.model.lora_rank
        self._low_rank = (
            LowRank(potential, rank, config.model.lora_alpha or rank, config.seed) if rank else None
        )
        self._weights = [w for w in potential.parameters() if w.requires_grad]
        self._optimizer = make_optimizer(potential, settings, self._low_rank)
        self._rate = Rate(settings)
        #: What the optimiser moves, and is averaged.
        self._moved = self._weights if self._low_rank is None else self._low_rank.weights
        self._average = Average(self._moved, settings.ema_decay)
        self._sums: dict[str, float] = {}
        self._count = 0

    def run(self, first: int = 0, progress: Progress | None = None) -> None:
        """Take the steps from `first` on; a run that begins has a row of the start, too."""
        settings = self.config.optimizer
        self.history.start_clock()
        if first == 0:
            self._validate(0)
        step = first
        while (step := self._next(step)) < self._last:
            if settings.in_second_stage(step) and not settings.in_second_stage(step - 1):
                self.history.judge_anew()
            self._step(step)
            step += 1
            regular = step % (settings.valid_interval or self._last) == 0
            if regular or step == self._last:
                self._validate(step)
                self._rate.validated(stale=self.history.stale)
                self._save(step)
            if progress is not None:
                progress(step, self._last, self.history.latest)

    def _next(self, step: int) -> int:
        """Give the step to take; out of patience, the first of the second stage or the end."""
        settings = self.config.optimizer
        if settings.patience is None or self.history.stale < settings.patience:
            return step
        if settings.in_second_stage(step):
            return self._last
        later = range(step + 1, self._last)
        return next((s for s in later if settings.in_second_stage(s)), self._last)

    def _step(self, step: int) -> None:
        settings = self.config.optimizer
        self._rate.apply(self._optimizer, step)
        self.potential.zero_grad(set_to_none=True)
        values: dict[str, float] = {}
        for stream in self.streams:
            values |= stream.backward(step, self.config, self.processes)
        self._add_processes(values)
        if self._low_rank is not None:
            self._low_rank.pull()
        torch.nn.utils.clip_grad_norm_(self._moved, settings.gradient_clip or 10.0)
        self._optimizer.step()
        self._push()
        self._average.update()
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1

    def _add_processes(self, values: dict[str, float]) -> None:
        """Add up gradients and losses of all processes."""
        if self.processes.size == 1:
            return
        for weight in self._weights:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        gradients = [w.grad for w in self._weights if w.grad is not None]
        losses = gradients[0].new_tensor([values[name] for name in sorted(values)])
        self.processes.add([*gradients, losses])
        values.update(zip(sorted(values), losses.tolist(), strict=True))

    def _validate(self, step: int) -> None:
        """Add a row, of the averaged weights."""
        second = self.config.optimizer.in_second_stage(step - 1)
        rate = self._optimizer.param_groups[0]["lr"]
        losses = {name: value / self._count for name, value in self._sums.items()}
        self._sums, self._count = {}, 0
        with self._for_evaluation():
            self.history.add(
                self.potential,
                validate(self.sets, self.valid_losses[-1 if second else 0], self.processes),
                step=step,
                ended=step == self._last,
                rate=rate,
                losses=losses,
            )

    @contextmanager
    def _for_evaluation(self) -> Iterator[None]:
        """Let the network have the weights that are to be judged and kept."""
        # A schedule-free optimiser keeps the average itself, from its first step on.
        free: Any = self._optimizer if self.config.optimizer.kind == "schedule-free" else None
        with self._average.in_use():
            if free is not None and self.history.rows:
                free.eval()
            self._push()
            yield
            if free is not None:
                free.train()
        self._push()

    def _push(self) -> None:
        if self._low_rank is not None:
            self._low_rank.push()

    def _save(self, step: int) -> None:
        if not self.processes.first:
            return
        write_checkpoint(
            self.checkpoint,
            self.inputs,
            {
                "step": step,
                "weights": self.potential.state_dict(),
                # They are no weights: on another device they would be fitted anew.
                _E0: self.potential.reference_energies,
                "optimizer": self._optimizer.state_dict(),
                "average": self._average.state(),
                "rate_left": self._rate.left,
                "low_rank": [] if self._low_rank is None else self._low_rank.state(),
                "history": self.history.state(),
            },
        )

    def load(self, content: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.potential.load_state_dict(content["weights"])
        self.potential.reference_energies.copy_(content[_E0])
        self._optimizer.load_state_dict(content["optimizer"])
        self._average.load(content["average"])
        self._rate.left = content["rate_left"]
        if self._low_rank is not None:
            self._low_rank.load(content["low_rank"])
        self.history.load(content["history"])
