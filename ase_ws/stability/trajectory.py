"""The frames of a trajectory, followed over periodic boundaries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator
from ase.geometry import complete_cell

from ase_ws.errors import UserError
from ase_ws.md.evaluation import CALCULATOR_FAILURES, describe, evaluate
from ase_ws.md.observer import RunContext, Snapshot
from ase_ws.md.velocities import kinetic_temperature
from ase_ws.stability.judged.answers import Judged
from ase_ws.stability.runs.replicas import freedom


@dataclass
class Moves:
    """The frames, one after the other in the same atoms.

    Attributes
    ----------
    held : frozenset of str
        Which of "energy", "forces" and "velocities" every frame has.
    """

    frames: Sequence[Atoms]
    calculator: BaseCalculator | None
    interval: float
    held: frozenset[str]
    atoms: Atoms

    @classmethod
    def of(
        cls, frames: Sequence[Atoms], calculator: BaseCalculator | None, interval: float | None
    ) -> Moves:
        """Check the frames, and see what they hold; `interval` in fs, see `check_trajectory`."""
        if len(frames) < 2:
            raise UserError(f"the trajectory has {len(frames)} frame(s): at least two are needed")
        if len(frames[0]) == 0:
            raise UserError("the frames of the trajectory have no atoms")
        for number, frame in enumerate(frames):
            if not np.array_equal(frame.numbers, frames[0].numbers):
                raise UserError(
                    f"frame {number} of the trajectory has other atoms than the first: give one "
                    "system, with its atoms in one order"
                )
        held = {"energy", "forces"} if calculator is not None else set()
        if calculator is None:
            held |= {q for q in ("energy", "forces") if all(_has(f, q) for f in frames)}
        if all(frame.has("momenta") for frame in frames):
            held.add("velocities")
        spacing = _spacing(frames) if interval is None else float(interval)
        if not (np.isfinite(spacing) and spacing > 0):
            raise UserError(f"the time between frames is {spacing}: it must be positive, in fs")
        return cls(frames, calculator, spacing, frozenset(held), frames[0].copy())

    def freedom(self) -> int:
        """Degrees of freedom of the frames."""
        try:
            return freedom(self.frames[0], finished=True)
        except UserError:
            raise
        except CALCULATOR_FAILURES as error:
            raise UserError(
                f"the constraints of the first frame cannot be applied to it ({describe(error)}): "
                "remove them"
            ) from error

    def temperature(self) -> float:
        """Median kinetic temperature of the frames, in whole K."""
        if "velocities" not in self.held:
            raise UserError("the trajectory has no velocities: say at which temperature it was run")
        n_dof = self.freedom()
        kinetic = [frame.get_kinetic_energy() for frame in self.frames]
        # The median, and of finite ones: a trajectory that blew up must not raise its own limits.
        finite = [kinetic_temperature(k, n_dof) for k in kinetic if np.isfinite(k)]
        return float(round(np.median(finite))) if finite else np.nan

    def snapshots(self, context: RunContext) -> Iterator[Snapshot]:
        """One snapshot a frame, atoms followed over periodic boundaries."""
        live = self.atoms
        for step, frame in enumerate(self.frames):
            if step:
                live.set_cell(frame.cell, apply_constraint=False)
                live.positions = live.positions + _shortest(frame, live)
            live.arrays["momenta"] = frame.get_momenta()
            energy, forces = self._evaluate(frame)
            snapshot = Snapshot(
                step=step,
                time=step * self.interval,
                atoms=live,
                energy=energy,
                forces=forces,
                conserved=0.0,
                context=context,
            )
            snapshot.conserved = energy + snapshot.kinetic_energy
            yield snapshot

    def _evaluate(self, frame: Atoms) -> tuple[float, np.ndarray]:
        """Energy and forces of a frame; zero where the trajectory has none."""
        if self.calculator is not None:
            probe = frame.copy()
            probe.set_constraint()
            probe.calc = Judged(self.calculator)
            probe.get_forces()
            energy, forces, _ = evaluate(probe)
            return energy, forces
        results = {} if frame.calc is None else frame.calc.results
        energy = float(results["energy"]) if "energy" in self.held else 0.0
        forces = results["forces"] if "forces" in self.held else np.zeros((len(frame), 3))
        return energy, np.asarray(forces, dtype=float)


#: Part by which times of frames may be uneven: rounding.
UNEVEN = 0.01


def _has(frame: Atoms, quantity: str) -> bool:
    return frame.calc is not None and getattr(frame.calc, "results", {}).get(quantity) is not None


def _spacing(frames: Sequence[Atoms]) -> float:
    times = [frame.info.get("time_fs") for frame in frames]
    if any(time is None for time in times):
        raise UserError(
            "the trajectory does not say when its frames were taken: give the time between two "
            "frames (frame_interval, in fs)"
        )
    gaps = np.diff(np.array(times, dtype=float))
    usual = float(np.median(gaps))
    # Runs write their last step too, wherever it falls. Written so that NaN is uneven.
    even = np.abs(gaps - usual) <= UNEVEN * abs(usual)
    even[-1:] |= (gaps[-1:] > 0) & (gaps[-1:] < usual)
    if not (even.all() and usual > 0):
        odd = int(np.flatnonzero(~even)[0]) if not even.all() else 0
        raise UserError(
            f"frames {odd} and {odd + 1} of the trajectory are {gaps[odd]:g} fs apart, most are "
            f"{usual:g} fs; expected even times: judge joined runs one by one, or take frames that "
            "are evenly apart"
        )
    return usual


def _shortest(frame: Atoms, live: Atoms) -> np.ndarray:
    """Shortest way, over the periodic boundaries, from the live atoms to those of the frame."""
    way = frame.positions - live.positions
    if not frame.pbc.any() or not np.isfinite(way).all():
        return way
    cell = complete_cell(frame.cell.array)
    scaled = np.linalg.solve(cell.T, way.T).T
    return way - np.where(frame.pbc, np.round(scaled), 0.0) @ cell
