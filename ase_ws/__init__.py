"""Fine-tune MACE-like potentials on sparse labels, run them in ASE, know whether to trust them.

Importing this package is quick and changes no global state: torch and mace are loaded when
something that needs them is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ase_ws._version import __version__

if TYPE_CHECKING:
    from ase_ws.calculators.committee import CommitteeCalculator
    from ase_ws.calculators.guarded import GuardedCalculator
    from ase_ws.calculators.potential import PotentialCalculator
    from ase_ws.losses.consistency import GradientLoss
    from ase_ws.losses.weak import PISCLoss, PITCLoss
    from ase_ws.md.replicas import run_replicas
    from ase_ws.md.run import run_md
    from ase_ws.potentials.files import load_potential, save_potential
    from ase_ws.stability.check_stability import check_stability
    from ase_ws.training.finetune import finetune

_WHERE = {
    "CommitteeCalculator": "ase_ws.calculators.committee",
    "GradientLoss": "ase_ws.losses.consistency",
    "GuardedCalculator": "ase_ws.calculators.guarded",
    "PITCLoss": "ase_ws.losses.weak",
    "PISCLoss": "ase_ws.losses.weak",
    "PotentialCalculator": "ase_ws.calculators.potential",
    "check_stability": "ase_ws.stability.check_stability",
    "finetune": "ase_ws.training.finetune",
    "load_potential": "ase_ws.potentials.files",
    "run_md": "ase_ws.md.run",
    "run_replicas": "ase_ws.md.replicas",
    "save_potential": "ase_ws.potentials.files",
}

__all__ = [
    "CommitteeCalculator",
    "GradientLoss",
    "GuardedCalculator",
    "PISCLoss",
    "PITCLoss",
    "PotentialCalculator",
    "__version__",
    "check_stability",
    "finetune",
    "load_potential",
    "run_md",
    "run_replicas",
    "save_potential",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'ase_ws' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
