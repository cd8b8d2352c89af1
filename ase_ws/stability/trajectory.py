"""Check a trajectory that exists already, from any program that ASE reads."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator
from ase.geometry import complete_cell

from ase_ws.errors import UserError
from ase_ws.folders import make_clear
from ase_ws.md.evaluation import evaluate
from ase_ws.md.observer import Ensemble, Finding, RunContext, Snapshot
from ase_ws.md.velocities import degrees_of_freedom, kinetic_temperature
from ase_ws.md.watch import Watch, with_guard
from ase_ws.stability.assemble import assemble
from ase_ws.stability.blame import Blame
from ase_ws.stability.bonds import BondLengths
from ase_ws.stability.calibrate import Calibration
from ase_ws.stability.candidates import Candidates
from ase_ws.stability.check import Check, CheckResult
from ase_ws.stability.drift import DriftCheck
from ase_ws.stability.energetics import EnergyCheck, ForceCheck, FrozenCheck, TemperatureCheck
from ase_ws.stability.fluctuation import FluctuationCheck
from ase_ws.stability.geometry import Topology
from ase_ws.stability.plan import Job, Plan
from ase_ws.stability.prepare import Preparation
from ase_ws.stability.rdf import RDFReference
from ase_ws.stability.replica import ReplicaResult
from ase_ws.stability.result import FILES, StabilityReport
from ase_ws.stability.runs import Run
from ase_ws.stability.watchers import watchers

#: What the conserved quantity is made of.
CONSERVED = ("energy", "velocities", "a conserved quantity (E + K, in NVE only)")
#: What the checks need; those not named here need positions alone.
NEEDS: tuple[tuple[type[Check], tuple[str, ...]], ...] = (
    (ForceCheck, ("forces",)),
    (EnergyCheck, ("energy",)),
    (TemperatureCheck, ("velocities",)),
    (FrozenCheck, ("velocities",)),
    (DriftCheck, CONSERVED),
    (FluctuationCheck, CONSERVED),
)


def check_trajectory(
    frames: Sequence[Atoms],
    calculator: BaseCalculator | None = None,
    *,
    frame_interval: float | None = None,
    temperature: float | None = None,
    ensemble: Ensemble = "nvt",
    checks: Sequence[Check] | None = None,
    topology: Topology = "fixed",
    calibration: Calibration | None = None,
    rdf: RDFReference | None = None,
    min_ps: float = 1.0,
    name: str = "",
    notes: Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
) -> StabilityReport:
    """Show the frames of a trajectory to the checks, as if it were running.

    Checks whose quantities the trajectory does not hold (no forces, no velocities, ...) do not
    apply, and the report says so. The frames may be wrapped into the cell; an atom is followed
    over the boundary as long as it moves less than half a cell between two frames.

    Parameters
    ----------
    frames : sequence of Atoms
        Energies and forces are read from their calculators, velocities from their momenta.
    calculator : ASE calculator, optional
        Evaluates every frame anew.
    frame_interval : float, fs
        Time between two frames. Default: from `info["time_fs"]`, as `run_md` writes it.
    temperature : float, K
        Set temperature. Default: the median kinetic temperature of the frames.
    ensemble : {"nve", "nvt", "npt"}
        What was sampled; the drift is judged in NVE only, since a file does not hold the
        thermostat's part of the conserved quantity.
    checks, topology, calibration, rdf, min_ps, name, notes, out
        As for `check_stability`.

    Returns
    -------
    StabilityReport
        With one replica, the trajectory. Nothing can be rerun, so there is no blame but for a
        trajectory that fails in its first frame.

    Raises
    ------
    UserError
        Fewer than two frames, other atoms in later ones, no way to know time or temperature.
    """
    moves = _Moves.of(frames, calculator, frame_interval)
    kelvin = moves.temperature() if temperature is None else float(temperature)
    if not (np.isfinite(kelvin) and kelvin > 0):
        raise UserError(f"temperature is {kelvin}: it must be a positive number, in K")
    context = RunContext(
        ensemble=ensemble,
        temperature=kelvin,
        timestep=moves.interval,
        steps=len(frames) - 1,
        n_dof=degrees_of_freedom(moves.atoms),
    )
    wanted = copy.deepcopy(watchers(checks, topology=topology, calibration=calibration, rdf=rdf))
    held, left_out = _applicable(wanted, moves.held, ensemble)
    bonds = BondLengths()
    for observer in (*held, bonds):
        # Every frame is looked at: frames are rarer than steps.
        observer.interval = 1
    watch = Watch([*with_guard(held), bonds], moves.atoms, context)
    traces = _look(watch, moves, context)
    replica = ReplicaResult(
        temperature=kelvin,
        replica=0,
        seed=0,
        planned_ps=context.steps * context.timestep / 1000.0,
        simulated_ps=watch.steps_done * context.timestep / 1000.0,
        failure=None if watch.failure is None else _job(kelvin).label(watch.failure),
        warnings=[_job(kelvin).label(item) for item in watch.warnings],
        checks=[check.result() for check in held] + left_out,
        traces=traces,
        mean_temperature=None,
        ns_per_day=float("nan"),
        bonds=bonds.to_dict(),
    )
    plan = Plan(
        temperatures=(kelvin,),
        ps=replica.planned_ps,
        replicas=1,
        timestep=moves.interval,
        ensemble=ensemble,
        seed=0,
        pressure=0.0,
        thermostat_time=0.0,
        interval=1,
        min_ps=min_ps,
    )
    nothing = Preparation(frames[0], [], [], [], None, "")
    run = Run(replica, [*watch.earlier_frames, *watch.last_frames])
    report = assemble(
        frames[0],
        plan,
        nothing,
        [run],
        name=name or "trajectory",
        blame=_blame(watch.failure),
        calibration=calibration,
        notes=notes,
    )
    if out is not None:
        folder = make_clear(Path(out), FILES)
        Candidates(folder / "candidates.xyz").add(run)
        report.write(folder)
    return report


def _job(kelvin: float) -> Job:
    return Job(kelvin, 0, 0)


def _blame(failure: Finding | None) -> Blame | None:
    if failure is None:
        return None
    if failure.step == 0 and failure.check != "finite":
        return Blame("starting structure", f"the first frame fails: {failure.message}")
    return Blame("not settled", "a trajectory cannot be run again with another time step")


def _applicable(
    checks: Sequence[Check], held: frozenset[str], ensemble: Ensemble
) -> tuple[list[Check], list[CheckResult]]:
    """Part the checks into those that can be asked and results that say why the others cannot."""
    there = held | ({CONSERVED[-1]} if ensemble == "nve" else set())
    asked, left_out = [], []
    for check in checks:
        needs = next((needs for kind, needs in NEEDS if isinstance(check, kind)), ())
        missing = [need for need in needs if need not in there]
        if missing:
            note = f"the trajectory does not hold {' or '.join(missing)}"
            result = CheckResult(check.name, check.definition, check.unit, note=note)
            left_out.append(_not_applying(result))
        else:
            asked.append(check)
    return asked, left_out


def _not_applying(result: CheckResult) -> CheckResult:
    return CheckResult(**{**vars(result), "status": "does not apply"})


def _look(watch: Watch, moves: _Moves, context: RunContext) -> dict[str, list[float | None]]:
    """Show every frame; give the traces."""
    names = ("step", "time_fs", "potential_ev_per_atom", "conserved_ev_per_atom", "temperature_k")
    rows = []
    with np.errstate(all="ignore"):
        for snapshot in moves.snapshots(context):
            n_atoms = len(snapshot.atoms)
            rows.append(
                (
                    snapshot.step,
                    snapshot.time,
                    snapshot.energy / n_atoms if "energy" in moves.held else np.nan,
                    snapshot.conserved / n_atoms if context.ensemble == "nve" else np.nan,
                    snapshot.temperature if "velocities" in moves.held else np.nan,
                )
            )
            if watch.look(snapshot):
                break
    columns = zip(*rows, strict=True)
    return {
        name: [float(value) if np.isfinite(value) else None for value in column]
        for name, column in zip(names, columns, strict=True)
    }


@dataclass
class _Moves:
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
    ) -> _Moves:
        if len(frames) < 2:
            raise UserError(f"the trajectory has {len(frames)} frame(s): at least two are needed")
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

    def temperature(self) -> float:
        """Median kinetic temperature of the frames, in whole K."""
        if "velocities" not in self.held:
            raise UserError("the trajectory has no velocities: say at which temperature it was run")
        n_dof = degrees_of_freedom(self.frames[0])
        kinetic = [frame.get_kinetic_energy() for frame in self.frames]
        # The median, and of finite ones: a trajectory that blew up must not raise its own limits.
        finite = [kinetic_temperature(k, n_dof) for k in kinetic if np.isfinite(k)]
        return float(round(np.median(finite))) if finite else np.nan

    def snapshots(self, context: RunContext) -> Iterator[Snapshot]:
        """One snapshot a frame, atoms followed over periodic boundaries."""
        live = self.atoms
        for step, frame in enumerate(self.frames):
            if step:
                live.set_cell(frame.cell)
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
            probe.calc = self.calculator
            energy, forces, _ = evaluate(probe)
            return energy, forces
        results = {} if frame.calc is None else frame.calc.results
        energy = float(results["energy"]) if "energy" in self.held else 0.0
        forces = results["forces"] if "forces" in self.held else np.zeros((len(frame), 3))
        return energy, np.asarray(forces, dtype=float)


def _has(frame: Atoms, quantity: str) -> bool:
    return frame.calc is not None and getattr(frame.calc, "results", {}).get(quantity) is not None


def _spacing(frames: Sequence[Atoms]) -> float:
    times = [frame.info.get("time_fs") for frame in frames]
    if any(time is None for time in times):
        raise UserError(
            "the trajectory does not say when its frames were taken: give the time between two "
            "frames (frame_interval, in fs)"
        )
    return float(np.median(np.diff(np.array(times, dtype=float))))


def _shortest(frame: Atoms, live: Atoms) -> np.ndarray:
    """Shortest way, over the periodic boundaries, from the live atoms to those of the frame."""
    way = frame.positions - live.positions
    if not frame.pbc.any() or not np.isfinite(way).all():
        return way
    cell = complete_cell(frame.cell.array)
    scaled = np.linalg.solve(cell.T, way.T).T
    return way - np.where(frame.pbc, np.round(scaled), 0.0) @ cell
