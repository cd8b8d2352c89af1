"""What a model forgets of other molecules when it learns one of another level, and what helps.

    python tests/benchmarks/forgetting.py [--seeds 1 2 3] [--methods NAME ...]
    python tests/benchmarks/forgetting.py --table

The packaged base model (GFN2-xTB, 24 molecules) is tuned on 50 CCSD(T) energies of methanol.
Tested: methanol (CCSD(T), 64 frames), and 300 frames of the 23 other molecules, against GFN2-xTB:
what the model was, and goes on to be where nothing new was learned (a head of its own for replayed
frames answers for them). Replayed are 200 other frames
of these 23. One thread. A killed run goes on: results are in `results/forgetting.json`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "forgetting.json"
ADAM: dict[str, Any] = {"optimizer": {"kind": "adam"}}


def methods(replay: Path) -> dict[str, dict[str, Any]]:
    """Give the settings of each way to tune."""
    base = {"train": str(replay)}
    own = {**base, "labels": "file"}
    return {
        "closed form": {"optimizer": {"kind": "gauss-newton"}},
        "closed form, replay": {"optimizer": {"kind": "gauss-newton"}, "replay": base},
        "Adam": ADAM,
        "Adam, replay": {**ADAM, "replay": base},
        "Adam, replay, weight 0.1": {**ADAM, "replay": {**base, "weight": 0.1}},
        "Adam, replay, weight 0.01": {**ADAM, "replay": {**base, "weight": 0.01}},
        "Adam, replay with labels": {**ADAM, "replay": own},
        "Adam, replay with labels, a head of its own": {**ADAM, "replay": {**own, "head": "gfn2"}},
        "Adam, readouts alone": {**ADAM, "model": {"freeze": ["[!r]*"]}},
        "Adam, first layer frozen": {
            **ADAM,
            "model": {"freeze": ["node_embedding", "interactions.0", "products.0"]},
        },
        "Adam, LoRA of rank 4": {**ADAM, "model": {"lora_rank": 4}},
        "Adam, LoRA of rank 4, replay": {**ADAM, "model": {"lora_rank": 4}, "replay": base},
    }


def sets() -> tuple[list[Any], list[Any], list[Any], list[Any]]:
    """Give training and test frames of methanol, and replayed and tested frames of others."""
    import ase.io

    from ase_ws.data import METHANOL_TEST, METHANOL_TRAIN, SMALL_CHO_GFN2

    def read(path: Path) -> list[Any]:
        frames: Any = ase.io.read(path, ":")
        return frames

    others = [a for a in read(SMALL_CHO_GFN2) if a.info["molecule"] != "CH3OH"]
    return read(METHANOL_TRAIN), read(METHANOL_TEST), others[:200], others[-300:]


def errors(potential: Any, atoms: list[Any]) -> tuple[float, float]:
    """Energy (meV/atom, a constant for each element fitted) and force RMSE (meV/Å)."""
    import numpy as np

    from ase_ws.frames import composition, fit_reference_energies, read_frames
    from ase_ws.training import evaluate_potential

    found = evaluate_potential(potential, read_frames(atoms))
    numbers = [frame.numbers for frame in found.frames]
    missing = found.energy_ref - found.energy_pred
    shift = fit_reference_energies(numbers, missing, potential.atomic_numbers)
    counts = composition(numbers, potential.atomic_numbers)
    rest = (missing - counts @ shift) / counts.sum(axis=1)
    forces = found.metrics["forces_rmse_mev_per_angstrom"]
    return 1e3 * float(np.sqrt(np.mean(rest**2))), forces


def run(name: str, seed: int) -> list[float]:
    """Tune and test; give errors on methanol, on others, and seconds."""
    import ase.io
    import numpy as np

    from ase_ws.data import BASE_MODEL
    from ase_ws.potentials.files import load_potential
    from ase_ws.training import finetune

    train, test, replayed, others = sets()
    order = np.random.default_rng(seed).permutation(len(train))
    with tempfile.TemporaryDirectory() as folder:
        replay = Path(folder) / "replay.xyz"
        ase.io.write(replay, replayed)
        if name == "base model":
            potential: Any = load_potential(BASE_MODEL)
            seconds = 0.0
        else:
            config = {**methods(replay)[name], "seed": seed, "threads": 1}
            start = time.perf_counter()
            result = finetune(
                [train[k] for k in order[:50]],
                [train[k] for k in order[50:60]],
                model=BASE_MODEL,
                config=config,
                out=Path(folder) / "run",
            )
            potential, seconds = result.potential, time.perf_counter() - start
        known = potential.of_head("gfn2") if "gfn2" in potential.heads else potential
        return [*errors(potential, test), *errors(known, others), seconds]


def table(results: dict[str, list[float]]) -> str:
    """Give a row for each method, means over seeds and their range."""
    lines = [
        "| | methanol: meV/atom | meV/Å | 23 others: meV/atom | meV/Å | seconds |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in dict.fromkeys(key.rsplit("/", 1)[0] for key in results):
        rows = [v for k, v in results.items() if k.startswith(f"{name}/")]
        cells = [
            f"{statistics.mean(column):.3g}"
            + (f" ({min(column):.3g}–{max(column):.3g})" if 0 < k < 4 and len(rows) > 1 else "")
            for k, column in enumerate(zip(*rows, strict=True))
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--methods", nargs="+", default=["base model", *methods(Path("-"))])
    parser.add_argument("--table", action="store_true", help="only print what is there")
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    torch.set_num_threads(1)
    for seed in () if options.table else options.seeds:
        for name in options.methods:
            key = f"{name}/{seed}"
            if key not in results:
                results[key] = run(name, seed)
                RESULTS.write_text(json.dumps(results, indent=1) + "\n")
                print(key, [round(x, 2) for x in results[key]], flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
