"""Bad cases: each must be called unstable, by one of the checks named, with the blame named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ase.calculators.calculator import BaseCalculator
from stability_case import STATIC, Case, argon, cluster, crystal, moved, named, slab_with_adatom

from ase_ws.testing import bad, good

#: What a collapse of atoms into each other sets off, the first of them depending on chance.
COLLAPSE = {"contact", "force", "energy", "temperature", "bond", "detached_h", "relaxation"}
#: What a model whose forces are not its energy's gradient sets off.
INCONSISTENT = {"drift", "forces_fd"}
SCANS = {"bond_scan", "contact_scan", "rattle_ladder", "volume_curve"}


def broken(
    fault: Callable[..., BaseCalculator], base: Callable[[], BaseCalculator], *args: Any, **kw: Any
) -> Callable[[], BaseCalculator]:
    """Make the bad calculator around a fresh good one."""
    return lambda: fault(base(), *args, **kw)


def checks(*names: str | set[str]) -> frozenset[str]:
    """Join names and sets of names."""
    found: set[str] = set()
    for name in names:
        found |= {name} if isinstance(name, str) else name
    return frozenset(found)


MODEL = {"blame": "model"}
XTB = {"needs": "tblite"}

BAD = [
    Case(
        "bad_hole_liquid",
        argon(5.6),
        broken(bad.Hole, good.lennard_jones, 3.3),
        140,
        ps=2,
        timestep=5,
        checks=checks(COLLAPSE, SCANS),
        **MODEL,
    ),
    Case(
        "bad_hole_molecule",
        named("CH3CH2OH"),
        broken(bad.Hole, good.gfn2_xtb, 1.7, 500.0, elements=("H", "H")),
        800,
        checks=checks(COLLAPSE, SCANS),
        **MODEL,
        **XTB,
    ),
    Case(
        "bad_hole_metal",
        crystal("Cu", 2, 2, 1),
        broken(bad.Hole, good.emt, 2.3, 500.0),
        800,
        ps=2,
        timestep=4,
        checks=checks(COLLAPSE, SCANS),
        **MODEL,
    ),
    Case(
        "bad_step_melting",
        argon(5.8),
        broken(bad.EnergyStep, good.lennard_jones, 4.7, 0.02),
        140,
        ps=3,
        timestep=5,
        checks=checks("drift", SCANS),
        **MODEL,
        note="pairs come in from the second shell while it melts",
    ),
    Case(
        "bad_step_bond",
        named("CH3CH2OH"),
        broken(bad.EnergyStep, good.gfn2_xtb, 1.62, 0.1, elements=("C", "C")),
        300,
        checks=checks("bond_scan", "rattle_ladder", "forces_fd"),
        **MODEL,
        **XTB,
        note="a bond that goes to and fro over a step: no drift",
    ),
    Case(
        "bad_jump_melting",
        argon(5.8),
        broken(bad.CutoffJump, good.lennard_jones, 4.9, 0.02),
        140,
        ps=3,
        timestep=5,
        checks=checks("drift", SCANS),
        **MODEL,
    ),
    Case(
        "bad_jump_crystal",
        crystal("Cu", 2, 2, 1),
        broken(bad.CutoffJump, good.emt, 2.75, 0.05),
        600,
        ps=2,
        timestep=4,
        ensemble="nve",
        checks=checks(SCANS, "forces_fd"),
        **MODEL,
        note="a cutoff inside the thermal motion of the first shell",
    ),
    Case(
        "bad_spurious_bond",
        named("CH3CH2OH"),
        broken(bad.SpuriousMinimum, good.gfn2_xtb, 2.2, 4.0, 0.3, elements=("C", "O")),
        800,
        checks=checks(COLLAPSE, SCANS),
        **MODEL,
        **XTB,
    ),
    Case(
        "bad_spurious_metal",
        crystal("Cu", 2, 2, 1),
        broken(bad.SpuriousMinimum, good.emt, 1.9, 6.0, 0.2),
        1000,
        ps=2,
        timestep=4,
        checks=checks(COLLAPSE, SCANS),
        **MODEL,
    ),
    Case(
        "bad_pair_sign",
        crystal("Cu", 2, 2, 1),
        broken(bad.WrongSignPair, good.emt, 20000.0, 0.22),
        600,
        ps=2,
        timestep=2,
        checks=checks(COLLAPSE, SCANS),
        **MODEL,
    ),
    Case(
        "bad_nan",
        named("CH3CH2OH"),
        broken(bad.NaNBeyond, good.gfn2_xtb, 1.2),
        800,
        replicas=2,
        checks=checks("finite", SCANS),
        **MODEL,
        **XTB,
    ),
    Case(
        "bad_raises",
        named("N2"),
        broken(bad.RaisesBeyond, good.morse, 1.14),
        500,
        checks=checks("calculator", SCANS),
        **MODEL,
    ),
    Case(
        "bad_wrong_sign",
        crystal("Cu", 2, 2, 1),
        broken(bad.WrongSign, good.emt),
        300,
        ps=2,
        timestep=4,
        checks=checks(INCONSISTENT, COLLAPSE),
        **MODEL,
    ),
    Case(
        "bad_curl_molecule",
        named("CH3CH2OH"),
        broken(bad.Curl, good.gfn2_xtb, (0.0, 0.0, 0.1)),
        300,
        ensemble="nve",
        checks=checks(INCONSISTENT, "jacobian", "temperature"),
        **MODEL,
        **XTB,
    ),
    Case(
        "bad_curl_cluster",
        cluster("Cu", 3.61),
        broken(bad.Curl, good.emt, (0.0, 0.02, 0.02)),
        300,
        ps=2,
        timestep=4,
        checks=checks(INCONSISTENT, "jacobian", "temperature"),
        **MODEL,
        note="under a thermostat, which takes the heat away",
    ),
    Case(
        "bad_unit_small",
        crystal("Si"),
        broken(bad.ScaledForces, good.stillinger_weber),
        600,
        ps=1,
        timestep=1,
        checks=checks(INCONSISTENT, "energy"),
        **MODEL,
    ),
    Case(
        "bad_unit_large",
        named("CH3CH2OH"),
        broken(bad.ScaledForces, good.gfn2_xtb, bad.HARTREE_PER_BOHR),
        300,
        checks=checks(INCONSISTENT, COLLAPSE),
        **MODEL,
        **XTB,
    ),
    Case(
        "bad_stress_sign",
        crystal("Cu", 2, 2, 1),
        broken(bad.ScaledStress, good.emt, -1.0),
        300,
        ps=4,
        timestep=4,
        ensemble="npt",
        checks=checks("cell", "drift", "stress_fd"),
        **MODEL,
    ),
    Case(
        "bad_force_noise",
        crystal("Al", 2, 2, 1),
        broken(bad.ForceNoise, good.emt, 0.2),
        300,
        ps=2,
        timestep=2,
        checks=checks(INCONSISTENT, "jacobian"),
        **MODEL,
    ),
    Case(
        "bad_energy_noise",
        crystal("Al", 2, 2, 1),
        broken(bad.EnergyNoise, good.emt, 0.05),
        300,
        ps=2,
        timestep=2,
        checks=checks("forces_fd", "bond_scan", "invariances"),
        **MODEL,
    ),
    Case(
        "bad_slow_heating",
        named("CH3OH"),
        broken(bad.SlowHeating, good.gfn2_xtb, 0.2),
        300,
        checks=checks("drift"),
        **MODEL,
        **XTB,
        note="16 meV/atom/ps, and nothing static to see",
    ),
    Case(
        "bad_stale",
        crystal("Cu", 2, 2, 1),
        broken(bad.StaleResults, good.emt, 0.05),
        300,
        ps=2,
        timestep=4,
        ensemble="nve",
        checks=checks(INCONSISTENT, "jacobian", "temperature"),
        **MODEL,
    ),
    Case(
        "bad_external_field",
        moved(named("H2O"), 4.0),
        broken(bad.ExternalField, good.gfn2_xtb, 0.1),
        300,
        checks=checks("invariances", "relaxation", "temperature", "energy"),
        **MODEL,
        **XTB,
    ),
    Case(
        "bad_float16_molecule",
        moved(named("CH3CH2OH"), 9.0),
        broken(bad.HalfPrecision, good.base_model),
        300,
        timestep=1.0,
        checks=checks(INCONSISTENT, COLLAPSE, STATIC),
        blame="precision",
    ),
    Case(
        "bad_float16_metal",
        moved(crystal("Al", 2, 2, 1), 30.0),
        broken(bad.HalfPrecision, good.emt),
        300,
        ps=2,
        timestep=2,
        ensemble="nve",
        checks=checks(INCONSISTENT, STATIC, "temperature"),
        blame="precision",
    ),
    Case(
        "bad_timestep_molecule",
        named("CH3CH2OH"),
        good.gfn2_xtb,
        300,
        ps=2,
        timestep=3.2,
        checks=checks("drift", COLLAPSE, "isolated_atom"),
        blame="timestep",
        **XTB,
    ),
    Case(
        "bad_timestep_metal",
        crystal("Cu", 2, 2, 1),
        good.emt,
        300,
        ps=10,
        timestep=46.0,
        checks=checks("drift", COLLAPSE, "isolated_atom"),
        blame="timestep",
    ),
    Case(
        "bad_start_molecule",
        lambda: bad.on_top(named("CH4")(), 1, distance=0.1),
        good.gfn2_xtb,
        300,
        checks=checks("contact", "force", "relaxation", "temperature", "energy", "calculator"),
        blame="starting structure",
        **XTB,
    ),
    Case(
        "bad_start_crystal",
        lambda: bad.on_top(argon()(), 5, distance=0.3),
        good.lennard_jones,
        40,
        ps=2,
        timestep=5,
        checks=checks("contact", "force", "relaxation", "temperature", "energy"),
        blame="starting structure",
        options=(("relax_steps", 0),),
    ),
    Case(
        "bad_start_slab",
        lambda: bad.on_top(slab_with_adatom(), 12, distance=0.4),
        good.emt,
        300,
        ps=2,
        timestep=2,
        checks=checks("contact", "force", "relaxation", "temperature", "energy"),
        blame="starting structure",
        options=(("relax_steps", 0),),
    ),
]
