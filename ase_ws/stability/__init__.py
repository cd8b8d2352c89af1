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

from ase_ws.results.check import CheckResult
from ase_ws.results.rates import failure_rate, failure_rate_upper
from ase_ws.results.replica import ReplicaResult
from ase_ws.results.report import StabilityReport
from ase_ws.stability.check_stability import check_stability
from ase_ws.stability.check_trajectory import check_trajectory
from ase_ws.stability.checks.base import Check
from ase_ws.stability.checks.calibration import Calibration
from ase_ws.stability.checks.defaults import (
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
from ase_ws.stability.checks.rdf import RDFCheck, RDFReference

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
