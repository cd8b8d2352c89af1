"""The blind test: cases made after the thresholds were fixed, without reading the checks.

Nothing was tuned on them. That the good ones are sound and the bad ones are not was found out
without the suite: by plain NVE runs, or from the size of the fault.
"""

from __future__ import annotations

from functools import partial

from ase import Atoms
from ase.build import bulk, graphene, molecule
from ase.calculators.calculator import BaseCalculator
from stability_case import Case, crystal, named, water_trimer

from ase_ws.testing import bad, good

BLIND = {"after_thresholds": True}
XTB = {"needs": "tblite"}


def graphene_sheet() -> Atoms:
    """Give 18 atoms at Tersoff's own lattice constant, periodic in the plane only."""
    return graphene("CC", a=2.53, size=(3, 3, 1), vacuum=8.0)


def alloy_with_vacancy() -> Atoms:
    """Ordered Cu3Au, 2 x 2 x 2 cells, without one of its copper atoms."""
    cell = bulk("Au", cubic=True, a=3.75)
    cell.symbols[1:] = "Cu"
    alloy = cell * (2, 2, 2)
    del alloy[5]
    return alloy


def acetate() -> Atoms:
    """CH3COO-: acetic acid without its proton."""
    acid = molecule("CH3COOH")
    proton = next(atom.index for atom in acid if atom.symbol == "H")
    del acid[proton]
    return acid


def deuterated_methanol() -> Atoms:
    """CD3OD in a periodic box with 5 Å of vacuum on each side."""
    atoms = molecule("CH3OH")
    masses = atoms.get_masses()
    masses[atoms.numbers == 1] = 2.014
    atoms.set_masses(masses)
    atoms.center(vacuum=5.0)
    atoms.pbc = True
    return atoms


def carbon_dioxide_and_hydrogen() -> Atoms:
    """CO2 and, 3.2 Å beside it, H2: hydrogens that have no heavy atom."""
    hydrogen = molecule("H2")
    hydrogen.positions += [3.2, 0.0, 0.0]
    return molecule("CO2") + hydrogen


def counted_twice() -> Atoms:
    """Silicon with the atom at 0 written a second time at 0.995: 0.03 Å through the boundary."""
    cell = bulk("Si", cubic=True)
    return cell + Atoms("Si", scaled_positions=[[0.995, 0.0, 0.0]], cell=cell.cell)


def dropout_left_on() -> BaseCalculator:
    """Give energies and forces that are both drawn anew at each call."""
    noisy_energy = bad.EnergyNoise(good.gfn2_xtb(), 0.02, seed=1)
    return bad.ForceNoise(noisy_energy, 0.1, seed=2)


BLIND_GOOD = [
    Case(
        "good_blind2_graphene",
        graphene_sheet,
        good.tersoff,
        500,
        ps=2,
        timestep=1,
        ensemble="nve",
        note="a sheet that ripples; NVE at 1 fs: 0.02 meV/atom/ps",
        **BLIND,
    ),
    Case(
        "good_blind2_alloy_vacancy",
        alloy_with_vacancy,
        good.emt,
        800,
        ps=4,
        timestep=4,
        ensemble="npt",
        note="a vacancy in a hot alloy; NVE at 4 fs: 0.004 meV/atom/ps",
        **BLIND,
    ),
    Case(
        "good_blind2_acetate",
        acetate,
        partial(good.gfn2_xtb, charge=-1),
        400,
        ps=1,
        replicas=2,
        note="an anion; NVE at 0.5 fs: -0.02 meV/atom/ps",
        **BLIND,
        **XTB,
    ),
    Case(
        "good_blind2_deuterated",
        deuterated_methanol,
        good.base_model,
        300,
        ps=1,
        replicas=2,
        timestep=1.0,
        note="heavy hydrogen, hence 1 fs, in a periodic box; NVE: 0.04 meV/atom/ps",
        **BLIND,
    ),
    Case(
        "good_blind2_hydrogen_gas",
        carbon_dioxide_and_hydrogen,
        good.gfn2_xtb,
        400,
        ps=2,
        ensemble="nve",
        note="two molecules that part, one of them H2; NVE at 0.5 fs: -0.01 meV/atom/ps",
        **BLIND,
        **XTB,
    ),
]

BLIND_BAD = [
    Case(
        "bad_blind2_hole_waters",
        water_trimer,
        lambda: bad.Hole(good.gfn2_xtb(), 2.7, 400.0, elements=("O", "O")),
        400,
        ps=2,
        checks=frozenset({"contact_scan", "contact"}),
        blame="model",
        note="behind a hydrogen bond: two waters meet 30 meV, then fall by tens of eV",
        **BLIND,
        **XTB,
    ),
    Case(
        "bad_blind2_dropout",
        named("CH3CN"),
        dropout_left_on,
        300,
        checks=frozenset({"work", "repeatable"}),
        blame="model",
        note="a network left in training mode; NVE wanders by tens of meV/atom in 1 ps",
        **BLIND,
        **XTB,
    ),
    Case(
        "bad_blind2_stress_twice",
        crystal("Ag", 2, 2, 1),
        lambda: bad.ScaledStress(good.emt(), 2.0),
        300,
        ps=4,
        timestep=5,
        ensemble="npt",
        options=(("pressure", 20000.0),),
        checks=frozenset({"stress_work"}),
        blame="model",
        note="each pair counted twice in the virial: it compresses by half of what it should",
        **BLIND,
    ),
    Case(
        "bad_blind2_timestep_2fs",
        named("CH3OH"),
        good.gfn2_xtb,
        500,
        ps=1,
        timestep=2.0,
        checks=frozenset({"drift", "fluctuation", "energy", "temperature", "bond"}),
        blame="timestep",
        note="2 fs is for constrained X-H bonds; NVE at 500 K explodes",
        **BLIND,
        **XTB,
    ),
    Case(
        "bad_blind2_start_boundary",
        counted_twice,
        good.stillinger_weber,
        300,
        ps=1,
        timestep=1,
        checks=frozenset({"contact", "relaxation"}),
        blame="starting structure",
        note="an atom on the boundary written twice, as in many a converted file",
        **BLIND,
    ),
]
