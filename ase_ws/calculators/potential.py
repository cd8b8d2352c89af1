"""Any potential of this package, or an upstream MACE, as an ASE calculator."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from ase import Atoms
from ase.calculators.calculator import (
    CalculatorSetupError,
    PropertyNotImplementedError,
    all_changes,
)
from ase.stress import full_3x3_to_voigt_6_stress

from ase_ws.calculators.neighbours import SkinnedGraph
from ase_ws.calculators.strict import StrictCalculator
from ase_ws.devices import resolve_device, resolve_dtype
from ase_ws.frames.labels import has_stress
from ase_ws.potentials.base import PotentialModule
from ase_ws.potentials.error_bars import SPREADS, ErrorBars
from ase_ws.potentials.files import load_potential
from ase_ws.typing import GraphBatch, Potential, Prediction


class PotentialCalculator(StrictCalculator):
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
    device : str or torch.device, optional
        "cpu", "cuda", ...; default where a live potential is, the CPU for a file.
    compile : bool
        Use torch.compile: the first calculation takes a minute or two, the others less than half
        the time. For MD of small structures; edges are padded, so that it compiles once.
    head : str, optional
        Of a multi-head model, as in `load_potential`. A live potential has its head already.
    error_bars : bool
        Give `energy_spread` (eV) and `forces_spread` ((n_atoms,), eV/Å) beside energy and forces:
        their standard deviations, see `ErrorBars`. For models that carry a posterior.
    atoms : Atoms, optional
        Get the calculator attached.

    Attributes
    ----------
    potential : Potential
    evaluator : Potential
        Its lean form, where there is one.
    conservative : bool
        False where forces are a direct readout: then energy is not conserved in MD.

    Raises
    ------
    TypeError
        A keyword that is none of these.

    Examples
    --------
    >>> from ase.build import molecule
    >>> from ase_ws import PotentialCalculator
    >>> atoms = molecule("CH3OH")
    >>> atoms.calc = PotentialCalculator("model.safetensors")  # doctest: +SKIP
    >>> atoms.get_potential_energy()  # doctest: +SKIP
    """

    implemented_properties = ["energy", "free_energy", "energies", "forces", "stress"]  # noqa: RUF012 - ASE's class attribute is a list
    _made = ("evaluator", "error_bars")

    def __init__(
        self,
        potential: str | os.PathLike[str] | Potential,
        *,
        skin: float = 0.5,
        dtype: torch.dtype | str | None = None,
        device: str | torch.device | None = None,
        compile: bool = False,
        head: str | None = None,
        error_bars: bool = False,
        atoms: Atoms | None = None,
        **unknown: Any,
    ):
        super().__init__(unknown)
        if isinstance(potential, str | os.PathLike):
            potential = load_potential(potential, dtype=dtype, device=device or "cpu", head=head)
            potential.requires_grad_(False)
        else:
            _check_head(potential, head)
            potential = _as_asked(potential, dtype, device)
        self.potential: Potential = potential
        self.conservative = potential.conservative
        self._compile = compile
        self._with_error_bars = error_bars
        if error_bars:
            self.implemented_properties = [*self.implemented_properties, *SPREADS]
        self._prepare()
        self.graph = SkinnedGraph(
            potential.r_max,
            skin if potential.skin_safe else 0.0,
            _device_of(potential),
            getattr(potential, "dtype", torch.float64),
        )
        if atoms is not None:
            atoms.calc = self

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Compute the asked properties into `self.results` (ASE's interface)."""
        super().calculate(atoms, properties, system_changes)
        atoms = self.atoms
        assert atoms is not None
        if "stress" in properties and not has_stress(atoms):
            raise PropertyNotImplementedError("stress needs a periodic structure with a full cell")
        self.results.update(self._results(self.graph(atoms), properties, [atoms])[0])

    def reset(self) -> None:
        """Forget results, atoms and neighbour list (ASE's interface)."""
        super().reset()
        if hasattr(self, "graph"):
            self.graph.forget()

    def calculate_many(
        self,
        structures: Iterable[Atoms],
        properties: Sequence[str] = ("energy", "forces"),
        *,
        batch_atoms: int = 2000,
    ) -> list[dict[str, Any]]:
        """Compute many structures together, of any sizes; `self.results` stays as it is.

        Parameters
        ----------
        structures : iterable of Atoms
        properties : sequence of str
            Of "energy", "forces", "stress" (periodic structures only), "energies".
        batch_atoms : int
            Structures go through the network together up to so many atoms.

        Returns
        -------
        list of dict
            Results of each structure, as `Calculator.results` would hold them.
        """
        stress, structures = "stress" in properties, list(structures)
        for k, atoms in enumerate(structures):
            if stress and not has_stress(atoms):
                raise PropertyNotImplementedError(
                    f"structure {k}: stress needs a periodic structure with a full cell"
                )
        out: list[dict[str, Any]] = []
        for some in _batches(structures, batch_atoms):
            out += self._results(self.graph.joined(some), properties, some)
        return out

    def _results(
        self, batch: GraphBatch, properties: Sequence[str], structures: Sequence[Atoms]
    ) -> list[dict[str, Any]]:
        """Results of each structure of a batch."""
        if self.error_bars is None:
            return _apart(self.evaluate(batch, properties), structures)
        forces = not {"forces", "forces_spread"}.isdisjoint(properties)
        prediction, spreads = self.error_bars(batch, forces=forces)
        if "stress" in properties:
            prediction = self.evaluate(batch, [*properties, "forces"])
        found = _apart(prediction, structures)
        for results, values in zip(found, spreads.apart(batch), strict=True):
            results.update(values)
        return found

    def evaluate(self, batch: GraphBatch, properties: Sequence[str] = ("forces",)) -> Prediction:
        """Energies of a batch, and forces and stress where asked, without ASE between."""
        forces, stress = "forces" in properties, "stress" in properties
        # No force could be computed in the caller's inference mode.
        with torch.inference_mode(False), torch.no_grad():
            return self.evaluator(batch, forces=forces, stress=stress)

    @property
    def is_float64(self) -> bool:
        """Whether the potential is evaluated in float64."""
        return self.graph.dtype == torch.float64

    def in_float64(self) -> PotentialCalculator:
        """Give a calculator of its own on a float64 copy of the potential, not compiled."""
        potential = copy.deepcopy(self.potential)
        # Potentials that are no torch modules have the one precision that they are written for.
        if isinstance(potential, torch.nn.Module):
            potential = potential.to(torch.float64)
        return PotentialCalculator(
            potential, skin=self.graph.skin, error_bars=self._with_error_bars
        )

    def _prepare(self) -> None:
        potential = self.potential
        offers = isinstance(potential, PotentialModule)
        self.evaluator = potential.lean(compiled=self._compile) if offers else potential
        self.error_bars = ErrorBars(potential) if self._with_error_bars else None
        if self._compile and self.evaluator is potential:
            raise CalculatorSetupError(
                "compile=True knows no way for this kind of model; leave it out"
            )


def _batches(structures: Sequence[Atoms], most_atoms: int) -> Iterator[list[Atoms]]:
    some: list[Atoms] = []
    n_atoms = 0
    for atoms in structures:
        if some and n_atoms + len(atoms) > most_atoms:
            yield some
            some, n_atoms = [], 0
        some.append(atoms)
        n_atoms += len(atoms)
    if some:
        yield some


def results_of(prediction: Prediction) -> dict[str, Any]:
    """Turn the prediction for one structure into ASE's results."""
    energy = float(prediction.energy)
    results: dict[str, Any] = {"energy": energy, "free_energy": energy}
    if prediction.energies is not None:
        results["energies"] = prediction.energies.cpu().numpy()
    if prediction.forces is not None:
        results["forces"] = prediction.forces.detach().cpu().double().numpy()
    if prediction.stress is not None:
        full = prediction.stress[0].detach().cpu().double().numpy()
        results["stress"] = full_3x3_to_voigt_6_stress(full)
    return results


def _apart(prediction: Prediction, structures: Sequence[Atoms]) -> list[dict[str, Any]]:
    sizes = [len(atoms) for atoms in structures]
    parts: list[Any] = [
        [None] * len(sizes) if value is None else value.split(n)
        for value, n in zip(prediction, (1, sizes, 1, sizes), strict=True)
    ]
    return [results_of(Prediction(*values)) for values in zip(*parts, strict=True)]


def _check_head(potential: Potential, head: str | None) -> None:
    mine = getattr(potential, "head", None)
    if head is not None and head != mine:
        has = "has no heads" if mine is None else f"is there with its head '{mine}'"
        raise CalculatorSetupError(
            f"head '{head}': this potential {has}; load another with load_potential(..., head=...)"
        )


def _device_of(potential: Potential) -> torch.device:
    """Where the weights are; potentials without weights work on the CPU."""
    found = getattr(potential, "device", None)
    if found is None and isinstance(potential, torch.nn.Module):
        tensors = [*potential.parameters(), *potential.buffers()]
        found = tensors[0].device if tensors else None
    return torch.device(found or "cpu")


def _as_asked(
    potential: Potential, dtype: torch.dtype | str | None, device: str | torch.device | None
) -> Potential:
    """Give a live potential as it is, or a copy where it is to be another: it is never changed."""
    there = _device_of(potential)
    wanted = there if device is None else resolve_device(device)
    # "cuda" stands for whichever one it is on.
    moves = wanted.type != there.type or wanted.index not in (None, there.index)
    if dtype is None and not moves:
        return potential
    if not isinstance(potential, torch.nn.Module):
        raise CalculatorSetupError("dtype and device can only be chosen for torch modules")
    moved = copy.deepcopy(potential)
    if moves:
        moved = moved.to(wanted)
    return moved if dtype is None else moved.to(resolve_dtype(dtype))
