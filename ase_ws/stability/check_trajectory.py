"""Check a trajectory that exists already, from any program that ASE reads."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator

from ase_ws.files.folders import make_clear, require_writable
from ase_ws.md.observed_run import ObservedRun
from ase_ws.md.observer import Ensemble, RunContext, Snapshot
from ase_ws.results.blame import Blame
from ase_ws.results.check import CheckResult
from ase_ws.results.finding import Finding
from ase_ws.results.record import finite_or_none
from ase_ws.results.replica import ReplicaResult, Traces
from ase_ws.results.report import FILES, StabilityReport, keeping, plain_notes
from ase_ws.results.settings import Job, StabilitySettings
from ase_ws.stability.checks.base import Check
from ase_ws.stability.checks.bonds import BondLengths
from ase_ws.stability.checks.calibration import Calibration
from ase_ws.stability.checks.defaults import checks_for
from ase_ws.stability.checks.drift import DriftCheck
from ase_ws.stability.checks.energetics import (
    EnergyCheck,
    ForceCheck,
    FrozenCheck,
    TemperatureCheck,
)
from ase_ws.stability.checks.fluctuation import FluctuationCheck
from ase_ws.stability.checks.geometry import Topology
from ase_ws.stability.checks.rdf import RDFReference
from ase_ws.stability.judged.answers import MachineError, PotentialError, lost, require_answer
from ase_ws.stability.runs.prepare import Preparation, Witness
from ase_ws.stability.runs.replicas import Run
from ase_ws.stability.trajectory import Moves
from ase_ws.stability.verdict.candidates import save
from ase_ws.stability.verdict.decide import assemble

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


#: What the report says of the settings; the rest belongs to runs of MD.
_TOLD = {"temperatures", "ps", "replicas", "timestep", "ensemble", "topology", "min_ps"}


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
        Fewer than two frames, other atoms in later ones, no way to know time or temperature, or
        a calculator that cannot evaluate the first frame at all.
    """
    moves = Moves.of(frames, calculator, frame_interval)
    notes = plain_notes(notes)
    if out is not None:
        require_writable(Path(out), folder=True)
    kelvin = moves.temperature() if temperature is None else float(temperature)
    steps = len(frames) - 1
    settings = StabilitySettings.of(
        temperatures=kelvin,
        ps=steps * moves.interval / 1000.0,
        timestep=moves.interval,
        ensemble=ensemble,
        topology=topology,
        min_ps=min_ps,
    )
    witness = None
    if calculator is not None and np.isfinite(frames[0].positions).all():
        first = frames[0].copy()
        first.calc = calculator
        require_answer(first)
        witness = Witness(first)
    context = RunContext(
        ensemble=ensemble,
        temperature=kelvin,
        timestep=moves.interval,
        steps=steps,
        n_dof=moves.freedom(),
    )
    wanted = copy.deepcopy(checks_for(settings, checks, calibration=calibration, rdf=rdf))
    held, left_out = _applicable(wanted, moves.held, ensemble)
    bonds = BondLengths()
    for observer in (*held, bonds):
        # Every frame is looked at: frames are rarer than steps.
        observer.interval = 1
    watch = ObservedRun([*held, bonds], moves.atoms, context)
    traces = _look(watch, moves, context)
    job = Job(kelvin, 0, 0)
    replica = ReplicaResult(
        temperature=kelvin,
        replica=0,
        seed=0,
        planned_ps=settings.ps,
        simulated_ps=watch.steps_done * context.timestep / 1000.0,
        failure=None if watch.failure is None else job.label(watch.failure),
        warnings=[job.label(item) for item in watch.warnings],
        checks=[check.result() for check in held] + left_out,
        traces=Traces(**traces),
        mean_temperature=None,
        ns_per_day=float("nan"),
        bonds=bonds.to_dict(),
    )
    looked = Preparation(frames[0])
    if witness is not None:
        looked = witness.recall(looked)
    run = Run(replica, [*watch.earlier_frames, *watch.last_frames])
    report = assemble(
        frames[0],
        {**settings.model_dump(mode="json", include=_TOLD), "steps": steps},
        looked,
        [run],
        calculator="" if calculator is None else type(calculator).__name__,
        name=name or "trajectory",
        blame=_blame(watch.failure, looked),
        calibration=calibration,
        notes=notes,
    )
    if out is not None:
        with keeping(report):
            save(report, [run], make_clear(Path(out), FILES))
    return report


def _blame(failure: Finding | None, start: Preparation) -> Blame | None:
    if start.failures:
        return Blame("model", start.failures[0].message)
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
            result = CheckResult(check.name, check.defined(), check.unit, note=note)
            left_out.append(_not_applying(result))
        else:
            asked.append(check)
    return asked, left_out


def _not_applying(result: CheckResult) -> CheckResult:
    return CheckResult(**{**vars(result), "status": "does not apply"})


def _look(watch: ObservedRun, moves: Moves, context: RunContext) -> dict[str, list[float | None]]:
    """Show every frame; give the traces."""
    names = ("step", "time_fs", "potential_ev_per_atom", "conserved_ev_per_atom", "temperature_k")
    traces: dict[str, list[float | None]] = {name: [] for name in names}
    with np.errstate(all="ignore"):
        for snapshot in _until_it_fails(watch, moves, context):
            n_atoms = len(snapshot.atoms)
            row = (
                snapshot.step,
                snapshot.time,
                snapshot.energy / n_atoms if "energy" in moves.held else np.nan,
                snapshot.conserved / n_atoms if context.ensemble == "nve" else np.nan,
                snapshot.temperature if "velocities" in moves.held else np.nan,
            )
            for name, value in zip(names, row, strict=True):
                traces[name].append(finite_or_none(value))
            if watch.look(snapshot):
                break
    return traces


def _until_it_fails(watch: ObservedRun, moves: Moves, context: RunContext) -> Iterator[Snapshot]:
    """Go through the frames, up to one at which the calculator gives no answer."""
    step = 0
    try:
        for snapshot in moves.snapshots(context):
            yield snapshot
            step = snapshot.step + 1
    except PotentialError as error:
        watch.calculator_failed(error)  # which keeps the frames
        time = step * context.timestep
        watch.failure = Finding("calculator", "fail", str(error), step=step, time=time)
    except MachineError as error:
        watch.warnings.append(lost(error))
