"""What a training step costs: ours against upstream's, and what each weak loss adds.

    python tests/benchmarks/step_cost.py [--molecule ethanol] [--rounds 15] [--device cpu]

One process, one thread, float32, batches of 5, MACE 32x0e+32x1o (two layers, 5 Å), energies and
forces. All cases are run in turn, round after round; printed are the median time and, for the
ratios, the median and range over rounds of the ratio within a round, so that a machine that slows
down for a while slows both sides. Memory is how far one step of a batch of 150 rises above what the
process held before (Linux only), each case in a process of its own. Needs the rMD17 frames in
../shared/data.
"""

from __future__ import annotations

import argparse
import contextlib
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

sys.path.insert(0, str(Path(__file__).parent.parent))

BATCH = 5
EPSILON = 0.05
CLIP = 10.0
Step = Callable[[], None]


class Setting:
    """Frames, models and batches that the cases have in common."""

    def __init__(self, molecule: str, forces: str, device: str, n_frames: int = 40):
        import torch
        from shared_data import SHARED

        from ase_ws.frames import read_frames
        from ase_ws.training.config import FinetuneConfig
        from ase_ws.training.start import new_potential

        self.device = torch.device(device)
        self.frames = read_frames(f"{SHARED / 'rmd17' / f'{molecule}_train.xyz'}@:{n_frames}")
        model = {"forces": forces}
        self.order = 2 if forces == "direct" else 1
        self.potential, self.base = (
            new_potential(FinetuneConfig(model=model, seed=seed), self.frames, {}).to(self.device)  # pyright: ignore[reportArgumentType]
            for seed in (0, 1)
        )
        self.base.requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.potential.parameters(), lr=1e-5, amsgrad=True)

    def batch(self, n: int = BATCH, skin: float = 2 * 3**0.5 * EPSILON) -> Any:
        """The first `n` frames, ready on the device."""
        import torch

        from ase_ws.graphs import collate

        cutoff = self.potential.r_max + skin
        graphs = [f.graph(cutoff, k) for k, f in enumerate(self.frames[:n])]
        return collate(graphs).to(self.device, torch.float32)

    def step(self, terms: list[Any], batch: Any, potential: Any = None) -> Step:
        """A whole optimiser step on a batch that is already there."""
        import torch

        from ase_ws.losses import TotalLoss

        loss, generator = TotalLoss(terms), torch.Generator().manual_seed(0)
        potential = potential or self.potential

        def run() -> None:
            self.optimizer.zero_grad(set_to_none=True)
            loss(potential, batch, generator=generator).total.backward()
            torch.nn.utils.clip_grad_norm_(self.potential.parameters(), CLIP)
            self.optimizer.step()

        return run

    def terms(self, *names: str, reference: Any = None, pool: int = 0) -> list[Any]:
        """Supervised terms, and the weak ones that are named."""
        from ase_ws.losses import (
            EnergyLoss,
            ForcesLoss,
            GradientLoss,
            PISCLoss,
            PITCLoss,
            WeightedTerm,
        )

        weak = {"epsilon": EPSILON, "order": self.order, "reference": reference, "pool": pool}
        known = {
            "energy": WeightedTerm("energy", 10.0, EnergyLoss()),
            "forces": WeightedTerm("forces", 1.0, ForcesLoss()),
            "pitc": WeightedTerm("pitc", 0.01, PITCLoss(**weak)),
            "pisc": WeightedTerm("pisc", 0.01, PISCLoss(**weak)),
            "gradient": WeightedTerm("gradient", 0.6, GradientLoss(at_labels=0.75)),
        }
        return [known[name] for name in names]


