"""Is this potential safe for MD? Checks during MD, and a verdict with its uncertainty.

| file | holds |
| --- | --- |
| `campaign.py` | `check_stability`: relax, run the replicas, report |
| `plan.py` | what a campaign is asked to do |
| `observers.py` | the list of checks; each lives in `energetics.py`, `geometry.py` or `drift.py` |
| `check.py` | what all checks have in common |
| `pairs.py` | close pairs, periodic or not |
| `relax.py` | the starting structure |
| `rates.py` | failure rate and its upper limit |
| `verdict.py` | `StabilityReport`, and the rule that gives the verdict |
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
    ForceCheck,
    FrozenCheck,
    IsolatedAtomCheck,
    TemperatureCheck,
    default_checks,
)
from ase_ws.stability.rates import failure_rate, failure_rate_upper
from ase_ws.stability.replica import ReplicaResult
from ase_ws.stability.result import StabilityReport

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
    "ForceCheck",
    "FrozenCheck",
    "IsolatedAtomCheck",
    "ReplicaResult",
    "StabilityReport",
    "TemperatureCheck",
    "check_stability",
    "default_checks",
    "failure_rate",
    "failure_rate_upper",
]
