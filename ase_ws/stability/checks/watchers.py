"""Which checks watch a run, from what the user said."""

from __future__ import annotations

from collections.abc import Sequence

from ase_ws.results.settings import StabilitySettings
from ase_ws.stability.checks.base import Check
from ase_ws.stability.checks.calibration import Calibration
from ase_ws.stability.checks.defaults import default_checks
from ase_ws.stability.checks.rdf import RDFCheck, RDFReference


def watchers(
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
