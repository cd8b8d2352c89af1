"""The report of one model and structure, from what the campaign has on file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ase.io

from ase_ws.files.writing import atomic_path, write_text
from ase_ws.results.blame import Blame
from ase_ws.results.report import StabilityReport
from ase_ws.stability.campaign.inputs import Pair
from ase_ws.stability.campaign.records import preparation_from_dict
from ase_ws.stability.runs.replicas import Run
from ase_ws.stability.verdict.assemble import assemble
from ase_ws.stability.verdict.candidates import describe_frames


def complete_report(
    pair: Pair,
    preparation: Mapping[str, Any],
    runs: Sequence[Run],
    *,
    blame: Blame | None,
    comparison: dict[str, Any] | None,
    command: str,
    out: Path,
) -> StabilityReport:
    """Put the report together and write `candidates.xyz`, then `stability.json`.

    Parameters
    ----------
    pair : Pair
    preparation : dict
        Of `preparation_to_dict`.
    runs : sequence of Run
        All replicas, with their frames.
    blame : Blame or None
    comparison : dict or None
        Of `compared`.
    command : str
    out : Path
        Folder of the pair.

    Returns
    -------
    StabilityReport
    """
    report = assemble(
        pair.atoms,
        pair.plan,
        preparation_from_dict(preparation),
        runs,
        name=pair.model.name,
        blame=blame,
        comparison=comparison,
        calibration=pair.calibration,
        notes={"command": command, "model": pair.model.path, "model_sha256": pair.model.digest},
    )
    # Put together without a calculator: the class that the workers used.
    report.settings["calculator"] = "PotentialCalculator"
    out.mkdir(parents=True, exist_ok=True)
    frames = [
        frame
        for run in runs
        if run.result.failure is not None and run.frames
        for frame in describe_frames(run.result, run.frames)
    ]
    if frames:
        with atomic_path(out / "candidates.xyz") as temporary:
            ase.io.write(temporary, frames, format="extxyz")
    # Last: where it is, the pair is complete.
    write_text(out / "stability.json", json.dumps(report.to_dict(), allow_nan=False) + "\n")
    return report


def compared(pair: Pair, preparation: Mapping[str, Any], runs: Sequence[Run]) -> dict[str, Any]:
    """Give what a comparison needs of the other model, from the same seeds."""
    return assemble(
        pair.atoms, pair.plan, preparation_from_dict(preparation), runs, name=pair.model.name
    ).for_comparison()
