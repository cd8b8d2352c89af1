"""Cases beside the limits: faults just above what passes, and what is ugly and yet sound.

Sizes were chosen from what each fault does, measured without the suite: plain NVE for the ripples,
and for forces that are not the energy's a largest error of 0.02 eV/Å on an atom of the structure
displaced by 0.05 Å.
"""

from __future__ import annotations

from functools import partial

from ase.calculators.calculator import BaseCalculator
from stability_case import Case, crystal, moved, named

from ase_ws.testing import bad, good

XTB = {"needs": "tblite"}
MODEL = {"blame": "model"}
HEATS = frozenset({"drift", "fluctuation", "work"})


def forces_alone(base, size: float, place: float, width: float = 0.5) -> BaseCalculator:
    """Add smooth pair forces to the forces and not to the energy."""
    return bad.PairForces(base(), size, place, width)


def rippled(base, size: float, place: float) -> BaseCalculator:
    """Give forces ripples that no energy has."""
    return bad.RippledForces(base(), size, place)


def handed(base, size: float) -> BaseCalculator:
    """Let left and right differ."""
    return bad.Handed(base(), size)


NEAR_BAD = [
    Case(
        "bad_near_forces_metal",
        crystal("Cu", 2, 2, 1),
        partial(forces_alone, good.emt, 0.03, 2.3),
        300,
        ps=2,
        timestep=4,
        checks=frozenset({"work"}),
        **MODEL,
    ),
    Case(
        "bad_near_forces_silicon",
        crystal("Si"),
        partial(forces_alone, good.stillinger_weber, 0.18, 2.3),
        600,
        ps=1,
        timestep=1,
        checks=frozenset({"work"}),
        **MODEL,
    ),
    Case(
        "bad_near_forces_molecule",
        named("CH3OH"),
        partial(forces_alone, good.base_model, 0.009, 1.6),
        300,
        ps=1,
        checks=frozenset({"work"}),
        **MODEL,
    ),
    Case(
        "bad_near_forces_argon",
        crystal("Ar", 2, 2, 2, a=5.26),
        partial(forces_alone, good.lennard_jones, 0.066, 3.7),
        40,
        ps=4,
        timestep=8,
        ensemble="nve",
        checks=frozenset({"work"}),
        **MODEL,
    ),
    Case(
        "bad_near_handed_molecule",
        named("CH3OH"),
        partial(handed, good.base_model, 0.035),
        300,
        ps=1,
        checks=frozenset({"invariances"}),
        note="a mirror image changes forces by 0.1 eV/Å",
        **MODEL,
    ),
    Case(
        "bad_near_handed_silicon",
        # Large enough that the nearest images of the four atoms are always the same.
        crystal("Si", 2, 2, 2),
        partial(handed, good.stillinger_weber, 0.015),
        300,
        ps=1,
        timestep=1,
        checks=frozenset({"invariances"}),
        **MODEL,
    ),
    Case(
        "bad_near_place",
        moved(named("H2O"), 4.0),
        lambda: bad.ExternalField(good.base_model(), 0.02),
        300,
        ps=1,
        checks=frozenset({"invariances"}),
        note="0.08 eV/Å towards the origin",
        **MODEL,
    ),
    Case(
        "bad_near_ripples_metal",
        crystal("Cu", 2, 2, 1),
        partial(rippled, good.emt, 0.2, 2.55),
        300,
        ps=2,
        timestep=4,
        ensemble="nve",
        checks=HEATS,
        note="NVE gains 2 and 3 meV/atom/ps with two seeds",
        **MODEL,
    ),
    Case(
        "bad_near_ripples_silicon",
        crystal("Si"),
        partial(rippled, good.stillinger_weber, 0.1, 2.35),
        900,
        ps=2,
        timestep=1,
        checks=HEATS,
        note="NVE gains 2 meV/atom/ps at 650 K; under a thermostat, which takes the heat away",
        **MODEL,
    ),
    Case(
        "bad_near_stress",
        crystal("Cu", 2, 2, 1),
        lambda: bad.ScaledStress(good.emt(), 1.02),
        300,
        ps=3,
        timestep=4,
        ensemble="npt",
        checks=frozenset({"stress_work"}),
        note="2 % of the stress",
        **MODEL,
    ),
]
