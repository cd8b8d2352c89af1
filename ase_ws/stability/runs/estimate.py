"""How long a campaign will take, from a few evaluations of its start."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np
from ase import Atoms

from ase_ws.results.settings import StabilitySettings
from ase_ws.stability.checks.base import Check
from ase_ws.stability.judged.answers import Judged, PotentialError, unguarded
from ase_ws.stability.judged.float64 import raised_precision
from ase_ws.stability.judged.gas import Gas
from ase_ws.stability.runs.replicas import BATCH_ATOMS, batched, run_jobs
from ase_ws.stability.static.probe import Probe

#: Displacement of the structures that are timed, in Å: new ones to any cache, old ones to the
#: potential.
_AWAY = 0.01
#: Steps of MD that are timed at most. In a batch the first ones are slow, and a hundredth of the
#: run is spent on it at most, or two steps; on a gas they cost nothing.
_BATCH_STEPS, _GAS_STEPS = 8, 20
_MINUTE = 60.0


class NotFiniteError(PotentialError):
    """The potential gave an answer that is not finite."""


@dataclass(frozen=True)
class Speed:
    """What one potential takes, in seconds.

    Attributes
    ----------
    evaluation : float
        Of the start, as MD asks for it.
    static : float
        As static checks do: the energy, in float64, of a small cell repeated.
    step : float
        Of MD, with all checks: one replica.
    batch : float
        The same for `size` replicas in one batch; 0 where they run one after the other.
    size : int
        Replicas in the batch that was timed.
    most : int
        In any batch.
    """

    evaluation: float
    static: float
    step: float
    batch: float = 0.0
    size: int = 1
    most: int = 1

    def md(self, steps: int, jobs: int) -> float:
        """Give the time of so many steps of so many replicas."""
        if not self.batch:
            return steps * jobs * self.step
        whole, rest = divmod(jobs, self.most)
        return steps * (whole * self._together(self.most) + self._together(rest))

    def _together(self, jobs: int) -> float:
        """Time of a step of a batch, on the line through one replica and the timed batch."""
        if jobs == 0 or self.size == 1:
            return self.batch * jobs
        first = min(self.step, self.batch)
        return first + (self.batch - first) * (jobs - 1) / (self.size - 1)


@dataclass(frozen=True)
class Estimate:
    """Time that the parts of a campaign will take, without reruns of what fails.

    Attributes
    ----------
    relaxation_s : float
        At most.
    static_evaluations : int
        Of the static checks, of a potential in which nothing stands out.
    static_s : float
    md_steps : int
        Of all replicas.
    md_s : float
    """

    relaxation_s: float
    static_evaluations: int
    static_s: float
    md_steps: int
    md_s: float

    @property
    def total_s(self) -> float:
        """All of it."""
        return self.relaxation_s + self.static_s + self.md_s

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary that JSON can hold."""
        return {"total_s": self.total_s, **asdict(self)}

    def sentence(self) -> str:
        """Say it in one line."""
        before = [f"{spoken(self.relaxation_s)} relaxing at most"] if self.relaxation_s else []
        if self.static_evaluations:
            number = f"{self.static_evaluations} evaluations before MD"
            before.append(f"{spoken(self.static_s)} for {number}")
        before.append(f"{spoken(self.md_s)} for {self.md_steps:,} steps of MD")
        return f"about {spoken(self.total_s)}: {', '.join(before)}"


def spoken(seconds: float) -> str:
    """Write a duration as roughly as it is known."""
    if seconds < 1.5:
        return "1 s" if seconds >= 0.5 else "under 1 s"
    if seconds < 1.5 * _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < 90 * _MINUTE:
        return f"{seconds / _MINUTE:.2g} min"
    return f"{seconds / _MINUTE**2:.3g} h"


