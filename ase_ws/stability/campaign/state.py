"""The folder of a campaign: whose it is, and where its files are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

from ase_ws.errors import UserError
from ase_ws.files.folders import require_free, require_writable
from ase_ws.files.writing import write_text
from ase_ws.stability.campaign.inputs import Campaign, PairKey
from ase_ws.stability.campaign.journal import Journal

#: Files of a pair, in OUT/MODEL/STRUCTURE.
PAIR_FILES = ("preparation.json", "stability.json", "candidates.xyz", "report.html")


class Folder:
    """Opens the folder of a campaign, new or to be resumed, and keeps other writers out.

    | file | holds |
    | --- | --- |
    | `campaign.json` | what the campaign is: settings, SHA-256 of models and structures |
    | `replicas.jsonl` | the journal: one line for each finished replica |
    | `MODEL/STRUCTURE/preparation.json` | the relaxed structure from which all replicas start |
    | `MODEL/STRUCTURE/stability.json` | the report, once all replicas have finished |
    | `MODEL/STRUCTURE/candidates.xyz` | frames of failed replicas |
    | `summary.json` | a row for each pair that is complete |

    Parameters
    ----------
    out : Path
    campaign : Campaign
    resume : bool
        Go on with what is there; where there is nothing, begin.
    overwrite : bool
        Remove the files of the campaign that is there.

    Attributes
    ----------
    id : str
        Of this campaign, the same after a resume.
    journal : Journal

    Raises
    ------
    UserError
        There is something in `out` and neither `resume` nor `overwrite` is set; it is another
        campaign; another process is running it.
    """

    def __init__(self, out: Path, campaign: Campaign, *, resume: bool, overwrite: bool):
        if resume and overwrite:
            raise UserError("--resume and --overwrite exclude each other: give one of them")
        if not resume:
            require_free(out, overwrite=overwrite, resume="--resume")
        else:
            require_writable(out, folder=True)
        if resume and not (out / "campaign.json").is_file() and _has_other_files(out):
            raise UserError(f"{out}: there is no campaign in this folder; use another --out")
        self.out = out
        out.mkdir(parents=True, exist_ok=True)
        known = _known(out / "campaign.json", overwrite)
        if resume and known is not None:
            _require_same(out, known["identity"], campaign.identity)
        # A journal without a campaign is of one that died before it had begun.
        self.journal = Journal(out / "replicas.jsonl", fresh=overwrite or known is None)
        try:
            if known is None or overwrite:
                known = self._begin(campaign, known)
            self.id: str = known["id"]
        except BaseException:
            self.journal.close()
            raise

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: object) -> None:
        self.journal.close()

    def of(self, key: PairKey) -> Path:
        """Folder of a pair."""
        return self.out.joinpath(*key)

    def read(self, key: PairKey, name: str) -> dict[str, Any] | None:
        """Read a JSON file of a pair; None where there is none yet."""
        return _read(self.of(key) / name)

    def write(self, key: PairKey, name: str, record: dict[str, Any]) -> None:
        """Write a JSON file of a pair."""
        self.of(key).mkdir(parents=True, exist_ok=True)
        _write(self.of(key) / name, record)

    def write_summary(self, record: dict[str, Any]) -> None:
        """Write `summary.json`."""
        _write(self.out / "summary.json", record, indent=1)

    def _begin(self, campaign: Campaign, old: dict[str, Any] | None) -> dict[str, Any]:
        """Clear away the earlier campaign, if any, and nothing else."""
        pairs = set(campaign.pairs)
        if old is not None:
            identity = old["identity"]
            pairs |= {(m, s) for m in identity["models"] for s in identity["structures"]}
        for name in ("campaign.json", "summary.json"):
            (self.out / name).unlink(missing_ok=True)
        for pair in pairs:
            for name in PAIR_FILES:
                (self.of(pair) / name).unlink(missing_ok=True)
        new = {"schema_version": 1, "id": uuid4().hex, "identity": campaign.identity}
        _write(self.out / "campaign.json", new, indent=1)
        return new


def _has_other_files(out: Path) -> bool:
    """Whether there is more than what a campaign leaves that died before it had begun."""
    names = [path.name for path in out.iterdir()] if out.is_dir() else []
    return any(name != "replicas.jsonl" and not name.startswith(".") for name in names)


def _known(path: Path, overwrite: bool) -> dict[str, Any] | None:
    try:
        return _read(path)
    except UserError:
        if overwrite:
            return None
        raise


def _require_same(out: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    if not changed:
        return
    name = changed[0]
    if name in ("models", "structures"):
        told = _told_files(name[:-1], old[name], new[name])
    elif name == "calibrate":
        told = "the training set of 'calibrate' is another"
    elif name == "ase_ws":
        told = f"it was begun with ase_ws {old.get(name)}, this is {new.get(name)}"
    else:
        told = f"'{name}' was {old.get(name)}, now it is {new.get(name)}"
    raise UserError(
        f"{out}: cannot be resumed, {told}; put that back, or begin anew with --overwrite or "
        "another --out"
    )


def _told_files(kind: str, old: dict[str, str], new: dict[str, str]) -> str:
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if not names:
        return f"the order of the {kind}s has changed"
    if names[0] not in new:
        return f"the {kind} '{names[0]}' is gone"
    if names[0] not in old:
        return f"the {kind} '{names[0]}' is new"
    return f"the file of the {kind} '{names[0]}' has changed"


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: is damaged; begin anew with --overwrite") from error


def _write(path: Path, record: dict[str, Any], indent: int | None = None) -> None:
    write_text(path, json.dumps(record, allow_nan=False, indent=indent) + "\n")
