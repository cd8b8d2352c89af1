"""Sample, label and write the packaged sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from rich.progress import Progress

from reference.levels import Label, focal_point_label, gfn2_label
from reference.sampling import SamplingTask, gfn2_tasks, methanol_tasks, sample
from reference.settings import Gfn2Settings, MethanolSettings
from reference.workers import run_tasks
from reference.xyz import Frame, write_frames

METHANOL_FILES = {"train": "methanol_ccsdt_train.xyz", "test": "methanol_ccsdt_test.xyz"}


def make_gfn2(
    settings: Gfn2Settings, out: Path, *, work: Path, workers: int, progress: Progress
) -> int:
    """Make the set of small CHO molecules at GFN2-xTB.

    Parameters
    ----------
    settings : Gfn2Settings
        What to make.
    out : Path
        Extended XYZ file to write.
    work : Path
        Folder of the journals from which a killed run goes on.
    workers : int
        Processes.
    progress : Progress
        Shows how far it is.

    Returns
    -------
    int
        Frames written.
    """
    return _make(
        "gfn2",
        gfn2_tasks(settings),
        label_gfn2,
        settings=settings,
        out=out,
        work=work,
        workers=workers,
        progress=progress,
    )


def make_methanol(
    settings: MethanolSettings, out: Path, *, work: Path, workers: int, progress: Progress
) -> dict[str, int]:
    """Make the methanol sets at the focal-point CCSD(T) level, the energies first.

    Parameters
    ----------
    settings : MethanolSettings
        What to make.
    out : Path
        Folder for the two extended XYZ files.
    work : Path
        Folder of the journals from which a killed run goes on.
    workers : int
        Processes.
    progress : Progress
        Shows how far it is.

    Returns
    -------
    dict of str to int
        Frames written, by file name.
    """
    parts: tuple[tuple[Any, Callable[..., Any]], ...] = (
        ("train", label_focal_point_energy),
        ("test", label_focal_point_forces),
    )
    written: dict[str, int] = {}
    for part, labeller in parts:
        tasks = methanol_tasks(settings, part)
        target = out / METHANOL_FILES[part]
        written[target.name] = _make(
            part,
            tasks,
            labeller,
            settings=settings,
            out=target,
            work=work,
            workers=workers,
            progress=progress,
        )
    return written


def _make(
    name: str,
    tasks: Sequence[SamplingTask],
    labeller: Callable[..., Any],
    *,
    settings: Gfn2Settings | MethanolSettings,
    out: Path,
    work: Path,
    workers: int,
    progress: Progress,
) -> int:
    common: dict[str, Any] = {
        "settings": settings.model_dump_json(),
        "workers": workers,
        "progress": progress,
    }
    drawn = run_tasks(
        sample,
        {task.key: (task,) for task in tasks},
        work / f"{name}_geometries.jsonl",
        description=f"{name}: sampling",
        **common,
    )
    geometries = {
        f"{key}/{i}": geometry for key, found in drawn.items() for i, geometry in enumerate(found)
    }
    labels = run_tasks(
        labeller,
        {key: (g["symbols"], g["positions"]) for key, g in geometries.items()},
        work / f"{name}_labels.jsonl",
        description=f"{name}: labelling",
        **common,
    )
    frames = [
        Frame(**geometries[key], **labels[key]) for key in _shuffled(geometries, settings.seed)
    ]
    write_frames(out, frames)
    return len(frames)


def _shuffled(keys: dict[str, Any], seed: int) -> list[str]:
    """Shuffle, so that any prefix of a file is a fair sample of it."""
    order = np.random.default_rng([seed, len(keys)]).permutation(len(keys))
    names = list(keys)
    return [names[i] for i in order]


def label_gfn2(symbols: list[str], positions: list[list[float]]) -> dict[str, Any]:
    """Label with the GFN2-xTB energy and forces, as JSON can hold them."""
    return _plain(gfn2_label(Atoms(symbols, positions)))


def label_focal_point_energy(symbols: list[str], positions: list[list[float]]) -> dict[str, Any]:
    """Label with the focal-point energy only, as JSON can hold it."""
    return _plain(focal_point_label(Atoms(symbols, positions), forces=False))


def label_focal_point_forces(symbols: list[str], positions: list[list[float]]) -> dict[str, Any]:
    """Label with the focal-point energy and forces, as JSON can hold them."""
    return _plain(focal_point_label(Atoms(symbols, positions), forces=True))


def _plain(label: Label) -> dict[str, Any]:
    forces = None if label.forces is None else label.forces.tolist()
    return {"energy": label.energy, "forces": forces}
