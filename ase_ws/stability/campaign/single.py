"""One model and one structure on a Dask cluster: `ase-ws stability ... --scheduler ADDRESS`."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ase_ws.files.folders import make_clear
from ase_ws.results.report import FILES, StabilityReport, keeping
from ase_ws.stability.campaign.config import make_config
from ase_ws.stability.campaign.progress import Watch
from ase_ws.stability.campaign.run import run_campaign


def check_stability_on_dask(
    model: str | os.PathLike[str],
    structure: str | os.PathLike[str],
    *,
    scheduler: str,
    compare: str | os.PathLike[str] | None = None,
    head: str | None = None,
    compare_head: str | None = None,
    out: str | os.PathLike[str] | None = None,
    device: str = "cpu",
    command: str = "",
    watch: Watch | None = None,
    **settings: Any,
) -> StabilityReport:
    """Do what `check_stability` does, with the replicas spread over the workers of a cluster.

    Parameters
    ----------
    model, structure, compare : path
        The workers read the models at the same path: the file system must be shared.
    scheduler : str
        Address of the Dask scheduler.
    head, compare_head : str, optional
        Of multi-head models.
    out : path, optional
        Folder for `stability.json` and `candidates.xyz`.
    device, command, watch
        See `run_campaign`.
    **settings
        The other fields of `CampaignConfig`.

    Raises
    ------
    UserError
        As `run_campaign`.
    """
    name = _name_of(Path(model))
    models, heads = {name: str(Path(model).absolute())}, {name: head}
    if compare is not None:
        other = _name_of(Path(compare))
        other = f"{other}_compared" if other == name else other
        models[other], heads[other] = str(Path(compare).absolute()), compare_head
        settings["compare"] = other
    config = make_config(
        {
            "models": models,
            "heads": {name: head for name, head in heads.items() if head is not None},
            "structures": {"structure": str(Path(structure).absolute())},
            **settings,
        },
        source="stability",
    )
    reports: dict[str, StabilityReport] = {}
    with tempfile.TemporaryDirectory(prefix="ase-ws-") as folder:
        run_campaign(
            config,
            folder,
            scheduler=scheduler,
            reported=lambda pair, report: reports.update({pair[0]: report}),
            device=device,
            command=command,
            watch=watch,
        )
        if out is not None:
            with keeping(reports[name]):
                target = make_clear(Path(out), FILES)
                for file in FILES:
                    source = Path(folder) / name / "structure" / file
                    if source.is_file():
                        shutil.copyfile(source, target / file)
    return reports[name]


def _name_of(path: Path) -> str:
    return re.sub(r"[^A-Za-z0-9._+-]", "_", path.stem).lstrip("._+-") or "model"
