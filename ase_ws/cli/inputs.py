"""Structure, calculator and threads, as several commands need them."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def attach(
    model: Path, structure: Path, dtype: str | None, device: str | None
) -> tuple[Any, Any, float | None]:
    """Load structure and calculator, and the largest force that the model was trained on."""
    from ase_ws.calculators.potential import PotentialCalculator
    from ase_ws.frames import check_elements, frame_from_atoms, read_structure
    from ase_ws.potentials.files import read_header

    atoms = read_structure(structure)
    calculator = PotentialCalculator(model, dtype=dtype, device=device or "cpu")
    # Labels of the structure, if any, do not matter here.
    bare = atoms.copy()
    bare.info, bare.calc = {}, None
    check_elements(
        [frame_from_atoms(bare, str(structure))], calculator.potential.atomic_numbers, str(model)
    )
    if model.suffix != ".safetensors":
        return bare, calculator, None
    provenance = read_header(model).get("provenance", {})
    return bare, calculator, provenance.get("largest_training_force_ev_per_angstrom")


def thread_limit(number: int | None, n_atoms: int) -> Any:
    """Context with so many CPU threads, or as many as pay for so many atoms at once."""
    from ase_ws.devices import sensible_threads, threads

    return threads(number or sensible_threads(n_atoms))
