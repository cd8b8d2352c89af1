"""Structure, calculator and threads, as several commands need them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from ase_ws.cli.output import say


def attach(
    model: Path,
    structure: Path,
    dtype: str | None,
    device: str | None,
    head: str | None = None,
    *,
    quiet: bool = False,
) -> tuple[Any, Any, float | None]:
    """Load structure and calculator, and the largest force that the model was trained on."""
    from ase_ws.calculators.potential import PotentialCalculator
    from ase_ws.frames import check_elements, frame_from_atoms, read_structure
    from ase_ws.md.trajectory_frame import KEPT_INFO
    from ase_ws.potentials.files import largest_training_force

    atoms = read_structure(structure)
    potential = load(model, quiet=quiet, dtype=dtype, device=device or "cpu", head=head)
    potential.requires_grad_(False)
    calculator = PotentialCalculator(potential)
    # Labels of the structure, if any, do not matter here.
    bare = atoms.copy()
    bare.info, bare.calc = {k: v for k, v in atoms.info.items() if k in KEPT_INFO}, None
    check_elements([frame_from_atoms(bare, str(structure))], potential.atomic_numbers, str(model))
    return bare, calculator, largest_training_force(model)


def load(model: Path, *, quiet: bool = False, **options: Any) -> Any:
    """Load a potential, see `load_potential`, and say which of several heads is used."""
    from ase_ws.potentials.files import HeadWarning, load_potential

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HeadWarning)  # said below, in our own way
        potential = load_potential(model, **options)
    if len(potential.heads) > 1 and not quiet:
        say(f"{model}: head '{potential.head}' of {', '.join(potential.heads)}")
    return potential


def thread_limit(number: int | None, n_atoms: int) -> Any:
    """Context with so many CPU threads, or as many as pay for so many atoms at once."""
    from ase_ws.devices import sensible_threads, threads

    return threads(number or sensible_threads(n_atoms))