class Leaky:
    """A potential that refuses to keep edges: every displaced copy gets a list of its own."""

    skin_safe = False

    def __init__(self, potential: Any):
        self._potential = potential

    def __getattr__(self, name: str) -> Any:
        return getattr(self._potential, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._potential(*args, **kwargs)


@contextlib.contextmanager
def one_at_a_time() -> Any:
    """Let every displaced copy be a call of its own."""
    import ase_ws.losses.copies as module

    before, module.JOINED_ATOMS = module.JOINED_ATOMS, 1
    try:
        yield
    finally:
        module.JOINED_ATOMS = before


def separately(step: Step) -> Step:
    """The same step with every displaced copy evaluated alone."""

    def run() -> None:
        with one_at_a_time():
            step()

    return run


def upstream_step(setting: Setting) -> Step:
    """What `mace_run_train` does in a step (`take_step`), on the same weights and frames."""
    import torch
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    from ase_ws.potentials.mace.model import to_upstream

    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    from mace import data, modules, tools
    from mace.tools import torch_geometric
    from mace.tools.train import take_step

    torch.set_default_dtype(torch.float32)
    model = to_upstream(setting.potential).to(setting.device).float()
    table = tools.AtomicNumberTable(list(setting.potential.atomic_numbers))
    items = []
    for frame in setting.frames[:BATCH]:
        atoms = Atoms(frame.numbers, frame.positions)
        atoms.calc = SinglePointCalculator(atoms, energy=frame.energy, forces=frame.forces)
        atoms.info["REF_energy"], atoms.arrays["REF_forces"] = frame.energy, frame.forces
        keys = data.KeySpecification(
            info_keys={"energy": "REF_energy"}, arrays_keys={"forces": "REF_forces"}
        )
        config = data.config_from_atoms(atoms, key_specification=keys)
        items.append(data.AtomicData.from_config(config, table, setting.potential.r_max))
    batch = next(iter(torch_geometric.dataloader.DataLoader(items, batch_size=BATCH)))
    loss = modules.WeightedEnergyForcesLoss(energy_weight=10.0, forces_weight=100.0).to(
        setting.device
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, amsgrad=True)
    output = {"forces": True, "virials": False, "stress": False}

    def run() -> None:
        take_step(model, loss, batch, optimizer, None, output, CLIP, setting.device)

    return run


def cases(setting: Setting) -> dict[str, Step]:
    """Every step that is timed."""
    from ase_ws.losses import Reference

    batch = setting.batch()
    shared = Reference(setting.base)
    both = ("energy", "forces", "pitc", "pisc")
    out = {
        "energy only": setting.step(setting.terms("energy"), batch),
        "supervised": setting.step(setting.terms("energy", "forces"), setting.batch(skin=0.0)),
        "PITC": setting.step(setting.terms("energy", "forces", "pitc"), batch),
        "PISC": setting.step(setting.terms("energy", "forces", "pisc"), batch),
        "PITC + PISC": setting.step(setting.terms(*both), batch),
        "PITC + PISC, pool, no base": setting.step(setting.terms(*both, pool=16), batch),
        "PITC + PISC on the difference, kept": setting.step(
            setting.terms(*both, reference=shared, pool=16), batch
        ),
        "PITC + PISC on the difference, computed": setting.step(
            setting.terms(*both, reference=setting.base), batch
        ),
        "PITC + PISC, lists rebuilt": setting.step(
            setting.terms(*both), batch, Leaky(setting.potential)
        ),
    }
    out["PITC + PISC, copies one at a time"] = separately(out["PITC + PISC"])
    if setting.potential.conservative:
        out["upstream"] = upstream_step(setting)
    else:
        names = ("energy", "forces", "gradient")
        out["gradient"] = setting.step(setting.terms(*names), batch)
    return out


#: (what, case, cases whose sum it is held against, bound or None)
RATIOS = (
    ("supervised step / upstream's", "supervised", ("upstream",), 1.0),
    ("PITC / (supervised + energy only)", "PITC", ("supervised", "energy only"), 1.05),
    (
        "PISC / (2 supervised + energy only)",
        "PISC",
        ("supervised", "supervised", "energy only"),
        1.05,
    ),
    (
        "on the difference, base's values kept / without a base",
        "PITC + PISC on the difference, kept",
        ("PITC + PISC, pool, no base",),
        1.15,
    ),
    (
        "on the difference, base computed / without a base",
        "PITC + PISC on the difference, computed",
        ("PITC + PISC",),
        None,
    ),
    ("PITC + PISC / supervised", "PITC + PISC", ("supervised",), None),
    ("gradient / supervised", "gradient", ("supervised",), None),
    ("gradient / PITC + PISC", "gradient", ("PITC + PISC",), None),
    ("lists rebuilt / kept", "PITC + PISC, lists rebuilt", ("PITC + PISC",), None),
    ("copies one at a time / joined", "PITC + PISC, copies one at a time", ("PITC + PISC",), None),
)


def measure(
    steps: dict[str, Step], rounds: int, device: str, warm_up: int = 60
) -> dict[str, list[float]]:
    """Milliseconds of every case in every round."""
    import torch

    for name, step in steps.items():
        # Enough for the pool's values to be known.
        for _ in range(warm_up if "kept" in name else 3):
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if device != "cpu":
                torch.cuda.synchronize()
            times[name].append(1e3 * (time.perf_counter() - start))
    return times


def ratios(times: dict[str, list[float]]) -> list[tuple[str, float, float, float, float | None]]:
    """(what, median, lowest, highest, bound) of every ratio whose cases were run."""
    out = []
    for what, case, against, bound in RATIOS:
        if case not in times or any(a not in times for a in against):
            continue
        values = sorted(t / sum(times[a][k] for a in against) for k, t in enumerate(times[case]))
        out.append((what, statistics.median(values), values[0], values[-1], bound))
    return out


def peak_memory(molecule: str, forces: str, names: tuple[str, ...], n: int) -> float:
    """MB by which one step of a batch of `n` rises above what the process holds before it."""
    import gc

    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    setting = Setting(molecule, forces, "cpu", n)
    # A small step first: imports and buffers that stay are not the step's.
    setting.step(setting.terms(*names), setting.batch(2))()
    step = setting.step(setting.terms(*names), setting.batch(n))
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from now
    before = _memory("VmRSS")
    step()
    return _memory("VmHWM") - before


def _memory(name: str) -> float:
    """A figure of this process's memory, MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def memory_ratio(
    molecule: str, forces: str, n: int = 150, weak: tuple[str, ...] = ("pitc", "pisc")
) -> float:
    """Peak of a step with these weak losses over that of a supervised one."""
    context = multiprocessing.get_context("spawn")
    found = []
    for names in (("energy", "forces"), ("energy", "forces", *weak)):
        with context.Pool(1) as pool:
            found.append(pool.apply(peak_memory, (molecule, forces, names, n)))
    return found[1] / found[0]


def memory_ratios(
    molecule: str, forces: str, weak: tuple[str, ...], repeats: int = 3
) -> list[float]:
    """`memory_ratio`, several times, sorted."""
    return sorted(memory_ratio(molecule, forces, weak=weak) for _ in range(repeats))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--molecule", default="ethanol")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    import torch

    torch.set_num_threads(1)
    for forces in ("conservative", "direct"):
        setting = Setting(arguments.molecule, forces, arguments.device)
        times = measure(cases(setting), arguments.rounds, arguments.device)
        print(f"\n{arguments.molecule}, batch {BATCH}, {forces} forces, order {setting.order}")
        for name, values in times.items():
            print(f"  {statistics.median(values):8.1f} ms  {name}")
        for what, median, low, high, bound in ratios(times):
            limit = "" if bound is None else f"  (bound {bound:g})"
            print(f"  {median:8.2f} ({low:.2f} to {high:.2f})  {what}{limit}")
        if arguments.device == "cpu":
            kinds = [("pitc", "pisc"), *([("gradient",)] if forces == "direct" else [])]
            for weak in kinds:
                low, memory, high = memory_ratios(arguments.molecule, forces, weak)
                print(
                    f"  {memory:8.2f} ({low:.2f} to {high:.2f})  "
                    f"peak memory, {' + '.join(weak)} / supervised, batch 150  (bound 2.2)"
                )


if __name__ == "__main__":
    main()
