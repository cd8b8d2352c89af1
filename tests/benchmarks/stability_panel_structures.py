"""The structures of the panel of real potentials: what people run MD of, small, built with ASE.

Lattice constants are experimental, at room temperature unless said otherwise: R. W. G. Wyckoff,
Crystal Structures (1963); LiFePO4 Streltsov et al., Acta Cryst. B 49, 147 (1993); LiCoO2
Orman and Wiseman, Acta Cryst. C 40, 12 (1984); quartz Levien et al., Am. Mineral. 65, 920 (1980);
rutile Abrahams and Bernstein, J. Chem. Phys. 55, 3206 (1971); corundum Newnham and de Haan,
Z. Krist. 117, 235 (1962); ice XI Leadbetter et al., J. Chem. Phys. 82, 424 (1985); urea
Swaminathan et al., Acta Cryst. B 40, 300 (1984). The molecules that ASE lacks were relaxed with
GFN2-xTB (forces below 0.02 eV/Å); their coordinates are rounded to 0.01 Å.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, graphene, make_supercell, molecule
from ase.constraints import FixAtoms
from ase.spacegroup import crystal
from stability_case import malonaldehyde, water_trimer


def primitive(symbol: str, a: float) -> Callable[[], Atoms]:
    """Give 2 x 2 x 2 primitive cells of an element."""
    return lambda: bulk(symbol, a=a) * (2, 2, 2)


def cubic(formula: str, structure: str, a: float) -> Callable[[], Atoms]:
    """Give one cubic cell of a compound."""
    return lambda: bulk(formula, structure, a=a, cubic=True)


def vacancy() -> Atoms:
    """Silicon, 16 sites, one of them empty."""
    atoms = bulk("Si", a=5.431, cubic=True) * (2, 1, 1)
    del atoms[0]
    return atoms


def cu3au() -> Atoms:
    """L1_2, two cells."""
    sites = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
    return Atoms("AuCu3", scaled_positions=sites, cell=[3.75] * 3, pbc=True) * (2, 1, 1)


def rutile() -> Atoms:
    """TiO2, two cells along c."""
    cell = [4.594, 4.594, 2.959, 90, 90, 90]
    sites = [(0, 0, 0), (0.305, 0.305, 0)]
    return crystal(["Ti", "O"], sites, spacegroup=136, cellpar=cell) * (1, 1, 2)


def perovskite() -> Atoms:
    """SrTiO3 in its cubic phase, the cell of sqrt(2) x sqrt(2) x 1."""
    sites = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    one = Atoms("SrTiO3", scaled_positions=sites, cell=[3.905] * 3, pbc=True)
    return make_supercell(one, [[1, 1, 0], [-1, 1, 0], [0, 0, 1]])


def wurtzite() -> Atoms:
    """ZnO, two cells by two in the plane."""
    return bulk("ZnO", "wurtzite", a=3.25, c=5.207, u=0.382) * (2, 2, 1)


def quartz() -> Atoms:
    """Low quartz (SiO2)."""
    cell = [4.916, 4.916, 5.405, 90, 90, 120]
    sites = [(0.4697, 0, 1 / 3), (0.4135, 0.2669, 0.2144)]
    return crystal(["Si", "O"], sites, spacegroup=152, cellpar=cell)


def corundum() -> Atoms:
    """Al2O3, the rhombohedral cell of ten atoms."""
    cell = [4.763, 4.763, 13.003, 90, 90, 120]
    sites = [(0, 0, 0.352), (0.306, 0, 0.25)]
    return crystal(["Al", "O"], sites, spacegroup=167, cellpar=cell, primitive_cell=True)


def olivine() -> Atoms:
    """LiFePO4, Pnma."""
    sites = [
        (0, 0, 0),
        (0.2822, 0.25, 0.9747),
        (0.0949, 0.25, 0.4182),
        (0.0968, 0.25, 0.7428),
        (0.4571, 0.25, 0.2060),
        (0.1656, 0.0465, 0.2848),
    ]
    symbols = ["Li", "Fe", "P", "O", "O", "O"]
    cell = [10.332, 6.010, 4.692, 90, 90, 90]
    return crystal(symbols, sites, spacegroup=62, cellpar=cell)


def layered() -> Atoms:
    """LiCoO2, the hexagonal cell of twelve atoms."""
    sites = [(0, 0, 0.5), (0, 0, 0), (0, 0, 0.2605)]
    cell = [2.816, 2.816, 14.05, 90, 90, 120]
    return crystal(["Li", "Co", "O"], sites, spacegroup=166, cellpar=cell)


def sheet() -> Atoms:
    """Graphene, 8 atoms, 12 Å to the next."""
    sheet = graphene(a=2.46, size=(2, 2, 1), vacuum=6.0)
    sheet.pbc = True
    return sheet


def slab(symbol: str, a: float, adsorbate: str, height: float, site: str) -> Callable[[], Atoms]:
    """Give three layers of fcc(111), 2 x 2, the lowest fixed, with an adsorbate."""

    def make() -> Atoms:
        atoms = fcc111(symbol, (2, 2, 3), a=a, vacuum=6.0)
        what = Atoms("CO", [[0, 0, 0], [0, 0, 1.15]]) if adsorbate == "CO" else adsorbate
        add_adsorbate(atoms, what, height, site)
        atoms.center(6.0, axis=2)
        atoms.set_constraint(FixAtoms(indices=[a.index for a in atoms if a.tag == 3]))
        atoms.pbc = True
        return atoms

    return make


def ice() -> Atoms:
    """Ice XI, the ordered form of common ice, at 5 K: eight waters."""
    sites = [
        (0, 0.6648, 0.0631),
        (0.5, 0.8255, -0.0631),
        (0, 0.6636, 0.1963),
        (0, 0.5363, 0.0183),
        (0.6766, -0.2252, -0.0183),
    ]
    cell = [4.465, 7.858, 7.292, 90, 90, 90]
    return crystal(["O", "O", "H", "H", "H"], sites, spacegroup=36, cellpar=cell)


def urea() -> Atoms:
    """Crystal of urea at 12 K: two molecules."""
    sites = [
        (0, 0.5, 0.3260),
        (0, 0.5, 0.5953),
        (0.1459, 0.6459, 0.1766),
        (0.2575, 0.7575, 0.2827),
        (0.1441, 0.6441, -0.0380),
    ]
    cell = [5.565, 5.565, 4.684, 90, 90, 90]
    return crystal(["C", "O", "N", "H", "H"], sites, spacegroup=113, cellpar=cell)


def boxed(make: Callable[[], Atoms], side: float = 10.0) -> Callable[[], Atoms]:
    """Give a molecule in a periodic box."""

    def make_boxed() -> Atoms:
        atoms = make()
        atoms.set_cell([side] * 3)
        atoms.center()
        atoms.pbc = True
        return atoms

    return make_boxed


def water_dimer() -> Atoms:
    """Two waters, one hydrogen bond of 1.95 Å."""
    return Atoms(
        "OHHOHH",
        [
            [0.00, 0.00, 0.00],
            [0.96, 0.00, 0.00],
            [-0.24, 0.93, 0.00],
            [2.91, 0.00, 0.00],
            [3.25, -0.50, 0.76],
            [3.25, -0.50, -0.76],
        ],
    )


def argon() -> Atoms:
    """Solid argon at 4 K, 32 atoms."""
    return bulk("Ar", a=5.31, cubic=True) * (2, 2, 2)


def terephthalic() -> Atoms:
    """Terephthalic acid, the linker of many metal-organic frameworks."""
    return Atoms(
        "OCOC7O2H6",
        [
            [-3.50, 0.61, 0.52],
            [-2.83, -0.46, 0.07],
            [-3.40, -1.48, -0.26],
            [-1.37, -0.26, 0.02],
            [-0.57, -1.32, -0.43],
            [0.80, -1.17, -0.50],
            [1.39, 0.03, -0.11],
            [0.60, 1.08, 0.35],
            [-0.78, 0.94, 0.41],
            [2.86, 0.14, -0.19],
            [3.59, -0.74, -0.57],
            [3.33, 1.33, 0.21],
            [-4.46, 0.42, 0.53],
            [-1.06, -2.24, -0.73],
            [1.43, -1.98, -0.84],
            [1.07, 2.01, 0.65],
            [-1.40, 1.75, 0.76],
            [4.30, 1.34, 0.13],
        ],
    )


def glycylglycine() -> Atoms:
    """The smallest peptide."""
    return Atoms(
        "NC2ONC2O2H8",
        [
            [-2.36, 0.82, -0.65],
            [-1.96, -0.56, -0.90],
            [-0.76, -0.96, -0.05],
            [-0.49, -2.12, 0.20],
            [-0.05, 0.09, 0.41],
            [1.22, -0.08, 1.06],
            [2.34, 0.49, 0.22],
            [2.20, 1.08, -0.81],
            [3.53, 0.28, 0.79],
            [-2.80, 0.89, 0.26],
            [-3.04, 1.12, -1.34],
            [-2.75, -1.30, -0.74],
            [-1.64, -0.63, -1.95],
            [-0.29, 1.00, 0.03],
            [1.37, -1.16, 1.19],
            [1.24, 0.40, 2.04],
            [4.24, 0.65, 0.24],
        ],
    )


def alanine_dipeptide() -> Atoms:
    """N-acetylalanine-N-methylamide, the textbook's peptide."""
    return Atoms(
        "C2ONC3ONCH12",
        [
            [-2.93, 0.37, 0.89],
            [-1.65, -0.35, 0.56],
            [-1.16, -1.21, 1.27],
            [-1.08, 0.04, -0.60],
            [0.19, -0.49, -1.07],
            [0.33, -0.29, -2.57],
            [1.33, 0.22, -0.31],
            [1.98, 1.12, -0.79],
            [1.50, -0.27, 0.93],
            [2.45, 0.29, 1.87],
            [-3.61, 0.37, 0.04],
            [-3.41, -0.12, 1.74],
            [-2.71, 1.40, 1.16],
            [-1.46, 0.82, -1.10],
            [0.21, -1.56, -0.82],
            [0.39, 0.78, -2.79],
            [-0.52, -0.72, -3.09],
            [1.24, -0.75, -2.92],
            [0.82, -0.94, 1.29],
            [3.00, 1.07, 1.35],
            [3.14, -0.48, 2.21],
            [1.94, 0.71, 2.73],
        ],
    )


