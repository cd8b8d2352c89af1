"""Models that others made, and models of the shapes of foundation models: the same, and how fast?

    python tests/benchmarks/model_speed.py FILE.model ... [--rounds 5] [--dtypes float32 float64]
    python tests/benchmarks/model_speed.py --shapes
    python tests/benchmarks/model_speed.py --forms [FILE.model ...]
    python tests/benchmarks/model_speed.py --readme
    python tests/benchmarks/model_speed.py --memory ours FILE.model    # and: --memory upstream

Results go to `results/model_speed_*.json`, and from there into the README of MD (`--readme`).
Each file is loaded by us and by upstream's `MACECalculator`, on one thread: largest differences of
energy per atom (eV), forces (eV/Å) and, in crystals and boxes, stress (eV/Å³) in float64; seconds
to load; and steps per second of NVE under ASE, ours over upstream's, the median of rounds taken in
turn and its range. The structures have the model's elements: a molecule (ethanol, or water), 72 and
about 300 atoms of its liquid, else a crystal of 64 and 216 atoms with its elements at random.
`--shapes`: random weights in the shape of MACE-MP-0, MPA-0, OMAT, OMOL and MH-1, as far as their
papers and issues tell it; OMOL's with its embeddings of charge and spin. Atoms are a million times
heavier there: forces of random weights blow molecules up, and upstream's neighbour list of a
molecule takes seconds once its atoms have flown apart.
`--forms`: direct forces (a fresh readout on the model) and a committee of four (its weights, each
by another per cent) of the files, or of MP-0's and MPA-0's shapes; the committee beside upstream's.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
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

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[2] / "ase_ws" / "md" / "README.md"
BEGIN, END = "<!-- model_speed.py -->", "<!-- end -->"
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
        "embedding_specs": {
            name: {"type": "categorical", "per": "graph", "emb_dim": 64, **classes}
            for name, classes in (
                ("total_charge", {"num_classes": 201, "offset": 100}),
                ("total_spin", {"num_classes": 101}),
            )
        },
        "use_embedding_readout": True,
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


def compare(source: str, rounds: int, dtypes: list[str]) -> dict[str, Any]:
    """Print what is found, and give it: times to load, differences, ratios."""
    pair = Pair(source)
    name = source if source in SHAPES else Path(source).stem
    form = type(pair.ours("float64").evaluator).__name__
    found: dict[str, Any] = {"name": name, "form": form, "sizes": []}
    try:
        found["load_s"] = pair.loading()
    except Exception as error:  # noqa: BLE001 - whatever it says, the file is not for upstream
        print(f"{name}: {form}; upstream cannot load it ({type(error).__name__}: {error!s:.60})")
        return found
    print(f"{name}: {form}; load {found['load_s'][0]:.2f} s, upstream {found['load_s'][1]:.2f}")
    for (what, atoms), steps in zip(structures(pair.numbers).items(), (20, 3, 1), strict=False):
        if source in SHAPES:
            atoms.set_masses(1e6 * atoms.get_masses())
        row: dict[str, Any] = {"what": what, "differences": differences(pair, atoms), "ratios": {}}
        found["sizes"].append(row)
        print(f"  {what}: differences {', '.join(f'{x:.0e}' for x in row['differences'])}")
        for dtype in dtypes:
            runs = {
                "ours": md(atoms, pair.ours(dtype), steps),
                "upstream": md(atoms, pair.theirs(dtype), steps),
            }
            in_turn(runs, 1)  # upstream's TorchScript is compiled in its first steps
            seconds = in_turn(runs, rounds)
            ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
            row["ratios"][dtype] = statistics.median(ratios), min(ratios), max(ratios)
            ours, theirs = (1e3 * statistics.median(v) for v in seconds.values())
            print(
                f"    {dtype}: {row['ratios'][dtype][0]:.2f} ({min(ratios):.2f} to "
                f"{max(ratios):.2f}), {ours:.1f} ms a step, upstream {theirs:.1f}",
                flush=True,
            )
    return found


def table(results: list[dict[str, Any]]) -> str:
    """Give the results as Markdown."""
    head = ["model", "molecule", "64 or 72 atoms", "216 or 300", "load, s"]
    lines = [f"| {' | '.join(head)} |", "| --- | --- | --- | --- | --- |"]
    for found in results:
        cells = [
            " / ".join(f"{median:.1f}" for median, _, _ in row["ratios"].values())
            for row in found["sizes"]
        ]
        cells += [""] * (3 - len(cells)) if cells else ["not for upstream", "", ""]
        load = " / ".join(f"{seconds:.2f}" for seconds in found.get("load_s", ()))
        lines.append(f"| {' | '.join([found['name'], *cells, load])} |")
    return "\n".join([*lines, f"| median | {' | '.join(medians(results))} | |"])


def medians(results: list[dict[str, Any]]) -> list[str]:
    """Give the median over the models for each size, and the least."""
    out = []
    for rank in range(3):
        rows = [found["sizes"][rank] for found in results if len(found["sizes"]) > rank]
        values = [median for row in rows for median, _, _ in row["ratios"].values()]
        out.append(f"{statistics.median(values):.2f}, least {min(values):.2f}" if values else "")
    return out


def tables() -> str:
    """Give the tables of all results, as they stand between the marks in the README of MD."""
    files, shapes = (
        table(json.loads((RESULTS / f"model_speed_{kind}.json").read_text()))
        for kind in ("files", "shapes")
    )
    return f"{BEGIN}\n{files}\n\n{shapes}\n{END}"


def into_readme() -> None:
    """Write the tables there."""
    text = README.read_text()
    begin, end = text.index(BEGIN), text.index(END) + len(END)
    README.write_text(text[:begin] + tables() + text[end:])


def memory(source: str, whose: str) -> None:
    """Print by how much the largest structure raises the process's peak, over the molecule."""
    pair = Pair(source)
    calculator = pair.ours("float32") if whose == "ours" else pair.theirs("float32")
    small, _, large = structures(pair.numbers).values()
    peaks = []
    for atoms in (small, large):
        atoms.calc = calculator
        atoms.get_forces()
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    print(f"{Path(source).stem}, {whose}: {(peaks[1] - peaks[0]) / len(large):.2f} MB an atom")


