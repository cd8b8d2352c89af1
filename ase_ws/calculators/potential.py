"""Any potential of this package, or an upstream MACE, as an ASE calculator."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from typing import Any

import torch
from ase import Atoms
from ase.calculators.calculator import (
    Calculator,
    CalculatorSetupError,
    PropertyNotImplementedError,
    all_changes,
)
from ase.stress import full_3x3_to_voigt_6_stress

from ase_ws.calculators.neighbours import SkinnedGraph
from ase_ws.devices import resolve_device, resolve_dtype
from ase_ws.potentials.files import load_potential
from ase_ws.potentials.lean import lean
from ase_ws.typing import Potential


class PotentialCalculator(Calculator):
    """Energy, forces and stress of a potential, in ASE's units and conventions.

    Computes only what is asked for: an energy costs no backward pass, forces no strain. Energies
    are summed in float64 whatever the network's precision.

    Parameters
    ----------
    potential : path or Potential
        A `.safetensors` model of this package, a mace-torch `.model`, or a live potential, which
        is used as it is and never changed.
    skin : float, Å
        Extra reach of the neighbour list, reused until an atom has moved half of it. Exact:
        ignored where edges beyond the cutoff would add something.
    dtype : torch.dtype or str, optional
        Precision of the network: "float32" or "float64"; default as saved.
    device : str
        "cpu", "cuda", ...
    compile : bool
        Reserved for torch.compile.

    Attributes
    ----------
    potential : Potential
    conservative : bool
        False where forces are a direct readout: then energy is not conserved in MD.

    Examples
    --------
    >>> from ase.build import molecule
    >>> from ase_ws import PotentialCalculator
    >>> atoms = molecule("CH3OH")
    >>> atoms.calc = PotentialCalculator("model.safetensors")  # doctest: +SKIP
    >>> atoms.get_potential_energy()  # doctest: +SKIP
    """

    implemented_properties = ["energy", "free_energy", "energies", "forces", "stress"]  # noqa: RUF012 - ASE's class attribute is a list

    def __init__(
        self,
        potential: str | os.PathLike[str] | Potential,
        *,
        skin: float = 0.5,
        dtype: torch.dtype | str | None = None,
        device: str = "cpu",
        compile: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if compile:
            raise CalculatorSetupError(
                "compile=True is not available in this version; leave it out"
            )
        if isinstance(potential, str | os.PathLike):
            potential = load_potential(potential, dtype=dtype, device=device).requires_grad_(False)
        elif dtype is not None or device != "cpu":
            potential = _moved_copy(potential, dtype, device)
        self.potential: Potential = potential
        self.conservative = potential.conservative
        self._evaluator = lean(potential)
        self.graph = SkinnedGraph(
            potential.r_max,
            skin if potential.skin_safe else 0.0,
            resolve_device(device),
            getattr(potential, "dtype", torch.float64),
        )

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Compute the asked properties into `self.results` (ASE's interface)."""
        super().calculate(atoms, list(properties), list(system_changes))
        if system_changes:
            self.results = {}
        atoms = self.atoms
        assert atoms is not None
        stress = "stress" in properties
        if stress and (atoms.cell.rank < 3 or not atoms.pbc.any()):
            raise PropertyNotImplementedError("stress needs a periodic structure with a full cell")
        with torch.no_grad():
            prediction = self._evaluator(
                self.graph(atoms), forces="forces" in properties, stress=stress
            )
        energy = float(prediction.energy)
        self.results.update(energy=energy, free_energy=energy)
        if prediction.energies is not None:
            self.results["energies"] = prediction.energies.cpu().numpy()
        if prediction.forces is not None:
            self.results["forces"] = prediction.forces.detach().cpu().double().numpy()
        if prediction.stress is not None:
            full = prediction.stress[0].detach().cpu().double().numpy()
            self.results["stress"] = full_3x3_to_voigt_6_stress(full)


def _moved_copy(potential: Potential, dtype: torch.dtype | str | None, device: str) -> Potential:
    """Copy a live potential before moving it: the caller's stays where it is."""
    if not isinstance(potential, torch.nn.Module):
        raise CalculatorSetupError("dtype and device can only be chosen for torch modules")
    moved = copy.deepcopy(potential).to(resolve_device(device))
    return moved if dtype is None else moved.to(resolve_dtype(dtype))
