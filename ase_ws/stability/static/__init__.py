"""Checks of a calculator around one structure, before any MD.

| file | holds |
| --- | --- |
| `suite.py` | `run_static`, and the list of checks |
| `work.py`, `stress.py` | work of forces and stress against differences of the energy |
| `kinks.py` | force constants that depend on the step |
| `invariances.py` | rotation, reflection, translation, permutation; size extensivity |
| `smoothness.py`, `rattle.py`, `volume.py` | bonds, contacts, rattle ladders, E-V curve |
| `precision.py`, `repeat.py` | what rounding loses; whether it answers the same twice |
| `cost.py`, `counter.py` | how many evaluations the checks take, and have taken |
| `result.py` | what all static checks have in common |
| `probe.py`, `quadrature.py` | a calculator asked at displaced positions; integrals along paths |
| `scan.py`, `topology.py` | turns and jumps of a curve; what a scan moves |
"""

from ase_ws.results.check import Curve
from ase_ws.stability.static.invariances import Extensivity, Invariances
from ase_ws.stability.static.kinks import Kinks
from ase_ws.stability.static.precision import Precision
from ase_ws.stability.static.rattle import RattleLadder
from ase_ws.stability.static.repeat import Repeatable
from ase_ws.stability.static.result import StaticCheck, StaticResult
from ase_ws.stability.static.smoothness import BondScan, ContactScan
from ase_ws.stability.static.stress import StressWork
from ase_ws.stability.static.suite import default_static_checks, run_static
from ase_ws.stability.static.volume import VolumeCurve
from ase_ws.stability.static.work import Work

__all__ = [
    "BondScan",
    "ContactScan",
    "Curve",
    "Extensivity",
    "Invariances",
    "Kinks",
    "Precision",
    "RattleLadder",
    "Repeatable",
    "StaticCheck",
    "StaticResult",
    "StressWork",
    "VolumeCurve",
    "Work",
    "default_static_checks",
    "run_static",
]
