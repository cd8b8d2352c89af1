"""How fast is MD? Ours against upstream's `MACECalculator`, on the same weights in one process.

    python tests/benchmarks/md_speed.py [--rounds 9] [--no-compile]
    python tests/benchmarks/md_speed.py --drift
    python tests/benchmarks/md_speed.py --memory [--steps 100000]

One thread, float32, velocity Verlet at 0.5 fs under ASE, no observers. Ethanol and aspirin with the
packaged base model (32x0e+32x1o, two layers, 5 Å), silicon with random weights of the same size
(4.5 Å); the direct-force model is the base model with a fresh readout. All are run in turn, round
after round; printed are the median over rounds of the ratio within a round, and its range (far from
the origin: the ratio of the medians of 60 short turns).
`--drift`: slope of E + K in NVE of ethanol from 300 K, float32 and float64. `--memory`: growth of
the process over a long run. Aspirin needs the rMD17 frames in ../shared/data.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

#: Steps of a round, so that it takes about half a second.
STEPS = {"ethanol": 30, "aspirin": 20, "Si64": 8, "Si512": 1}
#: name: bound on the ratio of steps per second to upstream's
BOUNDS = {"ethanol": 1.5, "aspirin": 1.25, "Si64": 1.1, "Si512": 1.0}
Seconds = Callable[[], float]


def structures() -> dict[str, Any]:
    """Structures by name."""
    import ase.io
    from ase import Atoms
    from ase.build import bulk, molecule
    from shared_data import SHARED

    out = {"ethanol": molecule("CH3CH2OH")}
    aspirin = SHARED / "rmd17" / "aspirin_train.xyz"
    if aspirin.exists():
        frame = ase.io.read(aspirin, 0)
        assert isinstance(frame, Atoms)
        out["aspirin"] = Atoms(frame.numbers, frame.positions)
    silicon = bulk("Si", cubic=True)
    return {**out, "Si64": silicon * (2, 2, 2), "Si512": silicon * (4, 4, 4)}


def potential_for(name: str) -> Any:
    """Give the model for a structure."""
    from ase_ws import load_potential
    from ase_ws.data import BASE_MODEL
    from ase_ws.potentials.mace.architecture import MACEArchitecture
    from ase_ws.potentials.mace.model import build_mace

    if name.startswith("Si"):
        settings = MACEArchitecture(atomic_numbers=(14,), r_max=4.5, avg_num_neighbors=16.0)
        return build_mace(settings, [-1.0]).requires_grad_(False)
    return load_potential(BASE_MODEL).requires_grad_(False)


def upstream(potential: Any) -> Any:
    """Upstream's calculator on the same weights."""
    from mace.calculators import MACECalculator

    from ase_ws.potentials.mace.model import to_upstream

    return MACECalculator(models=[to_upstream(potential)], device="cpu", default_dtype="float32")


def md(atoms: Any, calculator: Any, steps: int) -> Seconds:
    """A run that goes on at every call; gives seconds per step."""
    import numpy as np
    from ase import units
    from ase.md.verlet import VelocityVerlet

    from ase_ws.md import draw_velocities

    atoms = atoms.copy()
    atoms.calc = calculator
    draw_velocities(atoms, 300, np.random.default_rng(0))
    dynamics = VelocityVerlet(atoms, 0.5 * units.fs)
    dynamics.run(2)

    def run() -> float:
        start = time.perf_counter()
        dynamics.run(steps)
        return (time.perf_counter() - start) / steps

    return run


def calls(potential: Any, atoms: Any, steps: int) -> tuple[Seconds, Seconds]:
    """Seconds of `get_forces` at new positions, and of the model call alone at the same place."""
    import numpy as np

    from ase_ws import PotentialCalculator

    atoms = atoms.copy()
    # As in MD at room temperature: the same pairs are within the cutoff for both.
    atoms.rattle(0.05, seed=0)
    atoms.calc = calculator = PotentialCalculator(potential)
    atoms.get_forces()
    batch = calculator.graph(atoms)
    nudge = 1e-4 * np.random.default_rng(0).normal(size=atoms.positions.shape)

    def whole() -> float:
        start = time.perf_counter()
        for k in range(steps):
            atoms.positions += nudge if k % 2 else -nudge
            atoms.get_forces()
        return (time.perf_counter() - start) / steps

    def bare() -> float:
        start = time.perf_counter()
        for _ in range(steps):
            calculator.evaluate(batch)
        return (time.perf_counter() - start) / steps

    return whole, bare


def replicas(atoms: Any, potential: Any, n: int = 64, steps: int = 20) -> Seconds:
    """Seconds per replica and step, every check of the stability suite switched on."""
    from ase_ws.md import run_replicas
    from ase_ws.stability.checks.defaults import default_checks

    def run() -> float:
        start = time.perf_counter()
        run_replicas(
            atoms, potential, temperature=300, steps=steps, seeds=range(n), observers=default_checks
        )
        return (time.perf_counter() - start) / steps / n

    return run


def far_from_the_origin(atoms: Any, potential: Any, kind: Any, rounds: int = 60) -> float:
    """Ratio of the median seconds per step, five steps here and five there in turn."""
    far = atoms.copy()
    far.positions += 100.0
    runs = {"far": md(far, kind(potential), 5), "near": md(atoms, kind(potential), 5)}
    found = in_turn(runs, rounds if kind is not upstream else 2)
    return statistics.median(found["far"]) / statistics.median(found["near"])


