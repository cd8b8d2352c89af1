"""Good cases: whatever the suite finds here is a false alarm."""

from __future__ import annotations

from functools import partial

from stability_case import (
    Case,
    argon,
    argon_gas,
    cluster,
    crystal,
    malonaldehyde,
    named,
    silicon_surface,
    slab_with_adatom,
    water_trimer,
    zundel,
)

from ase_ws.testing import good

XTB = {"calculator": good.gfn2_xtb, "needs": "tblite"}

GOOD = [
    # Metals, EMT.
    Case("good_cu_nvt", crystal("Cu", 2, 2, 1), good.emt, 300, ps=2, timestep=4),
    Case("good_cu_nve", crystal("Cu", 2, 2, 1), good.emt, 600, ps=2, timestep=4, ensemble="nve"),
    Case("good_cu_npt", crystal("Cu", 2, 2, 1), good.emt, 300, ps=3, timestep=4, ensemble="npt"),
    Case("good_au_hot", crystal("Au", 2, 2, 1), good.emt, 1200, ps=2, timestep=4),
    Case(
        "good_adatom",
        slab_with_adatom,
        good.emt,
        600,
        ps=2,
        timestep=2,
        note="an adatom diffuses over a slab whose lowest layer is fixed",
    ),
    Case(
        "good_cu13",
        cluster("Cu", 3.61),
        good.emt,
        800,
        ps=2,
        timestep=2,
        note="a cluster that changes its shape",
    ),
    # Argon, Lennard-Jones.
    Case("good_ar13", cluster("Ar", 5.26), good.lennard_jones, 20, ps=4, timestep=10),
    Case("good_ar_nve", argon(), good.lennard_jones, 40, ps=4, timestep=8, ensemble="nve"),
    Case(
        "good_ar_liquid",
        argon(5.8),
        good.lennard_jones,
        140,
        ps=4,
        timestep=8,
        note="a hot liquid, melted on the way",
    ),
    Case(
        "good_ar_liquid_npt",
        argon(5.6),
        good.lennard_jones,
        90,
        ps=4,
        timestep=8,
        ensemble="npt",
        options=(("pressure", 500.0),),
    ),
    Case("good_ar_gas", argon_gas, good.lennard_jones, 300, ps=4, timestep=5, note="atoms alone"),
    # Silicon and carbides.
    Case("good_si_nvt", crystal("Si"), good.stillinger_weber, 300, ps=1, timestep=1, replicas=2),
    Case("good_si_nve", crystal("Si"), good.tersoff, 1000, ps=2, timestep=1, ensemble="nve"),
    Case(
        "good_si_melt",
        crystal("Si", 2, 2, 1),
        good.stillinger_weber,
        3000,
        ps=2,
        timestep=2,
        note="melts",
    ),
    Case(
        "good_si_melt_npt",
        crystal("Si", 2, 2, 1),
        good.stillinger_weber,
        2500,
        ps=2,
        timestep=2,
        ensemble="npt",
        note="melts and shrinks",
    ),
    Case(
        "good_si_surface",
        silicon_surface,
        good.stillinger_weber,
        600,
        ps=1,
        timestep=1,
        note="dimers form",
    ),
    Case("good_diamond", crystal("C"), good.tersoff, 2000, ps=1, timestep=0.5),
    # Molecules.
    Case("good_n2", named("N2"), good.morse, 500, ps=2, timestep=0.5, ensemble="nve", replicas=2),
    Case("good_water", named("H2O"), temperature=300, ps=1, ensemble="nve", replicas=2, **XTB),
    Case("good_co2", named("CO2"), temperature=500, ps=1, note="linear", **XTB),
    Case("good_ethanol", named("CH3CH2OH"), temperature=300, ps=1, replicas=2, **XTB),
    Case(
        "good_ethanol_hot",
        named("CH3CH2OH"),
        temperature=1000,
        ps=1,
        replicas=2,
        note="X-H stretches at 1,000 K",
        **XTB,
    ),
    Case(
        "good_methyl_rotation",
        named("C2H6"),
        temperature=800,
        ps=2,
        note="methyl groups turn",
        **XTB,
    ),
    Case(
        "good_malonaldehyde",
        malonaldehyde,
        temperature=800,
        ps=2,
        replicas=2,
        note="a proton hops between two oxygens",
        **XTB,
    ),
    Case(
        "good_zundel",
        zundel,
        partial(good.gfn2_xtb, charge=1),
        500,
        ps=1,
        replicas=2,
        needs="tblite",
        note="a shared proton",
    ),
    Case("good_water_trimer", water_trimer, temperature=200, ps=1, note="hydrogen bonds", **XTB),
    Case("good_base_methanol", named("CH3OH"), good.base_model, 300, ps=1, timestep=1.0),
    Case(
        "good_base_nve",
        named("H2O"),
        good.base_model,
        500,
        ps=1,
        timestep=0.5,
        ensemble="nve",
    ),
]