def ethylene_carbonate() -> Atoms:
    """A solvent of batteries."""
    return Atoms(
        "OCOC2OH4",
        [
            [2.66, -0.33, -0.09],
            [1.49, -0.19, -0.05],
            [0.87, 1.01, -0.11],
            [-0.54, 0.84, -0.04],
            [-0.72, -0.69, 0.08],
            [0.60, -1.19, 0.06],
            [-0.99, 1.25, -0.95],
            [-0.91, 1.38, 0.83],
            [-1.27, -1.11, -0.76],
            [-1.20, -0.98, 1.02],
        ],
    )


def emim_bf4() -> Atoms:
    """Ion pair: 1-ethyl-3-methylimidazolium and tetrafluoroborate."""
    return Atoms(
        "C2NC2NC2H11BF4",
        [
            [-2.88, -0.29, -0.29],
            [-1.88, 0.37, -1.23],
            [-0.55, -0.14, -1.02],
            [-0.17, -1.45, -1.13],
            [1.14, -1.52, -0.81],
            [1.56, -0.26, -0.51],
            [2.87, 0.10, -0.06],
            [0.52, 0.55, -0.64],
            [-2.56, -0.15, 0.74],
            [-3.86, 0.17, -0.42],
            [-2.97, -1.36, -0.49],
            [-1.85, 1.44, -1.02],
            [-2.16, 0.21, -2.27],
            [-0.86, -2.22, -1.42],
            [1.80, -2.37, -0.76],
            [2.83, 1.07, 0.42],
            [3.21, -0.63, 0.68],
            [3.57, 0.12, -0.90],
            [0.52, 1.60, -0.41],
            [0.34, 0.95, 2.35],
            [0.17, 1.18, 3.68],
            [0.82, -0.34, 2.10],
            [1.25, 1.85, 1.79],
            [-0.86, 1.10, 1.65],
        ],
    )


