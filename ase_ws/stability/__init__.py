"""Is this potential safe for MD? Checks during MD, and a verdict with its uncertainty.

| file | holds |
| --- | --- |
| `campaign.py` | `check_stability`: prepare, run the replicas, find who is at fault, report |
| `trajectory.py`, `moves.py` | `check_trajectory`: the same checks on frames that exist |
| `answers.py` | the calculator at arm's length: what counts as an answer, and whose fault is none |
| `estimate.py`, `budget.py`, `stages.py` | how long it takes, what is left out, how far it is |
| `plan.py`, `prepare.py`, `runs.py`, `blame.py` (with `reruns.py`), `assemble.py` | its steps |
| `static/` | checks that need no MD |
| `observers.py` | the list of checks in `energetics.py`, `geometry.py`, `drift.py`, ... |
| `check.py`, `pairs.py` | what all checks have in common |
| `calibrate.py` | thresholds from a training set |
| `relax.py` | the starting structure |
| `rates.py`, `verdict.py` | failure rate, survival, and the rule that gives the verdict |
| `replica.py`, `result.py` | what comes out |
| `bonds.py`, `picture.py`, `candidates.py` | bond lengths, failing frame, frames worth a label |
"""

from ase_ws.stability.calibrate import Calibration
from ase_ws.stability.campaign import check_stability
from ase_ws.stability.check import Check, CheckResult
from ase_ws.stability.observers import (
    BondCheck,
    CellCheck,
    ContactCheck,
    DetachedHydrogenCheck,
    DriftCheck,
    EnergyCheck,
    FiniteCheck,
    FluctuationCheck,
    ForceCheck,
    FrozenCheck,
    IsolatedAtomCheck,
    TemperatureCheck,
    default_checks,
)
from ase_ws.stability.rates import failure_rate, failure_rate_upper
from ase_ws.stability.rdf import RDFCheck, RDFReference
from ase_ws.stability.replica import ReplicaResult
from ase_ws.stability.result import StabilityReport
from ase_ws.stability.trajectory import check_trajectory

__all__ = [
    "BondCheck",
    "Calibration",
    "CellCheck",
    "Check",
    "CheckResult",
    "ContactCheck",
    "DetachedHydrogenCheck",
    "DriftCheck",
    "EnergyCheck",
    "FiniteCheck",
    "FluctuationCheck",
    "ForceCheck",
    "FrozenCheck",
    "IsolatedAtomCheck",
    "RDFCheck",
    "RDFReference",
    "ReplicaResult",
    "StabilityReport",
    "TemperatureCheck",
    "check_stability",
    "check_trajectory",
    "default_checks",
    "failure_rate",
    "failure_rate_upper",
]
