"""Which checks watch a run, from what the user said."""

from __future__ import annotations

from collections.abc import Sequence

from ase_ws.stability.checks.base import Check
from ase_ws.stability.checks.calibration import Calibration
from ase_ws.stability.checks.defaults import default_checks
from ase_ws.stability.checks.geometry import Topology
from ase_ws.stability.checks.rdf import RDFCheck, RDFReference
from ase_ws.stability.runs.plan import require_positive


def watchers(
    checks: Sequence[Check] | None = None,
    *,
    topology: Topology = "fixed",
    calibration: Calibration | None = None,
    rdf: RDFReference | None = None,
    largest_training_force: float | None = None,
) -> list[Check]:
    """Give the user's own checks, or the default ones with these settings; and that of g(r)."""
    if largest_training_force is not None:
        require_positive("largest_training_force", largest_training_force)
    if checks is not None:
        wanted = list(checks)
    else:
        wanted = default_checks(largest_training_force=largest_training_force, topology=topology)
        if calibration is not None:
            calibration.apply(wanted)
    return wanted if rdf is None else [*wanted, RDFCheck(reference=rdf)]