def in_turn(runs: dict[str, Seconds], rounds: int) -> dict[str, list[float]]:
    """Seconds of every case in every round."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            found[name].append(run())
    return found


def line(what: str, ratios: list[float], bound: str = "") -> None:
    """Print a ratio."""
    low, high = min(ratios), max(ratios)
    print(f"  {statistics.median(ratios):7.2f} ({low:.2f} to {high:.2f})  {what}{bound}")


def speed(rounds: int, compiled: bool) -> None:
    """Print all ratios."""
    from ase_ws import PotentialCalculator
    from ase_ws.potentials.mace.direct import DirectPotential

    for name, atoms in structures().items():
        potential, steps = potential_for(name), STEPS[name]
        whole, bare = calls(potential, atoms, steps)
        runs = {
            "ours": md(atoms, PotentialCalculator(potential), steps),
            "upstream": md(atoms, upstream(potential), steps),
            "call": whole,
            "bare": bare,
        }
        if name == "ethanol":
            direct = DirectPotential(potential_for(name)).requires_grad_(False)
            runs["direct"] = md(atoms, PotentialCalculator(direct), steps)
            runs["replicas"] = replicas(atoms, potential)
            if compiled:
                start = time.perf_counter()
                runs["compiled"] = md(atoms, PotentialCalculator(potential, compile=True), steps)
                print(f"compiling took {time.perf_counter() - start:.0f} s")
        found = in_turn(runs, rounds if name != "Si512" else max(3, rounds // 3))
        ours, theirs = found["ours"], found["upstream"]
        milliseconds = ", ".join(f"{k} {1e3 * statistics.median(v):.2f}" for k, v in found.items())
        print(f"\n{name}, {len(atoms)} atoms; ms a step: {milliseconds}")
        bound = f"  (bound {BOUNDS[name]:g})"
        line("steps per second, ours / upstream", _over(theirs, ours), bound)
        for case, limit in (("compiled", 2.5), ("direct", 2.0), ("replicas", 5.0)):
            if case in found:
                label = f"steps per second, {case} / upstream"
                line(label, _over(theirs, found[case]), f"  (bound {limit:g})")
        if name == "ethanol":
            for label, kind in (("ours", PotentialCalculator), ("upstream", upstream)):
                ratio = far_from_the_origin(atoms, potential, kind)
                print(f"  {ratio:7.2f}  cost 100 Å from the origin / at it, {label}  (bound 1.05)")
        overhead = [a - b for a, b in zip(found["call"], found["bare"], strict=True)]
        share = [o / b for o, b in zip(overhead, found["bare"], strict=True)]
        print(
            f"  {1e3 * statistics.median(overhead):7.2f} ms  "
            f"the calculator beyond the bare model call: {100 * statistics.median(share):.0f} %  "
            "(bound 0.7 ms, or 10 % from 64 atoms)"
        )


def _over(a: list[float], b: list[float]) -> list[float]:
    return [x / y for x, y in zip(a, b, strict=True)]


def drift(ps: float = 10.0) -> None:
    """Print the slope of E + K."""
    import numpy as np

    from ase_ws import PotentialCalculator
    from ase_ws.md import run_md

    for dtype in ("float32", "float64"):
        slopes = []
        for seed in range(3):
            result = run_md(
                relaxed_ethanol(),
                PotentialCalculator(potential_for("ethanol"), dtype=dtype),
                ensemble="nve",
                temperature=300,
                steps=round(ps / 0.0005),
                seed=seed,
                interval=10,
            )
            time_ps = result.traces["time_fs"] / 1000
            conserved = 1000 * result.traces["conserved_ev_per_atom"]
            slopes.append(float(np.polyfit(time_ps, conserved, 1)[0]))
        print(f"{dtype}: drift {', '.join(f'{s:.5f}' for s in slopes)} meV/atom/ps over {ps:g} ps")


def relaxed_ethanol() -> Any:
    """Ethanol at a minimum of the model."""
    from ase.optimize import BFGS

    from ase_ws import PotentialCalculator

    atoms = structures()["ethanol"]
    atoms.calc = PotentialCalculator(potential_for("ethanol"), dtype="float64")
    with BFGS(atoms, logfile=None) as optimiser:  # pyright: ignore[reportArgumentType]
        optimiser.run(fmax=0.01, steps=200)
    return atoms


def memory(steps: int) -> None:
    """Print how the process grows."""
    from ase import units
    from ase.md.langevin import Langevin

    from ase_ws import PotentialCalculator

    atoms = relaxed_ethanol()
    atoms.calc = PotentialCalculator(potential_for("ethanol"))
    dynamics = Langevin(atoms, 0.5 * units.fs, temperature_K=300, friction=0.01 / units.fs)
    for tenth in range(11):
        if tenth:
            dynamics.run(steps // 10)
        print(f"{tenth * (steps // 10):8d} steps  {resident():8.1f} MB", flush=True)


def resident() -> float:
    """Memory that the process holds, MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(entry.split()[1]) for entry in lines if entry.startswith("VmRSS")) / 1024


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--drift", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--steps", type=int, default=100_000)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    import torch

    torch.set_num_threads(1)
    if arguments.drift:
        drift()
    elif arguments.memory:
        memory(arguments.steps)
    else:
        speed(arguments.rounds, not arguments.no_compile)
