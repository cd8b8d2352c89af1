"""The model file: safetensors with JSON beside the tensors. Nothing in it is ever executed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ase_ws._version import __version__
from ase_ws.atomic import atomic_path
from ase_ws.devices import resolve_device, resolve_dtype
from ase_ws.errors import UserError
from ase_ws.potentials.direct import DirectPotential
from ase_ws.potentials.mace import MACEPotential, build_mace, to_upstream
from ase_ws.potentials.module import PotentialModule
from ase_ws.potentials.upstream import read_upstream

FORMAT = 1
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
    """Write a model file, whole or not at all.

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
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {
        "format": FORMAT,
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
    tensors[_E0] = potential.e0.cpu()
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
        Head of a multi-head model.

    Returns
    -------
    PotentialModule
        In evaluation mode.

    Raises
    ------
    UserError
        The file is missing, corrupt, or not a model.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such model file; expected .safetensors or a mace-torch .model")
    if path.suffix == ".safetensors":
        potential = _load_own(path, head)
    else:
        upstream = read_upstream(path)
        potential = build_mace(
            upstream.architecture,
            upstream.e0[0],
            tensors=upstream.tensors,
            head=head,
        )
        potential.e0.copy_(torch.from_numpy(upstream.e0[potential.head]))
    if dtype is not None:
        potential = potential.to(resolve_dtype(dtype))
    return potential.to(resolve_device(device)).eval()


def _load_own(path: Path, head: str | None) -> PotentialModule:
    header = read_header(path)
    cls = _kind(header["kind"])
    assert cls is not None
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        e0 = tensors.pop(_E0).double().numpy()
        if not all(torch.isfinite(t).all() for t in tensors.values()) or not np.isfinite(e0).all():
            raise UserError("the weights hold NaN or infinity; the training had failed")
        if e0.shape != (len(header["architecture"]["atomic_numbers"]),):
            raise KeyError("one reference energy for each element")
        network = {name.removeprefix(_NETWORK): value for name, value in tensors.items()}
        return cls.rebuild(header, network, e0, head)
    except (SafetensorError, ValidationError, KeyError, TypeError) as error:
        detail = " ".join(str(error).split())
        raise UserError(f"{path}: corrupt model file ({detail:.200}); make it again") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Everything but the tensors of a model file of this package, as plain data."""
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[_KEY])
        if _kind(header["kind"]) is None or header["format"] > FORMAT:
            raise UserError(
                f"{path}: model kind '{header['kind']}', format {header['format']}: made by a "
                f"newer ase_ws ({header.get('ase_ws_version')}); update this one ({__version__})"
            )
    except (SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        detail = " ".join(str(error).split())
        raise UserError(
            f"{path}: not a model file of ase_ws, or a corrupt one ({detail:.120}); "
            "expected a .safetensors file written by 'ase-ws finetune'"
        ) from error
    return header


def export_upstream(potential: PotentialModule, path: str | os.PathLike[str]) -> Path:
    """Write a `.model` file that upstream's `MACECalculator` and tools load.

    Raises
    ------
    UserError
        The potential is not a plain MACE: upstream has no direct forces and no other networks.
    """
    if not isinstance(potential, MACEPotential):
        first = " (fine-tune it with --forces conservative first)"
        raise UserError(
            f"a model of kind '{potential.kind}' cannot be written as an upstream MACE; only "
            f"conservative MACE models can{first if isinstance(potential, DirectPotential) else ''}"
        )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        torch.save(to_upstream(potential).to(potential.dtype).eval(), temporary)
    return path
