"""Models that others made, and models of the shapes of foundation models: the same, and how fast?

    python tests/benchmarks/model_speed.py FILE.model ... [--rounds 5] [--dtypes float32 float64]
    python tests/benchmarks/model_speed.py --shapes

Each file is loaded by us and by upstream's `MACECalculator`, on one thread: largest differences of
energy per atom (eV), forces (eV/Å) and, in crystals and boxes, stress (eV/Å³) in float64; seconds
to load; and steps per second of NVE under ASE, ours over upstream's, the median of rounds taken in
turn and its range. The structures have the model's elements: a molecule (ethanol, or water), 72 and
about 300 atoms of its liquid, else a crystal of 64 and 216 atoms with its elements at random.
`--shapes`: random weights in the shape of MACE-MP-0, MPA-0, OMAT, OMOL and MH-1.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from md_speed import in_turn, md

AGNOSTIC = "RealAgnostic"
#: Shapes of published models, as their files and papers say; the elements are fewer.
SHAPES: dict[str, dict[str, Any]] = {
    "MP-0": {
        "hidden_irreps": "128x0e+128x1o",
        "correlation": 3,
        "max_ell": 3,
        "num_bessel": 10,
        "r_max": 6.0,
        "interaction_first": "RealAgnosticResidualInteractionBlock",
    },
    "MPA-0": {
        "hidden_irreps": "128x0e+128x1o",
        "correlation": 3,
        "max_ell": 3,
        "num_bessel": 10,
        "r_max": 6.0,
        "distance_transform": "Agnesi",
        "pair_repulsion": True,
        "interaction_first": "RealAgnosticDensityInteractionBlock",
        "interaction": "RealAgnosticDensityResidualInteractionBlock",
    },
    "OMOL": {
        "hidden_irreps": "512x0e+512x1o",
        "edge_irreps": "128x0e+128x1o",
        "correlation": 3,
        "max_ell": 3,
        "num_bessel": 8,
        "r_max": 6.0,
        "apply_cutoff": False,
        "use_agnostic_product": True,
        "interaction_first": "RealAgnosticResidualNonLinearInteractionBlock",
        "interaction": "RealAgnosticResidualNonLinearInteractionBlock",
        "readout": "NonLinearBiasReadoutBlock",
        "use_last_readout_only": True,
    },
    "MH-1": {
        "hidden_irreps": "512x0e+512x1o",
        "edge_irreps": "128x0e+128x1o+128x2e+128x3o",
        "correlation": 3,
        "max_ell": 3,
        "num_bessel": 8,
        "r_max": 6.0,
        "apply_cutoff": False,
        "pair_repulsion": True,
        "use_agnostic_product": True,
        "distance_transform": "Agnesi",
        "interaction_first": "RealAgnosticResidualNonLinearInteractionBlock",
        "interaction": "RealAgnosticResidualNonLinearInteractionBlock",
        "readout": "NonLinearBiasReadoutBlock",
        "heads": ("matpes_r2scan", "mp_pbe", "omol"),
        "scale": (1.0, 1.0, 1.0),
        "shift": (0.0, 0.0, 0.0),
        "use_last_readout_only": True,
    },
}
SHAPES["OMAT"] = {**SHAPES["MPA-0"], "num_bessel": 8}


def liquid(name: str, side: int, volume: float, n: int) -> Any:
    """Give `n` molecules on a grid of side³ in a periodic box, `volume` Å³ for each place."""
    from ase import Atoms
    from ase.build import molecule

    rng, length = np.random.default_rng(0), volume ** (1 / 3)
    out = Atoms(cell=[side * length] * 3, pbc=True)
    for place in list(np.ndindex(side, side, side))[:n]:
        tries = [turned(out, molecule(name), (np.array(place) + 0.5) * length, rng)]
        while tries[-1][0] < 1.6 and len(tries) < 300:
            tries.append(turned(out, molecule(name), (np.array(place) + 0.5) * length, rng))
        out += max(tries, key=lambda one: one[0])[1]
    return out


def turned(others: Any, one: Any, place: Any, rng: Any) -> tuple[float, Any]:
    """Put a molecule there, turned at random; its closest contact comes first."""
    from ase.geometry import get_distances

    one.rotate(360 * rng.random(), rng.normal(size=3), center="COM")
    one.translate(place - one.get_center_of_mass())
    if not len(others):
        return np.inf, one
    _, far = get_distances(one.positions, others.positions, cell=others.cell, pbc=True)
    return float(far.min()), one


def structures(numbers: tuple[int, ...]) -> dict[str, Any]:
    """Structures of these elements, by name."""
    from ase.build import bulk, molecule

    if {1, 6, 8} <= set(numbers):
        small = {"ethanol": molecule("CH3CH2OH")}
        return {
            **small,
            "8 ethanols": liquid("CH3CH2OH", 2, 97.0, 8),
            "33 ethanols": liquid("CH3CH2OH", 4, 97.0 * 33 / 64, 33),
        }
    if {1, 8} <= set(numbers):
        return {
            "water": molecule("H2O"),
            "24 waters": liquid("H2O", 3, 30.0 * 24 / 27, 24),
            "100 waters": liquid("H2O", 5, 30.0 * 100 / 125, 100),
        }
    out = {}
    for repeats in (2, 3):
        crystal = bulk("Si", cubic=True) * (repeats, repeats, repeats)
        crystal.numbers = np.random.default_rng(0).choice(numbers, len(crystal))
        crystal.rattle(0.05, seed=0)
        out[f"crystal of {len(crystal)}"] = crystal
    return out


def made(name: str, numbers: tuple[int, ...] = (1, 6, 8)) -> Any:
    """Give a model of that shape with random weights."""
    from ase_ws.potentials.mace.architecture import MACEArchitecture
    from ase_ws.potentials.mace.model import build_mace

    settings = {"avg_num_neighbors": 30.0, "atomic_numbers": numbers, **SHAPES[name]}
    heads = settings.get("heads", ("Default",))
    e0 = [[-10.0 * z for z in numbers]] * len(heads)
    return build_mace(MACEArchitecture(dtype="float64", **settings), e0, head=heads[0])


class Pair:
    """A model as both programs have it."""

    def __init__(self, source: str):
        self.source = source
        self.numbers = self.ours("float64").potential.atomic_numbers

    def ours(self, dtype: str) -> Any:
        """Our calculator."""
        from ase_ws import PotentialCalculator

        if self.source in SHAPES:
            return PotentialCalculator(made(self.source), dtype=dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return PotentialCalculator(self.source, dtype=dtype)

    def theirs(self, dtype: str) -> Any:
        """Upstream's."""
        from mace.calculators import MACECalculator

        from ase_ws.potentials.mace.model import to_upstream

        if self.source in SHAPES:
            potential = made(self.source)
            model, head = to_upstream(potential), potential.head
            return MACECalculator(models=[model], device="cpu", default_dtype=dtype, head=head)
        return MACECalculator(model_paths=self.source, device="cpu", default_dtype=dtype)

    def loading(self) -> tuple[float, float]:
        """Seconds to load, ours and upstream's, the second time."""
        found = []
        for load in (self.ours, self.theirs):
            load("float32")
            start = time.process_time()
            load("float32")
            found.append(time.process_time() - start)
        return found[0], found[1]