def forms(source: str, rounds: int) -> None:
    """Print what direct forces and a committee of four cost, in float32."""
    import tempfile

    from mace.calculators import MACECalculator

    from ase_ws import CommitteeCalculator, PotentialCalculator, load_potential
    from ase_ws.potentials.mace.direct import DirectPotential
    from ase_ws.potentials.mace.model import to_upstream

    base = made(source) if source in SHAPES else load_potential(source)
    members = []
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        member = made(source) if source in SHAPES else load_potential(source)
        with torch.no_grad():
            for weight in member.parameters():
                noise = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
                weight.add_(0.01 * weight * noise)
        members.append(member.requires_grad_(False))
    direct = DirectPotential(base).requires_grad_(False)
    with tempfile.TemporaryDirectory() as folder:
        paths = [f"{folder}/{k}.model" for k in range(4)]
        for member, path in zip(members, paths, strict=True):
            torch.save(to_upstream(member), path)
        theirs = MACECalculator(model_paths=paths, device="cpu", default_dtype="float32")
    calculators = {
        "upstream": Pair(source).theirs("float32"),
        "ours": PotentialCalculator(base.requires_grad_(False), dtype="float32"),
        "direct": PotentialCalculator(direct, dtype="float32"),
        "committee": CommitteeCalculator(members, dtype="float32"),
        "their committee": theirs,
    }
    for what, atoms in list(structures(base.atomic_numbers).items())[:2]:
        atoms.set_masses(1e6 * atoms.get_masses())
        runs = {name: md(atoms, one, 5) for name, one in calculators.items()}
        in_turn(runs, 1)
        seconds = in_turn(runs, rounds)
        for name, other in (
            ("ours", "upstream"),
            ("direct", "ours"),
            ("direct", "upstream"),
            ("committee", "their committee"),
        ):
            ratios = [b / a for a, b in zip(seconds[name], seconds[other], strict=True)]
            print(
                f"{Path(source).stem}, {what}: {name} over {other} {statistics.median(ratios):.2f} "
                f"({min(ratios):.2f} to {max(ratios):.2f})",
                flush=True,
            )


def main() -> None:
    """Run all that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("files", nargs="*")
    parser.add_argument("--shapes", action="store_true")
    parser.add_argument("--forms", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float64"])
    parser.add_argument("--readme", action="store_true", help="only write the tables of README.md")
    parser.add_argument("--memory", choices=["ours", "upstream"], help="one file: its memory")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    if options.memory:
        memory([*options.files, "MP-0"][0], options.memory)
        return
    if options.forms:
        for source in options.files or ["MP-0", "MPA-0"]:
            forms(source, options.rounds)
        return
    for kind, sources in (("files", options.files), ("shapes", SHAPES if options.shapes else [])):
        results = []
        for source in sources:
            results.append(compare(source, options.rounds, options.dtypes))
            (RESULTS / f"model_speed_{kind}.json").write_text(json.dumps(results, indent=1) + "\n")
        if results:
            print(f"{kind}, by size: {'; '.join(medians(results))}")
    if options.readme:
        into_readme()


if __name__ == "__main__":
    main()
