"""One run: train a model as the case says, test it, and let MD judge it where that is asked."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import data
import design

from ase_ws.errors import DivergedError

#: The jury of MD: temperatures (K), replicas at each, their length (ps); and in NVE at 300 K.
JURY = {"temperature": (300.0, 500.0, 1000.0), "replicas": 16, "ps": 2.0}
NVE = {"temperature": 300.0, "replicas": 4, "ps": 2.0}
#: The method that trains nothing.
BASE = "base model"
Found = dict[str, Any]


def run(case: dict[str, Any]) -> dict[str, Any]:
    """Train and evaluate one model; what is not in the case is what `ase-ws finetune` ships."""
    train, valid = data.draw(case["set"], case["n"], case["seed"], case.get("start", "scratch"))
    try:
        potential, found = (untrained if case["method"] == BASE else trained)(case, train, valid)
    except DivergedError as error:
        # A result too, which nothing is compared with.
        return {"failed": str(error), "tests": {}, "valid_loss": None}
    found["tests"] = {
        name: errors(potential, frames) for name, frames in data.test_frames(case["set"]).items()
    }
    if case.get("judge"):
        found["judge"] = judge(potential, case["set"])
    return found


def untrained(case: dict[str, Any], train: list[Any], valid: list[Any]) -> tuple[Any, Found]:
    """Give the base model itself, its reference energies fitted to the labels."""
    from ase_ws.potentials.files import load_potential
    from ase_ws.training.start import refit_e0

    path = data.base_model(case["start"], case["set"])
    if path is None:
        raise ValueError("from scratch there is no base model")
    potential = load_potential(path)
    refit_e0(potential, train, {})
    return potential, {"valid_loss": None, "train_seconds": 0.0, "settings": {}}


def trained(case: dict[str, Any], train: list[Any], valid: list[Any]) -> tuple[Any, Found]:
    """Train as the case says."""
    from ase_ws.training import finetune
    from ase_ws.training.config_files import load_config

    labels = case.get("labels", "energy+forces")
    if labels.endswith("% with forces"):
        share = float(labels.split("%", maxsplit=1)[0]) / 100
        train, valid = data.without_forces(train, share), data.without_forces(valid, share)
        labels = "energy+forces"
    with tempfile.TemporaryDirectory() as folder:
        result = finetune(
            train,
            valid,
            model=data.base_model(case.get("start", "scratch"), case["set"]),
            config=config_of(case, labels),
            out=Path(folder) / "run",
        )
        written = load_config(result.path / "config.yaml").model_dump(mode="json")
    # Of the model that was kept, not of the luckiest validation.
    kept = next(row for row in result.history if row["step"] == result.kept_step)
    return result.potential, {
        "valid_loss": kept["valid_loss"],
        "train_seconds": result.history[-1]["seconds"],
        # What was shipped then, too.
        "settings": {name: written[name] for name in ("loss", "weak", "optimizer")},
    }


def config_of(case: dict[str, Any], labels: str) -> dict[str, Any]:
    """Give the configuration of `ase-ws finetune` for a case."""
    method = design.load_design().methods[case["method"]]
    return {
        "data": {"labels": labels},
        "model": {"forces": case["forces"], "r_max": data.SETS[case["set"]].r_max},
        "loss": method.loss,
        "weak": method.settings(case.get("strength")),
        "optimizer": {
            # By name: what is left to the package must not be named, or it is a choice.
            **{
                setting: case[factor]
                for factor, setting in _OPTIMIZER.items()
                if case.get(factor) is not None
            },
            **({"kind": "adam"} | method.optimizer),
        },
        "seed": case["seed"],
        "threads": 1,
    }


_OPTIMIZER = {"learning_rate": "learning_rate", "steps": "max_steps", "batch": "batch_size"}


def judge(potential: Any, name: str) -> dict[str, Any]:
    """Let MD judge: failures and simulated time by temperature, and the heating in NVE.

    Direct forces conserve nothing, which the checks of the conserved quantity would say of every
    replica at once. So these are left out for them, and NVE tells how much they heat.
    """
    from ase import Atoms

    from ase_ws import PotentialCalculator
    from ase_ws.stability import DriftCheck, FluctuationCheck, check_stability, default_checks

    frame = next(iter(data.test_frames(name).values()))[0]
    atoms = Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc)
    calculator = PotentialCalculator(potential)
    shared: dict[str, Any] = {"static": False, "blame": False}
    others = [c for c in default_checks() if not isinstance(c, DriftCheck | FluctuationCheck)]
    checks = None if potential.conservative else others
    report = check_stability(atoms, calculator, ensemble="nvt", checks=checks, **JURY, **shared)
    failures = {}
    for temperature in JURY["temperature"]:
        mine = [r for r in report.replicas if r.temperature == temperature]
        by = Counter(r.failure.check for r in mine if r.failure is not None)
        failures[f"{temperature:g} K"] = {
            "failed": by.total(),
            "by": dict(by.most_common()),
            "ps": round(sum(r.simulated_ps for r in mine), 3),
        }
    # Measured to the end, however large.
    checks = [*others, DriftCheck(fail_at=math.inf)]
    report = check_stability(atoms, calculator, ensemble="nve", checks=checks, **NVE, **shared)
    drifts = [c.worst for r in report.replicas for c in r.checks if c.name == "drift"]
    return {"nvt": failures, "nve_drift_mev_per_atom_ps": drifts}


def errors(potential: Any, frames: list[Any]) -> dict[str, float | None]:
    """Errors of the energy per structure for molecules, per atom for crystals."""
    from ase_ws.training import evaluate_potential

    metrics = evaluate_potential(potential, frames, batch_size=8).metrics
    sizes = {len(f.numbers) for f in frames}
    factor = sizes.pop() if len(sizes) == 1 and not any(f.pbc.any() for f in frames) else 1
    return {
        "energy_mev": factor * metrics["energy_rmse_mev_per_atom"],
        "forces_mev_per_angstrom": metrics["forces_rmse_mev_per_angstrom"],
        "consistency_mev_per_angstrom": metrics["force_consistency_rmse_mev_per_angstrom"],
    }
