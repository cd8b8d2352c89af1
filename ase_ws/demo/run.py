"""The main job on the packaged data: fine-tune, compare, check stability, report.

50 CCSD(T) energies of methanol, a base model of a cheaper level, and the question whether the
potentials that come out, by gradient steps with and without weak losses and in closed form, can be
trusted.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase.build import molecule

from ase_ws._version import __version__
from ase_ws.calculators import PotentialCalculator
from ase_ws.data import BASE_MODEL, METHANOL_TEST, METHANOL_TRAIN
from ase_ws.demo.sentences import findings
from ase_ws.devices import threads
from ase_ws.files.folders import make_clear, require_free
from ase_ws.files.writing import write_text
from ase_ws.frames import Frame, read_frames
from ase_ws.potentials.base import PotentialModule
from ase_ws.potentials.files import load_potential, read_header
from ase_ws.report import SCHEMA_VERSION, write_demo_report
from ase_ws.stability.check_stability import check_stability
from ase_ws.training import FinetuneConfig, evaluate_potential, finetune
from ase_ws.training.start import refit_e0

#: Gives, for the title of a stage, a function that shows its progress.
Stage = Callable[[str], Any]


@dataclass(frozen=True)
class DemoSettings:
    """How large the demonstration is; the defaults fit five minutes on two cores."""

    n_train: int = 50
    n_valid: int = 20
    steps: int = 500
    temperatures: tuple[float, ...] = (300.0, 600.0)
    ps: float = 1.0
    replicas: int = 1
    seed: int = 0


class _Method(NamedTuple):
    """One way to fine-tune: its folder, its name, and settings by section."""

    key: str
    name: str
    settings: dict[str, dict[str, Any]]


def _methods(steps: int) -> tuple[_Method, ...]:
    adam = {"kind": "adam", "max_steps": steps}
    return (
        _Method("supervised", "fine-tuned, supervised only", {"optimizer": adam}),
        _Method("weak", "fine-tuned, PITC + PISC", {"optimizer": adam, "weak": {"kind": "both"}}),
        _Method(
            "gauss_newton",
            "fine-tuned, in closed form (Gauss–Newton)",
            {"optimizer": {"kind": "gauss-newton"}},
        ),
    )


@contextmanager
def _silent(title: str) -> Iterator[Callable[[int, int, str], None]]:
    yield lambda done, total, text: None


def run_demo(
    out: str | os.PathLike[str],
    settings: DemoSettings | None = None,
    *,
    stage: Stage = _silent,
    command: str = "",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Run the demonstration and write `results.json` and `report.html`.

    Parameters
    ----------
    out : path
        Folder for the report, the results and the fine-tuned models.
    settings : DemoSettings, optional
    stage : callable, optional
        Context manager that takes a title and gives a progress function.
    command : str
        Noted in the results.
    overwrite : bool
        Replace what an earlier demonstration left in `out`.

    Returns
    -------
    dict
        The content of `results.json`, see `ase_ws.results.demo`.
    """
    settings = settings or DemoSettings()
    out = Path(out)
    require_free(out, overwrite=overwrite)
    make_clear(out, ("results.json", "report.html"))
    started = time.perf_counter()
    frames = read_frames(METHANOL_TRAIN)
    train = frames[: settings.n_train]
    valid = frames[settings.n_train : settings.n_train + settings.n_valid]
    test = read_frames(METHANOL_TEST)
    # Six atoms are too few to share: a second thread costs more than it brings.
    with threads(1):
        models = [_entry("base", "base model (GFN2-xTB, E0 re-fitted)", _base(train), test)]
        for method in _methods(settings.steps):
            models.append(_fine_tuned(method, out, train, valid, test, settings, stage))
    results = {
        "schema_version": SCHEMA_VERSION,
        "ase_ws_version": __version__,
        "title": f"Methanol at CCSD(T) from {settings.n_train} energies: "
        "can the potential be trusted?",
        "command": command,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "wall_time_s": round(time.perf_counter() - started, 1),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "mace-torch", "ase", "numpy")},
        },
        "system": {"cores": os.cpu_count(), "threads used": 1, "machine": platform.machine()},
        "settings": asdict(settings),
        "data": {
            "train": f"{len(train)} energies of methanol, no forces",
            "valid": f"{len(valid)} energies, no forces",
            "test": f"{len(test)} frames with energies and analytic forces, never trained on",
            "level": "HF/CBS + MP2/CBS(cc-pV[DT]Z) + [CCSD(T) − MP2]/cc-pVDZ, frozen core",
            "base model": "small MACE trained on GFN2-xTB energies and forces of small CHO "
            "molecules, methanol among them",
        },
        "models": models,
    }
    results["findings"] = findings(models)
    results = _plain(results)
    write_text(out / "results.json", json.dumps(results, allow_nan=False) + "\n")
    write_demo_report(results, out / "report.html")
    return results


