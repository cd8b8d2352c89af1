"""The same atoms must give the same numbers, whenever they are asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import numpy as np

from ase_ws.stability.static.probe import MOST_NOISE, Probe, ProbeError
from ase_ws.stability.static.result import StaticCheck, StaticResult

#: Displacement of the copy in Å: another structure, and one that any MD comes by.
_AWAY = 0.01


class Answer(NamedTuple):
    """Energy (eV) and forces (eV/Å), or why there are none."""

    energy: float
    forces: np.ndarray
    refusal: str = ""


class Change(NamedTuple):
    """Largest change of the energy (eV) and of a force component (eV/Å), and of which atom."""

    energy: float
    force: float
    atom: int


class Memory:
    """What a calculator says about a structure and about a displaced copy, to be asked again.

    Two structures, because an answer that is always the same repeats itself too.
    """

    def __init__(self, probe: Probe):
        self.probe = probe
        self._first = self._ask()
        #: Spacing of float32 numbers of the size of the energy, eV.
        self.spacing = float(np.spacing(np.float32(max(abs(a.energy) for a in self._first))))

    @property
    def refusal(self) -> str:
        """Why one of the structures has no answer, or ""."""
        return next((answer.refusal for answer in self._first if answer.refusal), "")

    def change(self) -> Change:
        """Ask again, and compare.

        Raises
        ------
        ProbeError
            One of the two times it did not answer.
        """
        pairs = list(zip(self._first, self._ask(), strict=True))
        for first, again in pairs:
            if bool(first.refusal) != bool(again.refusal):
                when = "at first" if first.refusal else "when it was asked for again"
                told = first.refusal or again.refusal
                raise ProbeError(f"the answer is not always the same: {when}, {told}")
        energy = max(abs(first.energy - again.energy) for first, again in pairs)
        worst = np.max([np.abs(first.forces - again.forces) for first, again in pairs], axis=0)
        atom = self.probe.original(int(np.argmax(worst.max(axis=1))))
        return Change(energy, float(worst.max()), atom)

    def _ask(self) -> list[Answer]:
        # The structure itself last: the next time the calculator has just seen another one.
        return [self._answer(self.probe.rattled(_AWAY).positions), self._answer(None)]

    def _answer(self, positions: np.ndarray | None) -> Answer:
        try:
            return Answer(self.probe.energy(positions), self.probe.forces(positions))
        except ProbeError as error:
            return Answer(0.0, np.zeros_like(self.probe.atoms.positions), str(error))


@dataclass
class Repeatable(StaticCheck):
    """Energy and forces of the start, and of a displaced copy, asked for twice.

    A potential is a function of the structure. Noise that changes from call to call, a state that
    builds up, results of an earlier structure and parts that wear out (memory, an internal counter)
    make it another one in the course of a run. The value is the larger of the change of the energy
    and of that of any force component, each over its limit. Run on the same probe once more, as
    `check_stability` does after MD, the answers are compared with the first ones of all.

    Attributes
    ----------
    energy_limit : float
        In eV. Default 1e-3, what `MOST_NOISE` grants to rounding and to self-consistency, and at
        least four times the spacing of float32 numbers of that size: a float32 model on a GPU,
        which sums in any order, stays within one or two.
    force_limit : float
        In eV/Å. Default 1e-2, likewise.
    """

    energy_limit: float = MOST_NOISE.energy
    force_limit: float = MOST_NOISE.force

    name: ClassVar[str] = "repeatable"
    definition: ClassVar[str] = (
        "change of the energy over {energy_limit:g} eV, or of a force over {force_limit:g} "
        "eV/Å, when the same structures are asked for again; fails above 1"
    )
    unit: ClassVar[str] = "limit"

    _memory: Memory | None = field(init=False, default=None, repr=False)

    def judge(self, probe: Probe) -> StaticResult:
        """Ask for what is known already."""
        memory = self._memory
        if memory is None or memory.probe is not probe:
            memory = self._memory = Memory(probe)
        change = memory.change()
        if memory.refusal:
            # Both times: what it refuses is for the other checks to judge.
            return self.without_value("not judged", memory.refusal)
        energy_limit = max(self.energy_limit, 4.0 * memory.spacing)
        value = max(change.energy / energy_limit, change.force / self.force_limit)
        findings = []
        if not value <= 1.0:
            message = (
                "the potential answers differently when the same structure is asked for again: "
                f"the energy by {1e3 * change.energy:.3g} meV, a force by {change.force:.3g} eV/Å"
            )
            findings.append(self.finding("fail", message, value, 1.0, [change.atom]))
        note = (
            f"the energy is a float32 number of {memory.spacing:.1g} eV spacing: limit "
            f"{1e3 * energy_limit:.2g} meV"
            if energy_limit > self.energy_limit
            else ""
        )
        return self.result(value, findings, fail_at=1.0, note=note)
