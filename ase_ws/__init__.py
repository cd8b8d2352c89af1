"""Fine-tune MACE-like potentials on sparse labels, run them in ASE, know whether to trust them.

Importing this package is quick and changes no global state: torch and mace are loaded when
something that needs them is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ase_ws._version import __version__

if TYPE_CHECKING:
    from ase_ws.calculators.potential import PotentialCalculator
    from ase_ws.losses.weak import PISCLoss, PITCLoss
    from ase_ws.potentials.files import load_potential, save_potential
    from ase_ws.stability.campaign import check_stability
    from ase_ws.training.finetune import finetune

_WHERE = {
    "PITCLoss": "ase_ws.losses.weak",
    "PISCLoss": "ase_ws.losses.weak",
    "PotentialCalculator": "ase_ws.calculators.potential",
    "check_stability": "ase_ws.stability.campaign",
    "finetune": "ase_ws.training.finetune",
    "load_potential": "ase_ws.potentials.files",
    "save_potential": "ase_ws.potentials.files",
}

__all__ = [
    "PISCLoss",
    "PITCLoss",
    "PotentialCalculator",
    "__version__",
    "check_stability",
    "finetune",
    "load_potential",
    "save_potential",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'ase_ws' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
