"""From settings to sampling tasks: which molecule, how, at which temperature, by which seed."""

from __future__ import annotations

import zlib
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from reference import geometries
from reference.settings import Gfn2Settings, MethanolSettings, SamplingSettings

Source = Literal["md", "normal_modes", "strong"]


class SamplingTask(BaseModel):
    """One trajectory, or one batch of displacements, of one molecule.

    Attributes
    ----------
    key : str
        Names the task within its set; with the seed it decides the random numbers.
    molecule : str
        Name of `ase.build.molecule`.
    source : str
        "md", "normal_modes" or "strong".
    n_frames : int
        To draw.
    temperatures : tuple of float
        K: one for "md", lowest and highest for "normal_modes", none for "strong".
    seed : int
        Of the whole set.
    sampling : SamplingSettings
        How to sample.
    """

    model_config = ConfigDict(frozen=True)

    key: str
    molecule: str
    source: Source
    n_frames: int
    temperatures: tuple[float, ...]
    seed: int
    sampling: SamplingSettings


def sample(task: SamplingTask) -> list[dict[str, Any]]:
    """Draw the geometries of one task.

    Returns
    -------
    list of dict
        `symbols`, `positions` (Å, rounded) and `info` of each frame; JSON can hold it.
    """
    # Own random numbers per task, whatever the order in which the tasks run.
    rng = np.random.default_rng([task.seed, zlib.crc32(task.key.encode())])
    relaxed = geometries.relaxed_molecule(task.molecule)
    frames, temperatures = _draw(task, relaxed, rng)
    info = {"molecule": task.molecule, "sampling": task.source}
    return [
        {
            "symbols": relaxed.get_chemical_symbols(),
            "positions": positions.tolist(),
            "info": info if t is None else {**info, "temperature_K": f"{t:.0f}"},
        }
        for positions, t in zip(frames, temperatures, strict=True)
    ]


def _draw(
    task: SamplingTask, relaxed: Any, rng: np.random.Generator
) -> tuple[list[np.ndarray], list[float | None]]:
    n, settings = task.n_frames, task.sampling
    if task.source == "md":
        temperature = task.temperatures[0]
        return geometries.md_frames(relaxed, temperature, n, settings, rng), [temperature] * n
    if task.source == "normal_modes":
        # Evenly spread, so that few frames span the range as well as many.
        low, high = task.temperatures
        spread = np.linspace(low, high, n)
        return geometries.mode_frames(relaxed, spread, settings, rng), [float(t) for t in spread]
    return geometries.strong_frames(relaxed, n, settings, rng), [None] * n


def gfn2_tasks(settings: Gfn2Settings) -> list[SamplingTask]:
    """List the sampling tasks of the small CHO molecules."""
    tasks: list[SamplingTask] = []
    for i, name in enumerate(settings.molecules):
        n = settings.n_each if i else settings.n_first
        n_modes, n_strong = (
            round(n * f) for f in (settings.mode_fraction, settings.strong_fraction)
        )
        tasks += _tasks(
            prefix="gfn2",
            molecule=name,
            n_md=n - n_modes - n_strong,
            n_modes=n_modes,
            n_strong=n_strong,
            trajectories=1,
            settings=settings,
        )
    return tasks


def methanol_tasks(
    settings: MethanolSettings, part: Literal["train", "test"]
) -> list[SamplingTask]:
    """List the sampling tasks of one methanol set; the other set has other random numbers."""
    n = settings.n_train if part == "train" else settings.n_test
    n_modes = round(n * settings.mode_fraction)
    return _tasks(
        prefix=part,
        molecule="CH3OH",
        n_md=n - n_modes,
        n_modes=n_modes,
        n_strong=0,
        trajectories=settings.trajectories,
        settings=settings,
    )


def _tasks(
    *,
    prefix: str,
    molecule: str,
    n_md: int,
    n_modes: int,
    n_strong: int,
    trajectories: int,
    settings: Gfn2Settings | MethanolSettings,
) -> list[SamplingTask]:
    runs = [(t, k) for t in settings.temperatures for k in range(trajectories)]
    wanted: list[tuple[str, Source, int, tuple[float, ...]]] = [
        (f"md/{t:g}K/{k}", "md", share, (t,))
        for (t, k), share in zip(runs, _shares(n_md, len(runs)), strict=True)
    ]
    wanted.append(("normal_modes", "normal_modes", n_modes, settings.mode_temperatures))
    wanted.append(("strong", "strong", n_strong, ()))
    return [
        SamplingTask(
            key=f"{prefix}/{molecule}/{name}",
            molecule=molecule,
            source=source,
            n_frames=n,
            temperatures=temperatures,
            seed=settings.seed,
            sampling=settings.sampling,
        )
        for name, source, n, temperatures in wanted
        if n > 0
    ]


def _shares(total: int, parts: int) -> list[int]:
    return [total // parts + (i < total % parts) for i in range(parts)]
