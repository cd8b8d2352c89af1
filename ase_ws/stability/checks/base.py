"""What all checks have in common: measure, compare, remember the worst, say so once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from ase import Atoms

from ase_ws.md.observer import RunContext, Snapshot
from ase_ws.pairs import Pairs, find_pairs, longest
from ase_ws.results.check import CheckResult, Status
from ase_ws.results.finding import Finding, Severity


def filled(template: str, fields: Mapping[str, Any]) -> str:
    """Fill "{name:format}" with the fields of these names; what is no field stays as it is."""

    def value(match: re.Match[str]) -> str:
        name, format_ = match[1], match[2] or ""
        if name not in fields:
            return match[0]
        return "none" if fields[name] is None else format(fields[name], format_)

    return re.sub(r"\{(\w+)(?::([^{}]*))?\}", value, template)


def close_pairs(snapshot: Snapshot) -> Pairs:
    """Pairs within the longest distance any check asks for, computed once per snapshot."""
    if "close_pairs" not in snapshot.shared:
        snapshot.shared["close_pairs"] = find_pairs(snapshot.atoms, longest(snapshot.atoms))
    return snapshot.shared["close_pairs"]


@dataclass
class Check:
    """A quantity with limits, looked at every `interval` steps.

    A subclass says what to `measure`: one value per item (atom, bond, ... or a single one for the
    whole system). Beyond `fail_at`, without a break for `hold` fs, the item fails; beyond
    `warn_at` the check warns, once per run. The comparisons are written so that NaN is beyond
    any limit.

    Attributes
    ----------
    interval : int
        Steps between two looks.
    """

    interval: int = 10

    name: ClassVar[str]
    #: What is measured and where the limits are: a template, which takes the fields by name.
    definition: ClassVar[str]
    unit: ClassVar[str] = ""
    #: True where smaller values are worse.
    lower_is_worse: ClassVar[bool] = False

    context: RunContext = field(init=False, repr=False)
    status: Status = field(init=False, default="not judged")
    worst: float | None = field(init=False, default=None)
    worst_time: float | None = field(init=False, default=None)
    note: str = field(init=False, default="")
    _since: np.ndarray | None = field(init=False, default=None, repr=False)
    _has_warned: bool = field(init=False, default=False, repr=False)

    # Limits, in the unit of the check: the fields of these names where a subclass has them, and
    # properties where they depend on the run.
    @property
    def warn_limit(self) -> float | None:
        """Beyond this the check warns: the field `warn_at`."""
        return getattr(self, "warn_at", None)

    @property
    def fail_limit(self) -> float | None:
        """Beyond this, for `hold_time`, the check fails: the field `fail_at`."""
        return getattr(self, "fail_at", None)

    @property
    def hold_time(self) -> float:
        """Time in fs for which a value must stay beyond the limit: the field `repeat`."""
        return getattr(self, "repeat", 0.0)

    def start(self, atoms: Atoms, context: RunContext) -> None:
        """Forget any earlier run."""
        self.context = context
        self.status = "not judged"
        self.worst = self.worst_time = None
        self.note = ""
        self._since = None
        self._has_warned = False

    def measure(self, snapshot: Snapshot) -> np.ndarray:
        """Give one value per item; an empty array where there is nothing to judge yet."""
        raise NotImplementedError

    def describe(self, snapshot: Snapshot, item: int, value: float) -> tuple[str, tuple[int, ...]]:
        """Say in one line what is wrong with `item`, and which atoms it is made of."""
        raise NotImplementedError

    def check(self, snapshot: Snapshot) -> Sequence[Finding]:
        """Measure and compare."""
        values = np.atleast_1d(self.measure(snapshot))
        if values.size == 0:
            return []
        item = self._note_worst(values, snapshot.time)
        held = self._held(self.beyond(values, self.fail_limit), snapshot.time)
        if held.any():
            return self.failed(snapshot, values, held)
        if self.beyond(values[item], self.warn_limit) and not self._has_warned:
            return [self.finding("warn", snapshot, item, float(values[item]))]
        return []

    def failed(self, snapshot: Snapshot, values: np.ndarray, held: np.ndarray) -> list[Finding]:
        """Make the finding for the worst of the items that failed."""
        items = np.flatnonzero(held)
        item = int(items[self._worst_item(values[items])])
        return [self.finding("fail", snapshot, item, float(values[item]))]

    def finding(self, severity: Severity, snapshot: Snapshot, item: int, value: float) -> Finding:
        """Make a finding and set the status."""
        if severity == "fail":
            self.status = "failed"
        else:
            self._has_warned, self.status = True, "warned"
        message, atoms = self.describe(snapshot, item, value)
        return Finding(
            check=self.name,
            severity=severity,
            message=message,
            value=value,
            threshold=self.fail_limit if severity == "fail" else self.warn_limit,
            atoms=atoms,
            step=snapshot.step,
            time=snapshot.time,
            temperature=snapshot.context.temperature,
        )

    def defined(self) -> str:
        """`definition`, with the numbers of this very check."""
        return filled(self.definition, vars(self))

    def result(self) -> CheckResult:
        """How the run went, so far."""
        started = hasattr(self, "context")
        return CheckResult(
            name=self.name,
            definition=self.defined(),
            unit=self.unit,
            warn_at=self.warn_limit if started else None,
            fail_at=self.fail_limit if started else None,
            worst=self.worst,
            worst_time=self.worst_time,
            status=self.status,
            note=self.note,
        )

    def beyond(self, values: np.ndarray | float, limit: float | None) -> np.ndarray:
        """Compare with a limit such that NaN is beyond it; no limit: nothing is."""
        values = np.asarray(values)
        if limit is None:
            return np.zeros(values.shape, dtype=bool)
        return ~(values >= limit) if self.lower_is_worse else ~(values <= limit)

    def _worst_item(self, values: np.ndarray) -> int:
        badness = -values if self.lower_is_worse else values
        return int(np.argmax(np.where(np.isnan(badness), np.inf, badness)))

    def _note_worst(self, values: np.ndarray, time: float) -> int:
        item = self._worst_item(values)
        value = float(values[item])
        if self.worst is None or self.beyond(value, self.worst):
            self.worst, self.worst_time = value, time
        if self.status == "not judged":
            self.status = "passed"
        return item

    def _held(self, beyond: np.ndarray, time: float) -> np.ndarray:
        """Items that have been beyond the limit without a break for `hold_time`."""
        if self.hold_time <= 0.0:
            return beyond
        if self._since is None or self._since.shape != beyond.shape:
            self._since = np.full(beyond.shape, np.inf)
        self._since = np.where(beyond, np.minimum(self._since, time), np.inf)
        # The small allowance is for rounding in step × timestep.
        return time - self._since >= self.hold_time - 1e-6
