"""The sets of the evidence: where their frames are, who tests on what, and the base models."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
from shared_data import SHARED

from ase_ws.data import BASE_MODEL, METHANOL_TEST, METHANOL_TRAIN
from ase_ws.frames import Frame, read_frames

RUNS = Path(__file__).parents[3] / "runs" / "evidence"
#: Frames of a test file, evenly spread.
MOST_TEST_FRAMES = 300
#: The base model of a cheaper level: trained on the last geometries of the training file, which
#: labels are never drawn from.
BASE_FRAMES, BASE_STEPS = 300, 2000


@dataclass(frozen=True)
class Set:
    """A training file, the files to test on by name, and the cutoff of new models in Å."""

    train: Path
    tests: dict[str, Path]
    r_max: float = 5.0


SETS = {
    **{
        name: Set(SHARED / f"rmd17/{name}_train.xyz", {"test": SHARED / f"rmd17/{name}_test.xyz"})
        for name in ("ethanol", "uracil", "aspirin")
    },
    "3bpa": Set(SHARED / "3bpa/train_300K.xyz", {"mixed T": SHARED / "3bpa/train_mixedT.xyz"}),
    "acac": Set(
        SHARED / "acac/train_300K.xyz",
        {
            "300 K": SHARED / "acac/test_MD_300K.xyz",
            "600 K": SHARED / "acac/test_MD_600K.xyz",
            "proton transfer": SHARED / "acac/test_H_transfer.xyz",
            "dihedral": SHARED / "acac/test_dihedral.xyz",
        },
    ),
    **{
        name: Set(
            SHARED / f"mlearn/{name}_train.xyz",
            {"test": SHARED / f"mlearn/{name}_test.xyz"},
            r_max=4.5,
        )
        for name in ("Si", "Li")
    },
    "methanol": Set(METHANOL_TRAIN, {"test": METHANOL_TEST}),
}
#: Sets that have a base model of a cheaper level, and whether its frames are kept from every run,
#: so that runs from it and from scratch see the same labels, or, where frames are few, from those
#: that start from it.
CHEAP_LEVEL = {"ethanol": True, "uracil": True, "aspirin": True, "acac": False, "3bpa": False}


def missing(start: str, name: str) -> str | None:
    """Say what a set, or the base model that it is started from, lacks, if anything."""
    files = [SETS[name].train, *SETS[name].tests.values()]
    untrained = start == "cheap level" and not _of_cheap_level(name).exists()
    if untrained and find_spec("tblite") is None:
        return "tblite (pip install tblite), for its base model,"
    return next((str(path) for path in files if not path.is_file()), None)


def draw(name: str, n: int, seed: int, start: str = "scratch") -> tuple[list[Frame], list[Frame]]:
    """Give n labelled frames and those for validation: a tenth as many, 10 at least, 50 at most.

    Every seed draws other frames. The last `BASE_FRAMES` of sets that have a base model of a
    cheaper level are left to that where the rest suffices; runs that start from it have no choice.
    """
    frames = _read(SETS[name].train)
    n_valid = min(50, max(10, n // 10))
    from_base = start == "cheap level"
    others_suffice = len(frames) - BASE_FRAMES >= n + n_valid
    if from_base or (CHEAP_LEVEL.get(name, False) and others_suffice):
        frames = frames[:-BASE_FRAMES]
    if len(frames) < n + n_valid:
        raise ValueError(f"{name}: {n} + {n_valid} frames wanted, {len(frames)} there")
    order = np.random.default_rng(seed).permutation(len(frames))
    chosen = [frames[k] for k in order[: n + n_valid]]
    return chosen[:n], chosen[n:]


def test_frames(name: str) -> dict[str, list[Frame]]:
    """Give the frames of each test file that are not in the training file, thinned evenly.

    3BPA's frames at mixed temperatures have some of those at 300 K among them, and some of the
    crystals' are a training frame turned or shifted.
    """
    train = _read(SETS[name].train)
    found = {}
    for test, path in SETS[name].tests.items():
        frames = [f for f in _read(path) if not any(same_but_for_symmetry(f, t) for t in train)]
        step = -(-len(frames) // MOST_TEST_FRAMES)
        found[test] = list(frames[::step])
    return found


def same_but_for_symmetry(one: Frame, other: Frame) -> bool:
    """Tell whether two frames have as many atoms, one energy, and forces of the same sizes."""
    if len(one.numbers) != len(other.numbers) or one.energy is None or other.energy is None:
        return False
    if one.forces is None or other.forces is None:
        return bool(np.array_equal(one.positions, other.positions))
    if abs(one.energy - other.energy) > 1e-5 * len(one.numbers):
        return False
    sizes = [np.sort(np.linalg.norm(f.forces, axis=1)) for f in (one, other)]
    return bool(np.allclose(*sizes, atol=0.01))


def without_forces(frames: Sequence[Frame], kept: float) -> list[Frame]:
    """Take the forces off all frames but the first `kept` part."""
    n_kept = round(kept * len(frames))
    return [
        *frames[:n_kept],
        *(replace(f, forces=None, stress=None) for f in frames[n_kept:]),
    ]


def base_model(start: str, name: str) -> Path | None:
    """Give the model that training starts from; None from scratch.

    "other molecules" is the packaged base model (GFN2-xTB, 24 small molecules); "cheap level" is
    trained, once, on GFN2-xTB energies and forces of geometries of the same molecule.
    """
    if start == "scratch":
        return None
    if start == "other molecules":
        return BASE_MODEL
    if name not in CHEAP_LEVEL:
        raise ValueError(f"{name}: no frames are kept apart for a base model of a cheaper level")
    path = _of_cheap_level(name)
    if not path.exists():
        _train_on_gfn2(name, path.parent)
    return path


def _of_cheap_level(name: str) -> Path:
    return RUNS / "bases" / f"{name}_gfn2" / "model.safetensors"


def _train_on_gfn2(name: str, folder: Path) -> None:
    from ase_ws.training import finetune

    folder.parent.mkdir(parents=True, exist_ok=True)
    frames = [_gfn2(f) for f in _read(SETS[name].train)[-BASE_FRAMES:]]
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        config = {"optimizer": {"max_steps": BASE_STEPS}, "threads": 1}
        finetune(frames[:-30], frames[-30:], config=config, out=Path(work) / "run")
        (Path(work) / "run").rename(folder)


def _gfn2(frame: Frame) -> Frame:
    from ase import Atoms
    from tblite.ase import TBLite

    atoms = Atoms(frame.numbers, frame.positions)
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    energy, forces = float(atoms.get_potential_energy()), np.array(atoms.get_forces())
    return replace(frame, energy=energy, forces=forces, stress=None)


@cache
def _read(path: Path) -> tuple[Frame, ...]:
    return tuple(read_frames(path))
