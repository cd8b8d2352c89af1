"""Upstream's own files: a `.model` of mace-torch is read without running it, and written."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import torch

from ase_ws.errors import UserError
from ase_ws.files.writing import atomic_path
from ase_ws.potentials.base import PotentialModule
from ase_ws.potentials.heads import HeadWarning
from ase_ws.potentials.mace.model import MACEPotential, build_mace, to_upstream
from ase_ws.potentials.mace.read_upstream import read_upstream


def load_upstream(path: Path, head: str | None) -> MACEPotential:
    """Load a `.model` file as `load_potential` does, whose errors name the file."""
    found = read_upstream(path)
    potential = build_mace(found.architecture, found.e0, tensors=found.tensors, head=head)
    if head is None and len(potential.heads) > 1:
        warnings.warn(
            f"{path}: no head is named; of {list(potential.heads)} '{potential.head}' is used, as "
            "upstream does (head=... takes another)",
            HeadWarning,
            stacklevel=3,
        )
    return potential


def export_upstream(potential: PotentialModule, path: str | os.PathLike[str]) -> Path:
    """Write a `.model` file that upstream's `MACECalculator` and tools load, with all its heads.

    Raises
    ------
    UserError
        The potential is not a plain MACE: upstream has no direct forces and no other networks. Or
        the reference energies of a head are not known.
    """
    if not isinstance(potential, MACEPotential):
        is_mace = isinstance(potential.with_energy_forces(), MACEPotential)
        first = " (fine-tune it with --forces conservative first)" if is_mace else ""
        raise UserError(
            f"a model of kind '{potential.kind}' cannot be written as an upstream MACE; only "
            f"conservative MACE models can{first}"
        )
    path = Path(path)
    model = to_upstream(potential).to(potential.dtype).eval()
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        torch.save(model, temporary)
    return path
