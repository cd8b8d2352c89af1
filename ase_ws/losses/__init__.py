"""Losses: supervised ones, the weak ones (PITC, PISC), and their weighted total."""

from ase_ws.losses.displacements import Displacements
from ase_ws.losses.supervised import EnergyLoss, ForcesLoss, StressLoss
from ase_ws.losses.total import TotalLoss, WeightedTerm
from ase_ws.losses.weak import PISCLoss, PITCLoss

__all__ = [
    "Displacements",
    "EnergyLoss",
    "ForcesLoss",
    "PISCLoss",
    "PITCLoss",
    "StressLoss",
    "TotalLoss",
    "WeightedTerm",
]
