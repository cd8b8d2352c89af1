"""Potentials with known answers: for tests, of this package and of yours.

| module | holds |
| --- | --- |
| `toys.py` | small `ase_ws.typing.Potential`s (harmonic, Morse, curl, ...) and a tiny MACE |
| `good.py` | ASE calculators that are known to be safe for MD |
| `bad/` | ASE calculators that wrap a good one and break it in one way each |
| `contract/` | `validate_potential`: does a potential of your own keep the contract? |
"""

from ase_ws.testing import bad, good
from ase_ws.testing.contract import PotentialContractError, validate_potential
from ase_ws.testing.toys import (
    ELEMENTS,
    Cubic,
    Curl,
    Harmonic,
    LeakyMorse,
    Morse,
    Toy,
    tiny_mace,
)

__all__ = [
    "ELEMENTS",
    "Cubic",
    "Curl",
    "Harmonic",
    "LeakyMorse",
    "Morse",
    "PotentialContractError",
    "Toy",
    "bad",
    "good",
    "tiny_mace",
    "validate_potential",
]
