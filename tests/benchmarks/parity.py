"""Training beside `mace_run_train`: the same data, steps, batches, seeds and architecture.

    python tests/benchmarks/parity.py [--sets ethanol silicon] [--steps 400 2000] [--seeds 1 2 3]
    python tests/benchmarks/parity.py --table

Both programs run as a user runs them, each with its own defaults; upstream with what its README
recommends (EMA 0.99, amsgrad, energies and forces 1 to 100). 32x0e+32x1o, two layers, 4.5 Å,
batches of 5, one thread, float32, from scratch. Ethanol: 200 + 50 frames of rMD17, 500 to test;
silicon: 194 + 20 frames of mlearn, its 25 test frames. The models are read and tested by
`ase-ws evaluate`. Steps are upstream's whole epochs. A killed run goes on: results are in
`results/parity.json`. Needs ../shared/data.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

RESULTS = Path(__file__).parent / "results" / "parity.json"
BATCH = 5
UPSTREAM = {
    "name": "m",
    "E0s": "average",
    "model": "MACE",
    "hidden_irreps": "32x0e + 32x1o",
    "r_max": 4.5,
    "max_ell": 2,
    "correlation": 2,
    "num_interactions": 2,
    "num_radial_basis": 8,
    "MLP_irreps": "16x0e",
    "batch_size": BATCH,
    "valid_batch_size": 10,
    "ema_decay": 0.99,
    "default_dtype": "float32",
    "device": "cpu",
    "energy_key": "REF_energy",
    "forces_key": "REF_forces",
    "num_workers": 0,
}


def write_sets(name: str, folder: Path) -> dict[str, Path]:
    """Write training, validation and test frames, with labels under names of their own."""
    import ase.io
    import numpy as np
    from shared_data import SHARED

    def read(path: str, index: str = ":") -> list[Any]:
        frames: Any = ase.io.read(SHARED / path, index)
        return frames

    if name == "silicon":
        frames = read("mlearn/Si_train.xyz")
        order = np.random.default_rng(0).permutation(len(frames))
        frames = [frames[k] for k in order]
        parts = frames[20:], frames[:20], read("mlearn/Si_test.xyz")
    else:
        frames = read("rmd17/ethanol_train.xyz", ":250")
        parts = frames[:200], frames[200:], read("rmd17/ethanol_test.xyz", ":500")
    paths = {}
    for part, atoms_list in zip(("train", "valid", "test"), parts, strict=True):
        out = []
        for atoms in atoms_list:
            new = atoms.copy()
            new.info = {"REF_energy": atoms.get_potential_energy()}
            new.arrays["REF_forces"] = atoms.get_forces()
            out.append(new)
        paths[part] = folder / f"{part}.xyz"
        ase.io.write(paths[part], out)
    return paths


def run(command: list[str], folder: Path) -> float:
    """Run a program of this environment on one thread; give its seconds."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    program = str(Path(sys.executable).parent / command[0])
    start = time.perf_counter()
    done = subprocess.run(
        [program, *command[1:]],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{command[0]}: {done.stderr[-2000:]}")
    return time.perf_counter() - start


def upstream(paths: dict[str, Path], steps: int, seed: int, folder: Path) -> tuple[float, Path]:
    """Train with `mace_run_train`."""
    n_train = paths["train"].read_text().count("Lattice") or 200
    options = {
        **UPSTREAM,
        "train_file": paths["train"],
        "valid_file": paths["valid"],
        "max_num_epochs": steps // (n_train // BATCH),
        "eval_interval": max(1, steps // (n_train // BATCH) // 10),
        "seed": seed,
        "work_dir": folder,
    }
    given = [f"--{key}={value}" for key, value in options.items()]
    return run(["mace_run_train", *given, "--ema", "--amsgrad"], folder), folder / "m.model"


def ours(paths: dict[str, Path], steps: int, seed: int, folder: Path) -> tuple[float, Path]:
    """Train with `ase-ws finetune`."""
    command = ["ase-ws", "finetune", "--train", paths["train"], "--valid", paths["valid"]]
    command += ["--energy-key", "REF_energy", "--max-steps", steps, "--seed", seed]
    command += ["--set", "model.r_max=4.5", "--set", f"optimizer.batch_size={BATCH}"]
    command += ["--threads", 1, "--quiet", "--out", folder / "run"]
    seconds = run([str(part) for part in command], folder)
    return seconds, folder / "run" / "model.safetensors"


def errors(model: Path, test: Path, folder: Path) -> tuple[float, float]:
    """Energy (meV/atom) and force (meV/Å) RMSE on the test frames."""
    out = folder / "errors.json"
    options = ["--energy-key", "REF_energy", "--dtype", "float64", "--quiet", "--json", str(out)]
    run(["ase-ws", "evaluate", str(model), str(test), *options], folder)
    found = json.loads(out.read_text())
    return found["energy_rmse_mev_per_atom"], found["forces_rmse_mev_per_angstrom"]


def table(results: dict[str, list[float]]) -> str:
    """Give means over seeds, and the ratio of ours to upstream's."""
    lines = []
    for case in sorted({key.rsplit("/", 2)[0] for key in results}):
        mean = {}
        for program in ("ours", "upstream"):
            rows = [v for k, v in results.items() if k.startswith(f"{case}/{program}/")]
            if rows:
                mean[program] = [statistics.mean(column) for column in zip(*rows, strict=True)]
                values = "; ".join(
                    f"{m:.3g} ({min(column):.3g} to {max(column):.3g})"
                    for m, column in zip(mean[program], zip(*rows, strict=True), strict=True)
                )
                lines.append(f"{case} {program}, {len(rows)} seeds: meV/atom, meV/Å, s: {values}")
        if len(mean) == 2:
            ratios = [a / b for a, b in zip(*mean.values(), strict=True)]
            lines.append(f"{case} ours / upstream: {', '.join(f'{r:.2f}' for r in ratios)}")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sets", nargs="+", default=["ethanol", "silicon"])
    parser.add_argument("--steps", nargs="+", type=int, default=[400, 2000])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--table", action="store_true", help="only print what is there")
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if options.table:
        print(table(results))
        return
    for steps in options.steps:
        for name in options.sets:
            for seed in options.seeds:
                with tempfile.TemporaryDirectory() as temporary:
                    paths = write_sets(name, Path(temporary))
                    per_epoch = (194 if name == "silicon" else 200) // BATCH
                    whole = steps // per_epoch * per_epoch
                    for program in (ours, upstream):
                        key = f"{name}, {steps} steps/{program.__name__}/{seed}"
                        if key in results:
                            continue
                        folder = Path(temporary) / program.__name__
                        folder.mkdir()
                        seconds, model = program(paths, whole, seed, folder)
                        results[key] = [*errors(model, paths["test"], folder), seconds]
                        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
                        print(key, [round(x, 2) for x in results[key]], flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
