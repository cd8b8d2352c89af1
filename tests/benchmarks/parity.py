"""Training beside `mace_run_train`: the same data, steps, batches, seeds and architecture.

    python tests/benchmarks/parity.py [--sets ethanol silicon] [--steps 400 2000] [--seeds 1 2 3]
    python tests/benchmarks/parity.py --table

Both programs run as a user runs them, each with its own defaults; upstream with what its README
recommends (EMA 0.99, amsgrad, energies and forces 1 to 100). 32x0e+32x1o, two layers, 4.5 Å,
batches of 5, one thread, float32, from scratch. Ethanol: 200 + 50 frames of rMD17, 500 to test;
silicon: 194 + 20 frames of mlearn, its 25 test frames; "stress": the same with their stresses,
which stand in the original files (`--mlearn DIR` with Si/training.json and Si/test.json of
github.com/materialsvirtuallab/mlearn), upstream with `--loss=stress`; "base": ethanol from the
packaged base model, exported for upstream, or from `--base FILE`. The models are read and tested by
`ase-ws evaluate`. Steps are upstream's whole epochs. Memory is the largest resident set. A killed
run goes on: results are in `results/parity.json`. Needs ../shared/data.
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


def with_stress(path: Path) -> list[Any]:
    """Read frames of mlearn with their stresses: kbar, compression positive, in VASP's order."""
    import numpy as np
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    found = []
    for entry in json.loads(path.read_text()):
        sites, outputs = entry["structure"]["sites"], entry["outputs"]
        atoms = Atoms(
            [site["label"] for site in sites],
            positions=[site["xyz"] for site in sites],
            cell=entry["structure"]["lattice"]["matrix"],
            pbc=True,
        )
        atoms.calc = SinglePointCalculator(
            atoms,
            energy=outputs["energy"],
            forces=np.array(outputs["forces"]),
            stress=-np.array(outputs["virial_stress"])[[0, 1, 2, 4, 5, 3]] / 1602.1766,
        )
        found.append(atoms)
    return found


def write_sets(name: str, folder: Path, mlearn: Path) -> dict[str, Path]:
    """Write training, validation and test frames, with labels under names of their own."""
    import ase.io
    import numpy as np
    from shared_data import SHARED

    def read(path: str, index: str = ":") -> list[Any]:
        frames: Any = ase.io.read(SHARED / path, index)
        return frames

    if name in ("silicon", "stress"):
        stress = name == "stress"
        frames = with_stress(mlearn / "training.json") if stress else read("mlearn/Si_train.xyz")
        order = np.random.default_rng(0).permutation(len(frames))
        frames = [frames[k] for k in order]
        test = with_stress(mlearn / "test.json") if stress else read("mlearn/Si_test.xyz")
        parts = frames[20:], frames[:20], test
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
            if name == "stress":
                new.info["REF_stress"] = atoms.get_stress(voigt=False).ravel()
            out.append(new)
        paths[part] = folder / f"{part}.xyz"
        ase.io.write(paths[part], out)
    return paths


def run(command: list[str], folder: Path) -> tuple[float, float]:
    """Run a program of this environment on one thread; give its seconds and largest memory, MB."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    program = str(Path(sys.executable).parent / command[0])
    start = time.perf_counter()
    with (folder / "log").open("w+") as log:
        process = subprocess.Popen(
            [program, *command[1:]], cwd=folder, env=environment, stdout=log, stderr=log
        )
        _, status, usage = os.wait4(process.pid, 0)
        log.seek(0)
        if status:
            raise SystemExit(f"{command[0]}: {log.read()[-2000:]}")
    return time.perf_counter() - start, usage.ru_maxrss / 1e3


def base_model() -> str:
    """Path of the base model: that of `--base`, else the packaged one."""
    from ase_ws.data import BASE_MODEL

    return os.environ.get("PARITY_BASE", str(BASE_MODEL))


Trained = tuple[tuple[float, float], Path]


def upstream(name: str, paths: dict[str, Path], steps: int, seed: int, folder: Path) -> Trained:
    """Train with `mace_run_train`; give seconds, MB and the model."""
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
    if name == "stress":
        options |= {"loss": "stress", "compute_stress": True, "stress_key": "REF_stress"}
    if name == "base":
        run(["ase-ws", "export", base_model(), str(folder / "base.model")], folder)
        options |= {"foundation_model": folder / "base.model", "multiheads_finetuning": False}
    given = [f"--{key}={value}" for key, value in options.items()]
    return run(["mace_run_train", *given, "--ema", "--amsgrad"], folder), folder / "m.model"


def ours(name: str, paths: dict[str, Path], steps: int, seed: int, folder: Path) -> Trained:
    """Train with `ase-ws finetune`; give seconds, MB and the model."""
    command = ["ase-ws", "finetune", "--train", paths["train"], "--valid", paths["valid"]]
    command += ["--energy-key", "REF_energy", "--max-steps", steps, "--seed", seed]
    command += ["--set", "model.r_max=4.5", "--set", f"optimizer.batch_size={BATCH}"]
    command += ["--threads", 1, "--quiet", "--out", folder / "run"]
    if name == "base":
        command += ["--model", base_model()]
    return run([str(part) for part in command], folder), folder / "run" / "model.safetensors"


def errors(model: Path, test: Path, folder: Path) -> list[float]:
    """RMSE on the test frames: energy (meV/atom), forces (meV/Å), stress (meV/Å³) if labelled."""
    out = folder / "errors.json"
    options = ["--energy-key", "REF_energy", "--dtype", "float64", "--quiet", "--json", str(out)]
    run(["ase-ws", "evaluate", str(model), str(test), *options], folder)
    found = json.loads(out.read_text())
    names = ("energy_rmse_mev_per_atom", "forces_rmse_mev_per_angstrom")
    stress = found.get("stress_rmse_mev_per_angstrom3")
    return [*(found[name] for name in names), *([] if stress is None else [stress])]


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
                units = f"meV/atom, meV/Å, {'meV/Å³, ' if 'stress' in case else ''}s, MB"
                lines.append(f"{case} {program}, {len(rows)} seeds: {units}: {values}")
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
    parser.add_argument("--mlearn", type=Path, default=Path())
    parser.add_argument("--table", action="store_true", help="only print what is there")
    parser.add_argument("--base", type=Path)
    options = parser.parse_args()
    if options.base is not None:
        os.environ["PARITY_BASE"] = str(options.base.resolve())
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if options.table:
        print(table(results))
        return
    for steps in options.steps:
        for name in options.sets:
            for seed in options.seeds:
                with tempfile.TemporaryDirectory() as temporary:
                    paths = write_sets(name, Path(temporary), options.mlearn)
                    per_epoch = (194 if name in ("silicon", "stress") else 200) // BATCH
                    whole = steps // per_epoch * per_epoch
                    for program in (ours, upstream):
                        case = name if options.base is None else f"{name} {options.base.stem}"
                        key = f"{case}, {steps} steps/{program.__name__}/{seed}"
                        if key in results:
                            continue
                        folder = Path(temporary) / program.__name__
                        folder.mkdir()
                        used, model = program(name, paths, whole, seed, folder)
                        results[key] = [*errors(model, paths["test"], folder), *used]
                        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
                        print(key, [round(x, 2) for x in results[key]], flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
