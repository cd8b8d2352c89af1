"""Molecular dynamics with any ASE calculator, watched by observers.

| file | holds |
| --- | --- |
| `run.py` | `run_md` |
| `replicas.py` | `run_replicas`: many replicas in one batch |
| `batched_systems.py`, `integrators_batched.py` | what it moves, and its integrators |
| `run_setup.py` | what both begin with |
| `run_result.py` | `MDResult`: what both end with |
| `integrators.py` | ASE's integrators and what each of them conserves |
| `constraints.py` | ASE's constraints, made right for MD or refused |
| `freedom.py` | what they leave to move, measured |
| `velocities.py` | degrees of freedom, temperature, initial velocities |
| `observer.py` | `Observer`, `Snapshot`, `Finding`: what the checks see and say |
| `observed_run.py` | the observers at work |
| `finite_guard.py` | the check that every run has |
| `evaluation.py` | asking the calculator; a bad set-up against a bad geometry |
| `record.py` | trajectory and log that survive a kill |
| `trajectory_frame.py` | what a frame takes from the starting structure |
| `checkpoint.py` | going on after a kill, to the same numbers |
| `run_identity.py` | what a resumed run must have in common with the one before |
| `fingerprint.py` | which potential it is, by content |
"""

from ase_ws.md.finite_guard import FiniteGuard
from ase_ws.md.observer import Observer, RunContext, Snapshot
from ase_ws.md.record import read_log
from ase_ws.md.replicas import run_replicas
from ase_ws.md.run import run_md
from ase_ws.md.run_result import MDResult, NotWrittenError
from ase_ws.md.velocities import degrees_of_freedom, draw_velocities, kinetic_temperature
from ase_ws.results.finding import Finding

__all__ = [
    "Finding",
    "FiniteGuard",
    "MDResult",
    "NotWrittenError",
    "Observer",
    "RunContext",
    "Snapshot",
    "degrees_of_freedom",
    "draw_velocities",
    "kinetic_temperature",
    "read_log",
    "run_md",
    "run_replicas",
]
