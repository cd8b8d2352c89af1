"""What a campaign keeps on file, as plain JSON that gives back the very same numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import dict2constraint
from ase.io.jsonio import encode

from ase_ws.results.check import CheckResult, StaticCheckResult
from ase_ws.results.finding import Finding
from ase_ws.results.replica import ReplicaResult
from ase_ws.stability.runs.prepare import Preparation
from ase_ws.stability.runs.replicas import Run


def atoms_to_dict(atoms: Atoms) -> dict[str, Any]:
    """Plain dictionary of a structure, with energy and forces where it holds them.

    Numbers that are not finite become null.
    """
    results = {} if atoms.calc is None else getattr(atoms.calc, "results", {})
    record: dict[str, Any] = {
        "numbers": atoms.numbers.tolist(),
        "positions": _listed(atoms.positions),
        "cell": _listed(atoms.cell.array),
        "pbc": atoms.pbc.tolist(),
        "info": {key: value for key, value in atoms.info.items() if _is_plain(value)},
    }
    for name in ("momenta", "masses"):
        if name in atoms.arrays:
            record[name] = _listed(atoms.arrays[name])
    for name in ("energy", "forces"):
        if results.get(name) is not None:
            record[name] = _listed(results[name])
    if atoms.constraints:
        record["constraints"] = json.loads(encode([c.todict() for c in atoms.constraints]))
    return record


def atoms_from_dict(record: Mapping[str, Any]) -> Atoms:
    """Read what `atoms_to_dict` wrote; null becomes NaN."""
    atoms = Atoms(
        numbers=record["numbers"],
        positions=_array(record["positions"]).reshape(-1, 3),
        cell=_array(record["cell"]),
        pbc=record["pbc"],
        info=dict(record["info"]),
        masses=_array(record["masses"]) if "masses" in record else None,
    )
    if "momenta" in record:
        atoms.arrays["momenta"] = _array(record["momenta"]).reshape(-1, 3)
    if "constraints" in record:
        atoms.set_constraint([dict2constraint(item) for item in record["constraints"]])
    results = {name: _array(record[name]) for name in ("energy", "forces") if name in record}
    if results:
        results = {name: value if value.ndim else float(value) for name, value in results.items()}
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def preparation_to_dict(preparation: Preparation) -> dict[str, Any]:
    """Plain dictionary; the calculator and its witness stay behind."""
    begin = preparation.begin
    bare = None if begin is None else begin.copy()
    return {
        **{name: value for name, value in vars(preparation).items() if name != "witness"},
        "begin": None if bare is None else atoms_to_dict(bare),
        "checks": [check.to_dict() for check in preparation.checks],
        "findings": [finding.to_dict() for finding in preparation.findings],
        "static": [check.to_dict() for check in preparation.static],
    }


def preparation_from_dict(record: Mapping[str, Any]) -> Preparation:
    """Read what `preparation_to_dict` wrote; `begin` has no calculator yet."""
    begin = record["begin"]
    fields = {
        **record,
        "begin": None if begin is None else atoms_from_dict(begin),
        "checks": [CheckResult.from_dict(item) for item in record["checks"]],
        "findings": [Finding.from_dict(item) for item in record["findings"]],
        "static": [StaticCheckResult.from_dict(item) for item in record["static"]],
    }
    return Preparation(**fields)


def run_to_dict(run: Run) -> dict[str, Any]:
    """Plain dictionary of a replica; frames are kept of those that failed."""
    frames = run.frames if run.result.failure is not None else []
    return {
        "replica": run.result.to_dict(),
        "frames": [atoms_to_dict(frame) for frame in frames],
    }


def run_from_dict(record: Mapping[str, Any]) -> Run:
    """Read what `run_to_dict` wrote."""
    result = ReplicaResult.from_dict(record["replica"])
    return Run(result, [atoms_from_dict(frame) for frame in record["frames"]])


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | bool | int) or (
        isinstance(value, float) and bool(np.isfinite(value))
    )


def _listed(values: Any) -> Any:
    """Nested lists of floats, with None for what is not finite."""
    array = np.asarray(values, dtype=float)
    if np.isfinite(array).all():
        return array.tolist()
    nullable = array.astype(object)
    nullable[~np.isfinite(array)] = None
    return nullable.tolist()


def _array(values: Any) -> np.ndarray:
    return np.array(values, dtype=float)  # None becomes NaN