def _base(train: Sequence[Frame]) -> PotentialModule:
    """Give the base model at the E0 of the new level: the fair thing to compare with."""
    potential = load_potential(BASE_MODEL)
    refit_e0(potential, train, {})
    return potential


def _fine_tuned(
    method: _Method,
    out: Path,
    train: Sequence[Frame],
    valid: Sequence[Frame],
    test: Sequence[Frame],
    settings: DemoSettings,
    stage: Stage,
) -> dict[str, Any]:
    config = FinetuneConfig.model_validate(
        {**method.settings, "seed": settings.seed, "device": "cpu"}
    )
    folder = out / method.key
    begin = time.perf_counter()
    with stage(f"{method.name}: training") as report:
        result = finetune(
            train,
            valid,
            model=BASE_MODEL,
            config=config,
            out=folder,
            overwrite=True,
            progress=lambda done, total, row: report(done, total, ""),
        )
    seconds = time.perf_counter() - begin
    entry = _entry(method.key, method.name, result.potential, test)
    used = read_header(folder / "model.safetensors")["provenance"]["config"]
    stepwise = used["optimizer"]["kind"] == "adam"
    entry["training"] = {
        "steps": result.history[-1]["step"],
        "seconds": round(seconds, 1),
        "weak": used["weak"]["kind"],
        "settings": _settings_of_note(used),
        # A few iterations have no place on an axis of many steps.
        "history": [{**r, "loss": r["valid_loss"]} for r in result.history if stepwise],
    }
    entry["stability"] = _stability(result.potential, method.name, settings, stage)
    return entry


def _settings_of_note(config: dict[str, Any]) -> dict[str, Any]:
    """Pick the settings that differ between runs and matter to a reader."""
    optimizer, weak = config["optimizer"], config["weak"]
    if optimizer["kind"] != "adam":
        return {"optimizer": optimizer["kind"]}
    note = {
        "learning rate": optimizer["learning_rate"],
        "batch size": optimizer["batch_size"],
        "weak losses": weak["kind"],
    }
    if weak["kind"] != "none":
        note |= {
            "order": weak["order"],
            "ε (Å)": weak["epsilon"],
            "weights": f"{weak['pitc_weight']}, {weak['pisc_weight']}",
            "residual of": "difference to the base" if weak["reference"] == "base" else "potential",
        }
    return note


def _entry(
    key: str, name: str, potential: PotentialModule, test: Sequence[Frame]
) -> dict[str, Any]:
    evaluation = evaluate_potential(potential, test)
    mean = evaluation.energy_ref.mean()
    return {
        "key": key,
        "name": name,
        "training": None,
        "errors": evaluation.metrics,
        "parity": {
            "energy_ref": (evaluation.energy_ref - mean).tolist(),
            "energy_pred": (evaluation.energy_pred - mean).tolist(),
            "forces_ref": np.round(evaluation.forces_ref, 5).tolist(),
            "forces_pred": np.round(evaluation.forces_pred, 5).tolist(),
        },
        "stability": [],
    }


def _stability(
    potential: PotentialModule, name: str, settings: DemoSettings, stage: Stage
) -> list[dict[str, Any]]:
    kelvins = " and ".join(f"{temperature:g} K" for temperature in settings.temperatures)
    with stage(f"{name}: MD at {kelvins}") as report:
        verdict = check_stability(
            molecule("CH3OH"),
            PotentialCalculator(potential),
            temperature=settings.temperatures,
            ps=settings.ps,
            replicas=settings.replicas,
            seed=settings.seed,
            name=name,
            progress=lambda done, total, text: report(done, total, ""),
        )
    return [verdict.to_dict()]


def _plain(results: Any) -> Any:
    """Make it JSON: NaN is null, and numbers of numpy are plain ones."""
    if isinstance(results, dict):
        return {str(k): _plain(v) for k, v in results.items()}
    if isinstance(results, list | tuple):
        return [_plain(v) for v in results]
    if isinstance(results, np.generic):
        results = results.item()
    if isinstance(results, float) and not np.isfinite(results):
        return None
    return results
