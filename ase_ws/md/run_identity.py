"""What a run starts from, by content: a resumed run must start from the same."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
from ase import Atoms
from ase.io.jsonio import encode

from ase_ws.md.fingerprint import fingerprint
from ase_ws.md.integrators import Baths
from ase_ws.md.run_setup import RunSetup
from ase_ws.md.trajectory_frame import KEPT_INFO

#: Positions and the like count as the same up to this (Å, amu, ASE's momenta).
_SAME = 1e-6


class RunIdentity:
    """Settings of a run, as JSON holds them, and its starting structure, as arrays by name."""

    def __init__(self, settings: dict[str, Any], arrays: dict[str, np.ndarray]):
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self.arrays = arrays

    @classmethod
    def of(
        cls, setup: RunSetup, baths: Baths, interval: int, *, keep_velocities: bool
    ) -> RunIdentity:
        """Take note of a run that is about to start."""
        atoms = setup.atoms
        arrays = {
            "numbers": atoms.numbers.copy(),
            "masses": atoms.get_masses(),
            "positions": atoms.get_positions(),
            "cell": atoms.cell.array.copy(),
            "initial charges": atoms.get_initial_charges(),
            "initial magnetic moments": atoms.get_initial_magnetic_moments(),
        }
        if keep_velocities:
            arrays["momenta"] = atoms.get_momenta()
        settings = {
            "structure": atoms.get_chemical_formula(),
            "pbc": atoms.pbc.tolist(),
            "system": {key: str(atoms.info[key]) for key in KEPT_INFO if key in atoms.info},
            "potential": fingerprint(atoms.calc),
            "constraints": [_described(constraint) for constraint in atoms.constraints],
            "keep_velocities": keep_velocities,
            **asdict(setup.context),
            **asdict(baths),
            "seed": setup.seed,
            "interval": int(interval),
        }
        return cls(settings, arrays)

    def differs_from(self, saved: RunIdentity) -> str | None:
        """Say what is not as in `saved`, the first thing; `steps` may differ."""
        for name, now in self.settings.items():
            before = saved.settings[name]
            if before != now and name != "steps":
                return f"the run had {name} {_short(before)}, now it is {_short(now)}"
        for name, now in self.arrays.items():
            before = saved.arrays[name]
            if before.shape != now.shape:
                return f"the run started from other {name}"
            far = np.abs(before - now) > _SAME
            if far.any():
                row = int(np.argwhere(far)[0][0])
                what = "lattice vector" if name == "cell" else "atom"
                return (
                    f"the run started from other {name}: {what} {row} had "
                    f"{_short(before[row].tolist())}, now {_short(now[row].tolist())}"
                )
        return None


def _described(constraint: Any) -> Any:
    """Give a constraint as plain data; by its name where it cannot say more."""
    said: dict[str, Any] = constraint.todict() or {"name": type(constraint).__name__}
    # The whole structure that FixSymmetry keeps says no more than the start itself.
    kwargs = {k: v for k, v in said.get("kwargs", {}).items() if not isinstance(v, Atoms)}
    return json.loads(encode({"name": said["name"], **kwargs}))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
