"""Is this potential safe for MD? Checks during MD, and a verdict with its uncertainty.

| room or file | holds |
| --- | --- |
| `check_stability.py` | `check_stability`: a structure and a calculator in, a report out |
| `check_trajectory.py`, `trajectory.py` | the same checks on frames that exist |
| `trial.py` | the steps from a structure to a verdict: prepare, run, blame, report |
| `checks/` | what watches a run of MD, and limits from a training set |
| `static/` | checks that need no MD |
| `judged/` | the calculator at arm's length: its answers, its state, its precision |
| `runs/` | budget, preparation and replicas of one trial |
| `verdict/` | the rule that gives the verdict, who is at fault, what is left on disk |
| `campaign/` | many models and structures, on many processes or machines |

What comes out is in `ase_ws.results`, and so are the settings.
"""

from ase_ws.results.check import CheckResult
from ase_ws.results.rates import failure_rate, failure_rate_upper
from ase_ws.results.replica import ReplicaResult
from ase_ws.results.report import StabilityReport
from ase_ws.results.settings import StabilitySettings
from ase_ws.stability.check_stability import check_stability
from ase_ws.stability.check_trajectory import check_trajectory
from ase_ws.stability.checks.base import Check
from ase_ws.stability.checks.calibration import Calibration
from ase_ws.stability.checks.defaults import default_checks
from ase_ws.stability.checks.drift import DriftCheck
from ase_ws.stability.checks.energetics import (
    CellCheck,
    EnergyCheck,
    FiniteCheck,
    ForceCheck,
    FrozenCheck,
    TemperatureCheck,
)
from ase_ws.stability.checks.fluctuation import FluctuationCheck
from ase_ws.stability.checks.geometry import (
    BondCheck,
    ContactCheck,
    DetachedHydrogenCheck,
    IsolatedAtomCheck,
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
    "StabilitySettings",
    "TemperatureCheck",
    "check_stability",
    "check_trajectory",
    "default_checks",
    "failure_rate",
    "failure_rate_upper",
]