def tma_cl() -> Atoms:
    """Ion pair: tetramethylammonium and chloride, neutral as a whole."""
    return Atoms(
        "CNC3H12Cl",
        [
            [1.21, -1.13, 0.29],
            [0.15, -0.14, 0.04],
            [-0.79, -0.65, -0.97],
            [-0.59, 0.14, 1.27],
            [0.73, 1.12, -0.46],
            [0.77, -2.06, 0.65],
            [1.76, -1.34, -0.63],
            [1.91, -0.75, 1.03],
            [-1.27, -1.56, -0.62],
            [-1.56, 0.14, -1.11],
            [-0.28, -0.84, -1.91],
            [-1.06, -0.76, 1.65],
            [0.08, 0.55, 2.03],
            [-1.36, 0.89, 1.02],
            [1.27, 0.94, -1.39],
            [1.42, 1.53, 0.28],
            [-0.10, 1.81, -0.63],
            [-2.28, 2.13, -0.54],
        ],
    )


STRUCTURES: dict[str, Callable[[], Atoms]] = {
    "si": cubic("Si", "diamond", 5.431),
    "diamond": cubic("C", "diamond", 3.567),
    "sic": cubic("SiC", "zincblende", 4.360),
    "si_vacancy": vacancy,
    "graphene": sheet,
    "cu": primitive("Cu", 3.615),
    "al": primitive("Al", 4.050),
    "pt": primitive("Pt", 3.924),
    "fe": primitive("Fe", 2.866),
    "cu3au": cu3au,
    "nacl": cubic("NaCl", "rocksalt", 5.640),
    "mgo": cubic("MgO", "rocksalt", 4.212),
    "tio2": rutile,
    "srtio3": perovskite,
    "zno": wurtzite,
    "quartz": quartz,
    "al2o3": corundum,
    "lifepo4": olivine,
    "licoo2": layered,
    "pt_co": slab("Pt", 3.924, "CO", 1.85, "ontop"),
    "cu_o": slab("Cu", 3.615, "O", 1.15, "fcc"),
    "argon": argon,
    "ice": ice,
    "urea": urea,
    "water_box": boxed(lambda: molecule("H2O"), 8.0),
    "water_dimer": water_dimer,
    "water_trimer": water_trimer,
    "ethanol": lambda: molecule("CH3CH2OH"),
    "benzene": lambda: molecule("C6H6"),
    "malonaldehyde": malonaldehyde,
    "nacl_pair": lambda: Atoms("NaCl", [[0.0, 0.0, 0.0], [2.36, 0.0, 0.0]]),
    "terephthalic": terephthalic,
    "glycylglycine": glycylglycine,
    "alanine_dipeptide": alanine_dipeptide,
    "ethylene_carbonate": ethylene_carbonate,
    "tma_cl": tma_cl,
    "emim_bf4": emim_bf4,
}


def nearest(atoms: Atoms) -> tuple[float, str]:
    """Give the shortest distance in Å and whose it is."""
    from ase.neighborlist import neighbor_list

    first, second, length = neighbor_list("ijd", atoms, 5.0)
    if not len(length):
        return np.inf, ""
    k = int(np.argmin(length))
    return float(length[k]), "-".join(sorted({atoms[first[k]].symbol, atoms[second[k]].symbol}))
