"""Units of work, as any process on any machine does them: plain data in, plain data out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple
from uuid import uuid4

from ase_ws.calculators import PotentialCalculator
from ase_ws.errors import UserError
from ase_ws.results.blame import Blame
from ase_ws.results.finding import Finding
from ase_ws.results.settings import Job
from ase_ws.stability.campaign.inputs import Pair
from ase_ws.stability.campaign.journal import journal_line
from ase_ws.stability.campaign.records import preparation_from_dict, preparation_to_dict
from ase_ws.stability.judged.answers import MACHINE, MachineError, PotentialError
from ase_ws.stability.runs.prepare import Preparation
from ase_ws.stability.runs.replicas import BATCH_ATOMS, Run, fits_a_batch, rehearse
from ase_ws.stability.trial import Trial

#: What is done first: nothing can start before it is prepared, and blame completes a report.
PRIORITY = {"prepare": 2, "blame": 1, "replicas": 0}
#: Seconds between two messages on how far a unit is.
TELL_EVERY = 0.5


class Replica(NamedTuple):
    """Message: a replica has finished; its line for the journal."""

    line: str


class Steps(NamedTuple):
    """Message: how far a unit is, in steps of all its replicas."""

    done: int
    planned: int


Message = Replica | Steps
Emit = Callable[[Message], None]


class DeliveryError(Exception):
    """A message could not be delivered.

    Neither a RuntimeError nor a ValueError: the runs would take these for failures of the
    calculator.
    """


@dataclass(frozen=True, eq=False)
class Task:
    """One unit of work.

    Attributes
    ----------
    kind : {"prepare", "replicas", "blame"}
    pair : Pair
    preparation : dict or None
        Of `preparation_to_dict`; None for "prepare".
    jobs : list of Job
        For "replicas".
    runs : list of Run
        For "blame": all that have finished, without traces and frames.
    id : str
        Of this attempt; a unit that is handed out again gets another.
    """

    kind: Literal["prepare", "replicas", "blame"]
    pair: Pair
    preparation: dict[str, Any] | None = None
    jobs: Sequence[Job] = ()
    runs: Sequence[Run] = ()
    id: str = field(default_factory=lambda: uuid4().hex)

    @property
    def name(self) -> str:
        """What it is, for messages."""
        return f"{self.kind} of {self.pair.key[0]}, {self.pair.key[1]}"


def chunks(pair: Pair, jobs: Sequence[Job], n_open: int, workers: int) -> list[list[Job]]:
    """Divide replicas into units.

    Parameters
    ----------
    pair : Pair
    jobs : sequence of Job
    n_open : int
        Replicas that are open in the whole campaign.
    workers : int
        Among which they are shared: each gets at least two units, so that the last one is not
        waited for too long. Larger batches are quicker, so there are no more than that.
    """
    if pair.config.chunk is not None:
        size = pair.config.chunk
    elif not fits_a_batch(pair.atoms, pair.config):
        size = 1
    else:
        fair = -(-n_open // (2 * workers)) if workers > 1 else n_open
        size = max(1, min(fair, BATCH_ATOMS // len(pair.atoms)))
    return [list(jobs[first : first + size]) for first in range(0, len(jobs), size)]


def perform(task: Task, emit: Emit) -> dict[str, Any] | Blame | None:
    """Do a unit of work.

    Parameters
    ----------
    task : Task
    emit : callable
        Gets the messages, each replica at the moment it finishes.

    Returns
    -------
    dict, Blame or None
        The preparation of "prepare", the blame of "blame", and nothing of "replicas".

    Raises
    ------
    UserError
        The model file is another or gone, or cannot be evaluated for this structure at all.
    DeliveryError
        `emit` has failed; its cause says why.
    """
    delivery = _Delivery(task, emit)
    with _calculators.of(task.pair) as calculator:
        trial = task.pair.trial(calculator, delivery.progress)
        if task.kind == "prepare":
            return preparation_to_dict(_prepared(trial, task.pair))
        assert task.preparation is not None
        preparation = preparation_from_dict(task.preparation)
        if preparation.begin is not None:
            preparation.begin.calc = calculator
        if task.kind == "blame":
            return trial.blame(preparation, task.runs)
        assert preparation.begin is not None
        try:
            trial.run(preparation.begin, task.jobs, delivery.finished)
        except MachineError as error:
            raise _given_up(task.pair, str(error)) from error
    return None


def _prepared(trial: Trial, pair: Pair) -> Preparation:
    try:
        rehearse(trial.given, trial.settings)
    except UserError as error:
        if isinstance(error.__cause__, PotentialError):
            # Its elements are known to the model: the other pairs of the campaign go on.
            return Preparation(None, findings=[Finding("calculator", "fail", str(error.__cause__))])
        raise UserError(f"{pair.key[0]}, {pair.key[1]}: {error}") from error
    preparation = trial.prepare().recalled()
    gone = [finding for finding in preparation.findings if finding.check == MACHINE]
    if gone:
        raise _given_up(pair, gone[0].message)
    return preparation


def _given_up(pair: Pair, why: str) -> UserError:
    return UserError(
        f"{pair.key[0]}, {pair.key[1]}: {why}; what has finished is kept, go on with --resume"
    )


class _Delivery:
    """Messages from a unit to whoever handed it out."""

    def __init__(self, task: Task, emit: Emit):
        self._task, self._emit = task, emit
        self._told = 0.0

    def finished(self, run: Run) -> None:
        """Hand over a replica."""
        self._send(Replica(journal_line(*self._task.pair.key, run)))

    def progress(self, done: int, planned: int, _: str) -> None:
        """Tell how far it is, now and then."""
        now = time.monotonic()
        if now - self._told >= TELL_EVERY:
            self._told = now
            self._send(Steps(done, planned))

    def _send(self, message: Message) -> None:
        try:
            self._emit(message)
        except Exception as error:
            raise DeliveryError(str(error)) from error


class _Calculators(threading.local):
    """The calculator used last, kept for the next unit; each thread has its own."""

    def __init__(self) -> None:
        self._key: tuple[str, ...] | None = None
        self._calculator: PotentialCalculator | None = None

    def of(self, pair: Pair) -> _Lent:
        key = (pair.model.digest, str(pair.config.dtype), pair.device)
        if self._calculator is None or self._key != key:
            # Libraries that set torch's default precision while they load cannot do it twice
            # at a time.
            with _LOADING:
                self._calculator, self._key = pair.calculator(), key
        return _Lent(self._calculator)


class _Lent:
    """A calculator that forgets its last structure afterwards."""

    def __init__(self, calculator: PotentialCalculator):
        self._calculator = calculator

    def __enter__(self) -> PotentialCalculator:
        return self._calculator

    def __exit__(self, *_: object) -> None:
        self._calculator.reset()


_LOADING = threading.Lock()
_calculators = _Calculators()
