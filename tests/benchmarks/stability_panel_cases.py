"""The cases of the panel: potentials that people use, on structures that people use.

A case's verdict is a person's, from what plain ASE shows without the suite (`stability_panel.py
--nve`), never from what the suite says. A case that has no reason of its own is a material below
its melting point or a bound molecule, by a potential that is meant for it: stable.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ase.calculators.calculator import BaseCalculator
from stability_panel_structures import STRUCTURES

from ase_ws.testing import good

#: The environment variable with the folder of the MACE files: worker processes read it too.
MACE_FILES = "PANEL_MACE_FILES"

#: Time step in fs where it is not 0.5 fs (with H) or 2 fs: a twentieth of the fastest period at
#: most, which is 20 to 32 fs where first-row atoms are bonded, and above 100 fs in the metals.
TIMESTEPS = {
    **dict.fromkeys(("diamond", "graphene", "sic", "pt_co", "quartz", "lifepo4"), 1.0),
    **dict.fromkeys(("cu", "pt", "fe", "cu3au", "argon"), 4.0),
}


@dataclass(frozen=True)
class Potential:
    """What makes a calculator, and what it needs for that.

    Attributes
    ----------
    make : callable
        Gives a fresh calculator.
    needs : str or None
        A module.
    file : str or None
        A file in the folder of MACE files.
    classical : bool
        One of the cheap ones, without a flaw.
    """

    make: Callable[[], BaseCalculator]
    needs: str | None = None
    file: str | None = None
    classical: bool = False

    @property
    def missing(self) -> str | None:
        """Why it cannot be had here, or None."""
        if self.needs and importlib.util.find_spec(self.needs) is None:
            return f"{self.needs} is not installed"
        if self.file and not _mace_file(self.file).is_file():
            return f"{self.file} is not in the folder of --mace-files"
        return None


@dataclass(frozen=True)
class PanelCase:
    """A potential, a structure and a temperature, with the verdict that a person gives.

    Attributes
    ----------
    potential, structure : str
        Keys of `POTENTIALS` and `STRUCTURES`.
    temperature : float, K
    expected : str
        "stable", "unstable" or "inconclusive".
    why : str
        What speaks for it, beyond the figures of `--nve`.
    topology : str
        See `check_stability`.
    shorter : float or None
        A time step in fs that this potential needs, where the masses would bear a longer one.
    """

    potential: str
    structure: str
    temperature: float
    expected: str = "stable"
    why: str = ""
    topology: str = "fixed"
    shorter: float | None = None

    @property
    def name(self) -> str:
        """Potential, structure and temperature."""
        return f"{self.potential}_{self.structure}_{self.temperature:.0f}"

    @property
    def timestep(self) -> float:
        """Time step in fs that suits the masses and the bonds."""
        if self.shorter is not None:
            return self.shorter
        if "H" in STRUCTURES[self.structure]().symbols:
            return 0.5
        return TIMESTEPS.get(self.structure, 2.0)

    @property
    def missing(self) -> str | None:
        """Why it cannot be run here, or None."""
        return POTENTIALS[self.potential].missing


def _chgnet() -> BaseCalculator:
    from chgnet.model.dynamics import CHGNetCalculator

    return CHGNetCalculator(use_device="cpu", verbose=False)


def _sevennet() -> BaseCalculator:
    import torch

    torch.serialization.add_safe_globals([slice])  # its e3nn fails to load its constants without
    from sevenn.calculator import SevenNetCalculator

    return SevenNetCalculator("7net-0", device="cpu")


def _mace_file(name: str) -> Path:
    return Path(os.environ.get(MACE_FILES, "."), name)


def _mace(file: str) -> Potential:
    def make() -> BaseCalculator:
        from ase_ws import PotentialCalculator

        return PotentialCalculator(_mace_file(file))

    return Potential(make, file=file)


POTENTIALS: dict[str, Potential] = {
    "chgnet": Potential(_chgnet, needs="chgnet"),
    "sevennet": Potential(_sevennet, needs="sevenn"),
    "xtb": Potential(good.gfn2_xtb, needs="tblite"),
    "base": Potential(good.base_model),
    "solvents": _mace("solvents_mace01_swa.model"),
    "solvents53": _mace("solvents_mace02_gen1_swa.model"),
    "emim": _mace("emim_bf4_l0_s123.model"),
    "emt": Potential(good.emt, classical=True),
    "tersoff": Potential(good.tersoff, classical=True, needs="matscipy"),
    "sw": Potential(good.stillinger_weber, classical=True, needs="matscipy"),
    "lj": Potential(good.lennard_jones, classical=True),
}


def _each(potential: str, structures: str, *temperatures: float) -> Iterable[PanelCase]:
    for structure in structures.split():
        for temperature in temperatures:
            yield PanelCase(potential, structure, temperature)


def _crystals(potential: str, hot: str) -> Iterable[PanelCase]:
    """What a universal potential is meant for; each below its melting point."""
    yield from _each(potential, "si diamond sic cu pt fe mgo tio2 srtio3 zno quartz al2o3", 300)
    yield from _each(potential, "graphene water_box cu3au si_vacancy licoo2 lifepo4", 300)
    yield from _each(potential, "pt_co cu_o urea", 300)
    yield from _each(potential, hot, 1000)
    yield from _each(potential, "al nacl", 300, 600)  # melt at 933 and 1074 K
    yield from _each(potential, "ice", 200)  # melts at 273 K


def _listed() -> Iterable[PanelCase]:
    hot = "si diamond cu mgo tio2 srtio3 quartz water_box"
    yield from _crystals("chgnet", f"{hot} sic pt fe zno al2o3 graphene")
    yield from _crystals("sevennet", hot)
    yield from _each("xtb", "ethanol benzene malonaldehyde ethylene_carbonate", 300, 1000)
    yield from _each("xtb", "terephthalic glycylglycine alanine_dipeptide", 300, 600)
    yield from _each("xtb", "tma_cl emim_bf4 nacl_pair water_trimer", 300)
    yield from _each("xtb", "water_dimer", 100)
    yield from _each("base", "ethanol malonaldehyde", 300, 1000)
    yield from _each("base", "benzene ethylene_carbonate terephthalic", 300)
    yield from _each("solvents", "ethylene_carbonate", 300, 600)
    yield from _each("solvents", "ethanol", 300)
    yield from _each("solvents53", "ethylene_carbonate", 300, 600)
    yield from _each("emt", "cu pt cu3au", 300, 1000)
    yield from _each("emt", "al", 300, 600)
    yield from _each("tersoff", "si diamond", 300, 1000)
    yield from _each("tersoff", "sic", 300)
    yield from _each("sw", "si", 300, 1000)
    yield from _each("sw", "si_vacancy", 300)
    yield from _each("lj", "argon", 40)  # melts at 84 K


#: Cases that need another verdict, another topology or a word.
SPECIAL = (
    PanelCase(
        "chgnet",
        "water_box",
        300,
        why="borderline: the energy walks, +1.1 meV/atom/ps over 1 ps and +0.7 at half the time "
        "step, where SevenNet has +0.03: 4 K/ps, which a thermostat takes; a warning is due",
    ),
    PanelCase(
        "chgnet",
        "licoo2",
        300,
        why="borderline: the energy walks, as with all structures here, and in this one by most",
    ),
    PanelCase(
        "base",
        "water_dimer",
        100,
        "unstable",
        "trained on single molecules: its minimum lies 0.06 eV above two waters apart, to which "
        "it falls (O-O 6.7 Å after 0.4 ps at 200 K)",
    ),
    PanelCase(
        "solvents",
        "malonaldehyde",
        300,
        "unstable",
        "the proton goes to a carbon within 0.1 ps, 1.5 to 1.9 eV downhill",
    ),
    PanelCase(
        "solvents53",
        "benzene",
        300,
        "unstable",
        "no minimum is planar: the ring puckers, 1.5 eV downhill; in NVE the heat of that lets an "
        "H bridge two carbons, 4 to 5.4 eV downhill in 0.4 ps",
    ),
    *(
        PanelCase(
            "emim",
            "emim_bf4",
            temperature,
            "unstable",
            "relaxation falls without end; bonds grow sevenfold, atoms meet at half their radii",
        )
        for temperature in (300, 600)
    ),
    PanelCase(
        "tersoff",
        "si",
        1000,
        shorter=1.0,
        why="bonds reach the cutoff of 2.7 Å, whose switch is steep: 2 fs lose 1.2 meV/atom/ps",
    ),
    PanelCase(
        "tersoff",
        "sic",
        300,
        shorter=0.25,
        why="second neighbours, 3.08 Å, reach the cutoff of 3.0 Å: at 1 fs +2.8 meV/atom/ps",
    ),
)

CASES: dict[str, PanelCase] = {case.name: case for case in [*_listed(), *SPECIAL]}
