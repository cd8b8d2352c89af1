"""How fast is the stability suite? 96 replicas of ethanol against serial ASE with upstream's model.

    python tests/benchmarks/stability_throughput.py [--rounds 7]
    python tests/benchmarks/stability_throughput.py --whole [--ps 5]

32 replicas at each of 300, 500 and 700 K (Bussi, 0.5 fs, float32, the packaged base model), every
check switched on, in one batch for each core (a process with one thread, as `ase-ws campaign` runs
them), in turn with ASE's Bussi dynamics and upstream's `MACECalculator` on the same weights,
without checks, on one thread and on all. Printed are the median over rounds of the ratio within a
round, and its range, for the better number of threads of upstream; and the share of the time that
goes into looking (snapshots, checks, traces). `--whole` runs the campaign over the full length and
prints its wall time and verdict.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from md_speed import upstream

TEMPERATURES, REPLICAS = (300.0, 500.0, 700.0), 32
#: Bounds: times faster, and part of the MD that the checks may cost.
FASTER, LOOKING = 4.0, 0.05


def relaxed() -> tuple[Any, Any]:
    """Ethanol at rest, and the potential."""
    from ase.build import molecule
    from ase.optimize import BFGS

    from ase_ws import PotentialCalculator, load_potential
    from ase_ws.data import BASE_MODEL

    potential = load_potential(BASE_MODEL).requires_grad_(False)
    atoms = molecule("CH3CH2OH")
    atoms.calc = PotentialCalculator(potential)
    BFGS(atoms, logfile=None).run(fmax=0.05)  # pyright: ignore[reportArgumentType]
    return atoms, potential


def serial(atoms: Any, calculator: Any, steps: int) -> Callable[[], float]:
    """Seconds per step of ASE's Bussi dynamics; the run goes on at every call."""
    import numpy as np
    from ase import units
    from ase.md.bussi import Bussi

    from ase_ws.md import draw_velocities

    atoms = atoms.copy()
    atoms.calc = calculator
    draw_velocities(atoms, 500, np.random.default_rng(0))
    dynamics = Bussi(atoms, 0.5 * units.fs, temperature_K=500, taut=100 * units.fs)
    dynamics.run(5)

    def run() -> float:
        start = time.perf_counter()
        dynamics.run(steps)
        return (time.perf_counter() - start) / steps

    return run


def batch(kelvins: list[float], steps: int) -> float:
    """Run a part of the replicas, in a process of its own; give the share of looking."""
    import torch

    from ase_ws.md import replicas as engine
    from ase_ws.stability.checks.defaults import default_checks

    torch.set_num_threads(1)
    if not _molecule:
        _molecule.append(relaxed()[0])
    look, looking = engine._look, 0.0

    def timed(*arguments: Any) -> Any:
        nonlocal looking
        start = time.perf_counter()
        going_on = look(*arguments)
        looking += time.perf_counter() - start
        return going_on

    engine._look = timed
    try:
        start = time.perf_counter()
        engine.run_replicas(
            _molecule[0], _molecule[0].calc, temperature=kelvins, steps=steps,
            seeds=range(len(kelvins)), thermostat="bussi", observers=default_checks,
        )  # fmt: skip
        return looking / (time.perf_counter() - start - looking)
    finally:
        engine._look = look


#: The relaxed molecule of this process.
_molecule: list[Any] = []


def throughput(rounds: int, *, replicas: int = REPLICAS, steps: int = 60) -> dict[str, float]:
    """Paired rounds; prints and gives the medians."""
    import torch

    atoms, potential = relaxed()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    kelvins = [t for t in TEMPERATURES for _ in range(replicas)]
    parts = [kelvins[k::cores] for k in range(cores)]
    theirs = serial(atoms, upstream(potential), 40)
    ratios, shares = [], []
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        pool.starmap(batch, [(part, 2) for part in parts], chunksize=1)
        for _ in range(rounds):
            start = time.perf_counter()
            shares += pool.starmap(batch, [(part, steps) for part in parts], chunksize=1)
            mine = (time.perf_counter() - start) / steps / len(kelvins)
            others = []
            for number in sorted({1, cores}):
                torch.set_num_threads(number)
                others.append(theirs())
            ratios.append(min(others) / mine)
            told = ", ".join(f"{1e3 * other:.2f}" for other in others)
            print(f"ours {1e3 * mine:.2f}, upstream {told} ms a replica and step", flush=True)
    print(
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})  faster than "
        f"serial ASE with upstream's calculator, {cores} cores  (bound {FASTER:g})\n"
        f"{100 * statistics.median(shares):.1f} % ({100 * min(shares):.1f} to "
        f"{100 * max(shares):.1f})  of the MD: looking, all checks on  (bound {100 * LOOKING:g} %)"
    )
    return {"faster": statistics.median(ratios), "looking": statistics.median(shares)}


def whole(ps: float) -> None:
    """The campaign itself, from start to end."""
    import tempfile

    import yaml
    from ase.io import write

    from ase_ws.data import BASE_MODEL
    from ase_ws.stability.campaign import run_campaign

    with tempfile.TemporaryDirectory() as folder:
        write(f"{folder}/ethanol.xyz", relaxed()[0])
        settings = {
            "models": {"base": str(BASE_MODEL)},
            "structures": {"ethanol": "ethanol.xyz"},
            "temperatures": list(TEMPERATURES),
            "ps": ps,
            "replicas": REPLICAS,
        }
        Path(f"{folder}/campaign.yaml").write_text(yaml.safe_dump(settings))
        start = time.perf_counter()
        summary = run_campaign(f"{folder}/campaign.yaml", f"{folder}/out")
        spent = time.perf_counter() - start
    each = 1e3 * spent / (summary["total_ps"] / 0.0005)
    total = summary["total_ps"]
    print(f"{summary['verdict']}; {spent:.0f} s for {total:.0f} ps, {each:.2f} ms a step")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--ps", type=float, default=5.0)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    if options.whole:
        whole(options.ps)
    else:
        throughput(options.rounds)
