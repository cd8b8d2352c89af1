"""Losses: supervised ones, the weak ones (PITC, PISC), and their weighted total."""

from ase_ws.losses.comparison import NoisyNodesLoss, TaylorLabelLoss
from ase_ws.losses.consistency import CurlLoss, GradientLoss
from ase_ws.losses.displacements import Displacements
from ase_ws.losses.reference import Reference
from ase_ws.losses.supervised import EnergyLoss, ForcesLoss, StressLoss
from ase_ws.losses.total import TotalLoss, WeightedTerm
from ase_ws.losses.weak import PISCLoss, PITCLoss, WeakLoss

__all__ = [
    "CurlLoss",
    "Displacements",
    "EnergyLoss",
    "ForcesLoss",
    "GradientLoss",
    "NoisyNodesLoss",
    "PISCLoss",
    "PITCLoss",
    "Reference",
    "StressLoss",
    "TaylorLabelLoss",
    "TotalLoss",
    "WeakLoss",
    "WeightedTerm",
]