def measure(
    start: Atoms, settings: StabilitySettings, templates: Sequence[Check], *, static: bool = True
) -> Speed:
    """Time the evaluations and the steps that a run is made of.

    The first evaluation, which loads and compiles, was `rehearse`'s. Any calculator is asked
    twice more for MD, twice or three times for static checks, and a batch takes some steps.

    Parameters
    ----------
    start : Atoms
        With the calculator; not modified.
    settings : StabilitySettings
    templates : sequence of Check
        Of MD.
    static : bool
        Whether there will be static checks.

    Returns
    -------
    Speed

    Raises
    ------
    PotentialError, MachineError
        The potential gave no answer, or one that is not finite, near the start. What it does in
        the steps of a batch is not judged: the start may not be relaxed.
    """
    # Overflow and NaN are reported, and not for NumPy to warn about.
    # Those of the user are not made for a rehearsal: they may write, or divide by an energy.
    templates = [check for check in templates if type(check).__module__.startswith("ase_ws.")]
    with np.errstate(all="ignore"):
        evaluation = _evaluation(start)
        looked = _static(start) if static else 0.0
        if not batched(start, settings):
            return Speed(evaluation, looked, evaluation + _overhead(start, settings, templates))
        jobs = settings.replicas * len(settings.temperatures)
        most = max(1, BATCH_ATOMS // len(start))
        size = min(jobs, most)
        number = min(_BATCH_STEPS, max(2, settings.steps // 100))
        batch = _step(start, settings, templates, size, number)
    # It may have failed in its first step.
    batch = batch or size * evaluation
    return Speed(evaluation, looked, evaluation, batch, size, most)


def is_relaxed(start: Atoms, fmax: float) -> bool:
    """Whether no force that the constraints leave is larger than `fmax`, in eV/Å."""
    probe = start.copy()
    probe.calc = Judged.of(start)
    # NaN is not relaxed.
    return bool(np.linalg.norm(probe.get_forces(), axis=1).max() <= fmax)


def _evaluation(atoms: Atoms, *, forces: bool = True) -> float:
    moved = atoms.copy()
    moved.calc = Judged.of(atoms)
    rng, times = np.random.default_rng(2), []
    for _ in range(2):
        moved.positions = atoms.positions + rng.normal(0.0, _AWAY, (len(atoms), 3))
        started = time.perf_counter()
        answers = [np.array(moved.get_potential_energy())]
        if forces:
            answers.append(moved.get_forces(apply_constraint=False))
        times.append(time.perf_counter() - started)
        if not all(np.isfinite(answer).all() for answer in answers):
            raise NotFiniteError("energy or forces are not finite 0.01 Å beside the start")
    return median(times)


def _static(start: Atoms) -> float:
    calculator = unguarded(start.calc)
    raised = raised_precision(calculator)
    bare = start.copy()
    bare.calc = calculator if raised is None else raised
    probe = Probe(bare)
    looked = probe.with_calculator(probe.atoms)
    if raised is not None or len(looked) > len(start):
        looked.get_potential_energy()
    # Four questions in five are for an energy alone, which some potentials give sooner.
    return _evaluation(looked, forces=False)


def _overhead(start: Atoms, settings: StabilitySettings, templates: Sequence[Check]) -> float:
    """Time of a step without its evaluation: what integrator and checks take."""
    gas = start.copy()
    gas.calc = Gas()
    return _step(gas, settings, templates, 1, _GAS_STEPS)


def _step(
    start: Atoms, settings: StabilitySettings, templates: Sequence[Check], jobs: int, steps: int
) -> float:
    """Time of a step of MD; 0 where none was completed."""
    times: list[float] = []
    short = settings.but(ps=steps * settings.timestep / 1000.0, interval=1)
    run_jobs(
        start,
        short,
        settings.jobs()[:jobs],
        templates,
        finished=lambda run: None,
        progress=lambda done, planned, label: times.append(time.perf_counter()),
    )
    return float(median(np.diff(times))) if len(times) > 1 else 0.0
