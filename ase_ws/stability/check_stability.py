"""Say whether a potential is stable in MD of a structure: settings in, a verdict out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator
from ase.geometry import complete_cell

from ase_ws.errors import UserError
from ase_ws.files.folders import make_clear, require_writable
from ase_ws.md.observer import Ensemble
from ase_ws.md.run import Progress
from ase_ws.results.outcome import Outcome
from ase_ws.results.report import FILES, StabilityReport, keeping, plain_notes
from ase_ws.results.settings import BudgetedSettings
from ase_ws.stability.checks.base import Check
from ase_ws.stability.checks.calibration import Calibration
from ase_ws.stability.checks.defaults import checks_for
from ase_ws.stability.checks.geometry import Topology
from ase_ws.stability.checks.rdf import RDFReference
from ase_ws.stability.judged.home import as_found
from ase_ws.stability.runs.budget import look_ahead
from ase_ws.stability.runs.replicas import Run, rehearse
from ase_ws.stability.runs.stages import Clock
from ase_ws.stability.trial import Trial
from ase_ws.stability.verdict.candidates import save, write_candidates


@as_found
def check_stability(
    atoms: Atoms,
    calculator: BaseCalculator | None = None,
    *,
    temperature: float | Sequence[float],
    ps: float,
    replicas: int = 1,
    timestep: float = 0.5,
    ensemble: Ensemble = "nvt",
    seed: int = 0,
    pressure: float = 1.01325,
    thermostat_time: float = 100.0,
    interval: int = 10,
    checks: Sequence[Check] | None = None,
    largest_training_force: float | None = None,
    relax_steps: int = 200,
    fmax: float = 0.05,
    min_ps: float = 1.0,
    topology: Topology = "fixed",
    static: bool = True,
    blame: bool = True,
    compare: BaseCalculator | None = None,
    compare_name: str = "",
    calibration: Calibration | None = None,
    rdf: RDFReference | None = None,
    name: str = "",
    notes: Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    budget: float | None = None,
    tell: Callable[[str], None] | None = None,
) -> StabilityReport:
    """Say whether a potential is stable in MD of this structure at these temperatures.

    The structure is relaxed and looked at (see `ase_ws.stability.static`), then each replica
    starts from it with its own velocities and is stopped at the first failure of a check (see
    `ase_ws.stability.checks`). Potentials of this package run all replicas in one batch.

    Parameters
    ----------
    atoms : Atoms
        Starting structure; not modified.
    calculator : ASE calculator, optional
        The potential to judge. Default: the one attached to `atoms`.
    temperature : float or sequence of float
        Temperature(s) in K; each gets its own `replicas`.
    ps, replicas, timestep, ensemble, seed, pressure, thermostat_time, interval, relax_steps, \
fmax, min_ps, topology, static, blame, largest_training_force, budget
        What is run and looked at, see `BudgetedSettings`. The seeds of the replicas, which
        `run_md` takes, are in the report.
    checks : sequence of Check, optional
        The checks to use instead of `default_checks()`; each replica gets copies.
    compare : ASE calculator, optional
        A second model, run with the same settings and seeds from its own relaxed structure.
    compare_name, name : str
        How the models are called in the report.
    calibration : Calibration, optional
        Thresholds from a training set; its bond lengths go into the report too.
    rdf : RDFReference, optional
        A reference at the same temperature, to compare g(r) with.
    notes : mapping, optional
        For the provenance in the report, such as the command.
    out : path, optional
        Folder for `stability.json` (the report) and, where a replica failed, `candidates.xyz`:
        the failing frames and those before them, see `write_candidates`.
    progress : callable, optional
        Called as `progress(done, planned, label)`: evaluations before MD, of relaxation and
        static checks, where `planned` is an estimate; then steps of MD.
    tell : callable, optional
        Gets, before the work, a line that says how long it will take, and one of what is left
        out to fit the budget (see `report.settings["left_out"]`).

    Returns
    -------
    StabilityReport

    Raises
    ------
    UserError
        Bad arguments, or a calculator that cannot evaluate the starting structure at all. What it
        does wrong later is in the verdict.
    UnwrittenError
        `out` cannot be written any more; the exception holds the report.
    """
    clock = Clock()
    settings = BudgetedSettings.of(
        temperatures=temperature,
        ps=ps,
        replicas=replicas,
        timestep=timestep,
        ensemble=ensemble,
        seed=seed,
        pressure=pressure,
        thermostat_time=thermostat_time,
        interval=interval,
        relax_steps=relax_steps,
        fmax=fmax,
        min_ps=min_ps,
        topology=topology,
        static=static,
        blame=blame,
        largest_training_force=largest_training_force,
        budget=budget,
    )
    notes = plain_notes(notes)
    watching = checks_for(settings, checks, calibration=calibration, rdf=rdf)
    starts = [_with_calculator(atoms, calculator)]
    if compare is not None:
        starts.append(_with_calculator(atoms, compare))
    if out is not None:
        require_writable(Path(out), folder=True)
    for start in starts:
        rehearse(start, settings)
    folder = None if out is None else make_clear(Path(out), FILES)
    outlook = look_ahead(starts, settings, watching)
    if tell is not None:
        for line in outlook.lines:
            tell(line)
    runs: list[Run] = []

    def finished(run: Run) -> None:
        runs.append(run)
        if folder is not None and run.result.failure is not None:
            # After each failure, so that a run that is killed keeps what it found. A disk that is
            # full now ends no run: it is tried again at the end.
            with suppress(OSError):
                write_candidates(folder, runs)

    def compared() -> Outcome:
        settings = outlook.settings.but(static=False, blame=False)
        other = Trial(starts[1], settings, watching, name=compare_name, progress=progress)
        return other.judge().for_comparison()

    trial = Trial(
        starts[0],
        outlook.settings,
        watching,
        static_checks=outlook.checks,
        calibration=calibration,
        name=name,
        progress=progress,
    )
    report = trial.judge(
        outlook,
        finished=finished,
        comparison=None if compare is None else compared,
        notes=notes,
        clock=clock,
    )
    if folder is not None:
        with keeping(report):
            save(report, runs, folder)
    return report


def _with_calculator(atoms: Atoms, calculator: BaseCalculator | None) -> Atoms:
    calculator = calculator if calculator is not None else atoms.calc
    if calculator is None:
        raise UserError("no calculator: give one, or attach one to the atoms (atoms.calc = ...)")
    if len(atoms) == 0 or not np.isfinite(atoms.positions).all():
        raise UserError("the starting structure must have atoms, all at finite positions")
    cell = complete_cell(atoms.cell.array)
    if not np.isfinite(cell).all() or (atoms.pbc.any() and np.linalg.matrix_rank(cell) < 3):
        raise UserError("the cell of the starting structure is flat, or holds NaN or infinity")
    start = atoms.copy()
    start.calc = calculator
    return start
