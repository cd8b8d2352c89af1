"""The model file: safetensors with JSON beside the tensors. Nothing in it is ever executed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ase_ws._version import __version__
from ase_ws.devices import resolve_device, resolve_dtype
from ase_ws.errors import UserError, about
from ase_ws.files.mistakes import reason
from ase_ws.files.writing import atomic_path
from ase_ws.potentials.base import PotentialModule
from ase_ws.potentials.heads import HeadError, HeadWarning
from ase_ws.potentials.mace.direct import DirectPotential
from ase_ws.potentials.mace.model import MACEPotential
from ase_ws.potentials.mace.upstream import load_upstream
from ase_ws.potentials.posterior import take_posterior
from ase_ws.potentials.provenance import check_provenance
from ase_ws.potentials.weights import check_tensors

__all__ = [
    "FORMAT",
    "HeadError",
    "HeadWarning",
    "is_own",
    "largest_training_force",
    "load_potential",
    "read_header",
    "save_potential",
]

#: 2: a row of reference energies for each head; 3: a posterior of the weights. What has neither is
#: written as 1.
FORMAT = 3
_KEY = "ase_ws"
_E0 = "e0"
_NETWORK = "network."


def _kind(name: str) -> type[PotentialModule] | None:
    """Give the class of a kind of model; an optional library is only imported when needed."""
    if name == "painn":
        from ase_ws.potentials.painn import PaiNNPotential

        return PaiNNPotential
    return {cls.kind: cls for cls in (MACEPotential, DirectPotential)}.get(name)


def save_potential(
    potential: PotentialModule,
    path: str | os.PathLike[str],
    provenance: dict[str, Any] | None = None,
) -> Path:
    """Write a model file, whole or not at all, with all its heads.

    Parameters
    ----------
    potential : PotentialModule
    path : path
        Ends in `.safetensors`; its folder is made if needed.
    provenance : dict, optional
        JSON-able facts on how the model was made (command, data, level of theory).

    Returns
    -------
    Path

    Raises
    ------
    UserError
        Facts that `finetune` writes too, such as "notes", are of another type than there.
    """
    path = Path(path)
    check_provenance(provenance or {})
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = potential.reference_energies.cpu()
    whole = len(rows) > 1 and bool(rows.isfinite().all())
    posterior = potential.posterior
    header = {
        "format": 3 if posterior is not None else 2 if whole else 1,
        "kind": potential.kind,
        "ase_ws_version": __version__,
        **potential.description(),
        "provenance": provenance or {},
    }
    tensors = {
        _NETWORK + name: value.detach().cpu().contiguous().clone()
        for name, value in potential.tensors().items()
        if value.numel() > 0
    }
    tensors[_E0] = rows if whole else potential.e0.cpu()
    if posterior is not None:
        tensors |= posterior.tensors()
        header["posterior"] = {**posterior.description(), "head": potential.head}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={_KEY: json.dumps(header)})
    return path


def load_potential(
    path: str | os.PathLike[str],
    *,
    dtype: torch.dtype | str | None = None,
    device: str | torch.device = "cpu",
    head: str | None = None,
) -> PotentialModule:
    """Load a model: this package's `.safetensors`, or an upstream mace-torch `.model`.

    Parameters
    ----------
    path : path
    dtype : torch.dtype or str, optional
        Precision of the network; default the one it was saved in.
    device : str
    head : str, optional
        Head of a multi-head model. Default the one that the file names (those of this package
        do); else, as upstream has it, the one called "default", with a `HeadWarning`.

    Returns
    -------
    PotentialModule
        In evaluation mode.

    Raises
    ------
    UserError
        The file is missing, corrupt, or not a model.
    HeadError
        There is no such head, or there are several and none is named; lists them.
    """
    path = Path(path)
    # What is made while inference mode is on can never be differentiated again.
    with about(path), torch.inference_mode(False):
        _check_readable(path)
        potential = _load_own(path, head) if is_own(path) else load_upstream(path, head)
    if dtype is not None:
        potential = potential.to(resolve_dtype(dtype))
    return potential.to(resolve_device(device)).eval()


def is_own(path: str | os.PathLike[str]) -> bool:
    """Whether a file is one of ours, by its name or, as caches of hubs have none, by its start."""
    path = Path(path)
    if path.suffix == ".safetensors":
        return True
    with path.open("rb") as file:
        length, brace = int.from_bytes(file.read(8), "little"), file.read(1)
    return brace == b"{" and length < path.stat().st_size


def _check_readable(path: Path) -> None:
    wanted = "expected .safetensors or a mace-torch .model"
    try:
        if not path.is_file():
            what = "it is a folder" if path.is_dir() else "nothing of this name"
            raise UserError(f"no such model file, {what}; {wanted}")
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})") from error
    if not start:
        raise UserError(f"an empty file; {wanted}")
    if start.startswith(b"version https://git-lfs"):
        raise UserError("a pointer of Git LFS, not the model; get it with 'git lfs pull'")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise UserError("a web page, not a model; get the file itself")


def _load_own(path: Path, head: str | None) -> PotentialModule:
    header = read_header(path)
    cls = _kind(header["kind"])
    assert cls is not None
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        check_tensors(tensors)
        posterior = take_posterior(tensors, header.get("posterior", {}))
        e0 = tensors.pop(_E0).double().numpy()
        if e0.shape[-1:] != (len(header["architecture"]["atomic_numbers"]),):
            raise KeyError("one reference energy for each element")
        network = {name.removeprefix(_NETWORK): value for name, value in tensors.items()}
        potential = cls.rebuild(header, network, e0, head)
        if posterior is not None and header["posterior"].get("head") == potential.head:
            potential.posterior = posterior.of(potential)
        return potential
    except UserError:
        raise
    except (SafetensorError, ValidationError, KeyError, TypeError, ValueError) as error:
        what = reason(error, cls.architecture_type)
        raise UserError(f"corrupt model file ({what:.200}); make it again") from error


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Everything but the tensors of a model file of this package, as plain data."""
    with about(path):
        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads((file.metadata() or {})[_KEY])
            if _kind(header["kind"]) is None or header["format"] > FORMAT:
                raise UserError(
                    f"model kind '{header['kind']}', format {header['format']}: made by a newer "
                    f"ase_ws ({header.get('ase_ws_version')}); update this one ({__version__})"
                )
            check_provenance(header.get("provenance", {}))
        except UserError:
            raise
        # ValueError: not JSON, or a number of thousands of digits. RecursionError: nested without
        # end.
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
            detail = " ".join(str(error).split())
            raise UserError(
                f"not a model file of ase_ws, or a corrupt one ({detail:.120}); "
                "expected a .safetensors file written by 'ase-ws finetune'"
            ) from error
    return header


def largest_training_force(path: str | os.PathLike[str]) -> float | None:
    """Largest force that a model was trained on, in eV/Å, where its file tells."""
    if not is_own(path):
        return None
    provenance = read_header(path).get("provenance", {})
    return provenance.get("largest_training_force_ev_per_angstrom") or None  # 0: no force at all
