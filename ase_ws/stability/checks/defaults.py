"""Which checks watch a run of MD.

| check | file |
| --- | --- |
| finite, temperature, frozen, force, energy, cell | `energetics.py` |
| contact, bond, detached H, isolated atom | `geometry.py` |
| drift, fluctuation | `drift.py`, `fluctuation.py` |
"""

from __future__ import annotations

from collections.abc import Sequence

from ase_ws.results.settings import StabilitySettings
from ase_ws.stability.checks.base import Check
from ase_ws.stability.checks.calibration import Calibration
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
    Topology,
)
from ase_ws.stability.checks.rdf import RDFCheck, RDFReference


def default_checks(
    *, largest_training_force: float | None = None, topology: Topology = "fixed"
) -> list[Check]:
    """Make a fresh set of all checks, in the order in which they are asked.

    Causes come before symptoms: a broken bond is named rather than the heat it sets free.

    Parameters
    ----------
    largest_training_force : float, optional
        Largest force in the training set in eV/Å, see `ForceCheck`.
    topology : {"fixed", "reactive"}
        Whether a broken bond is a failure, see `BondCheck`.
    """
    return [
        FiniteCheck(),
        CellCheck(),
        ContactCheck(),
        BondCheck(topology=topology),
        DetachedHydrogenCheck(topology=topology),
        IsolatedAtomCheck(),
        ForceCheck(largest_training_force=largest_training_force),
        EnergyCheck(topology=topology),
        TemperatureCheck(),
        FrozenCheck(),
        DriftCheck(),
        FluctuationCheck(),
    ]


def checks_for(
    settings: StabilitySettings,
    checks: Sequence[Check] | None = None,
    *,
    calibration: Calibration | None = None,
    rdf: RDFReference | None = None,
) -> list[Check]:
    """Give the user's own checks, or the default ones with these settings; and that of g(r)."""
    if checks is not None:
        wanted = list(checks)
    else:
        wanted = default_checks(
            largest_training_force=settings.largest_training_force, topology=settings.topology
        )
        if calibration is not None:
            calibration.apply(wanted)
    return wanted if rdf is None else [*wanted, RDFCheck(reference=rdf)]