def differences(pair: Pair, atoms: Any) -> tuple[float, float, float]:
    """Largest difference of energy per atom, forces and stress, in float64."""
    both = []
    for calculator in (pair.ours("float64"), pair.theirs("float64")):
        moved = atoms.copy()
        moved.rattle(0.05, seed=1)
        moved.calc = calculator
        stress = moved.get_stress() if moved.pbc.all() else np.zeros(6)
        both.append((moved.get_potential_energy() / len(moved), moved.get_forces(), stress))
    return tuple(float(np.abs(a - b).max()) for a, b in zip(*both, strict=True))  # pyright: ignore[reportReturnType]


def compare(source: str, rounds: int, dtypes: list[str]) -> dict[tuple[str, int], float]:
    """Print what is found; give the median ratios by precision and size."""
    pair = Pair(source)
    name = Path(source).name
    try:
        loading = "load {:.2f} s, upstream {:.2f}".format(*pair.loading())
    except Exception as error:  # noqa: BLE001 - whatever it says, the file is not for upstream
        print(f"{name}: upstream cannot load it ({type(error).__name__}: {error!s:.60})")
        return {}
    print(f"{name}: {loading}; {type(pair.ours('float64').evaluator).__name__}")
    found = {}
    for rank, (what, atoms) in enumerate(structures(pair.numbers).items()):
        energy, forces, stress = differences(pair, atoms)
        print(f"  {what}, {len(atoms)} atoms: differences {energy:.0e}, {forces:.0e}, {stress:.0e}")
        for dtype in dtypes:
            steps = (20, 3, 1)[rank]
            runs = {
                "ours": md(atoms, pair.ours(dtype), steps),
                "upstream": md(atoms, pair.theirs(dtype), steps),
            }
            in_turn(runs, 1)  # upstream's TorchScript is compiled in its first steps
            seconds = in_turn(runs, rounds)
            ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
            ours, theirs = (1e3 * statistics.median(v) for v in seconds.values())
            found[dtype, rank] = statistics.median(ratios)
            print(
                f"    {dtype}: {found[dtype, rank]:.2f} ({min(ratios):.2f} to {max(ratios):.2f}), "
                f"{ours:.1f} ms a step, upstream {theirs:.1f}",
                flush=True,
            )
    return found


def main() -> None:
    """Run all that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("files", nargs="*")
    parser.add_argument("--shapes", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float64"])
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    sources = [*options.files, *(SHAPES if options.shapes else [])]
    results = [compare(source, options.rounds, options.dtypes) for source in sources]
    for rank, what in enumerate(("molecule", "about 70 atoms", "about 300 atoms")):
        values = [v for found in results for (_, size), v in found.items() if size == rank]
        if values:
            print(
                f"{what}: median {statistics.median(values):.2f}, "
                f"least {min(values):.2f}, of {len(values)}"
            )


if __name__ == "__main__":
    main()
