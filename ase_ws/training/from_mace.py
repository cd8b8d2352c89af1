"""What a configuration of `mace_run_train` means here, setting by setting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import yaml
from ase.data import chemical_symbols

from ase_ws.errors import UserError
from ase_ws.frames import read_frames

#: The same under another name: a value is taken as it is.
SAME = {
    "train_file": "data.train",
    "valid_file": "data.valid",
    "valid_fraction": "data.valid_fraction",
    "energy_key": "data.energy_key",
    "forces_key": "data.forces_key",
    "config_type_weights": "data.config_type_weights",
    "foundation_head": "model.head",
    "r_max": "model.r_max",
    "hidden_irreps": "model.hidden_irreps",
    "num_interactions": "model.num_interactions",
    "max_ell": "model.max_ell",
    "correlation": "model.correlation",
    "num_radial_basis": "model.num_bessel",
    "MLP_irreps": "model.MLP_irreps",
    "radial_MLP": "model.radial_MLP",
    "interaction": "model.interaction",
    "interaction_first": "model.interaction_first",
    "distance_transform": "model.distance_transform",
    "pair_repulsion": "model.pair_repulsion",
    "energy_weight": "loss.energy_weight",
    "forces_weight": "loss.forces_weight",
    "stress_weight": "loss.stress_weight",
    "huber_delta": "loss.delta",
    "batch_size": "optimizer.batch_size",
    "lr": "optimizer.learning_rate",
    "weight_decay": "optimizer.weight_decay",
    "clip_grad": "optimizer.gradient_clip",
    "ema_decay": "optimizer.ema_decay",
    "scheduler_patience": "optimizer.plateau",
    "weight_pt_head": "replay.weight",
    "seed": "seed",
    "device": "device",
    "default_dtype": "dtype",
}
#: What a new network of upstream's is where its configuration says nothing.
_NETWORK = {
    "model.hidden_irreps": "128x0e+128x1o",
    "model.max_ell": 3,
    "model.correlation": 3,
    "model.interaction_first": "RealAgnosticResidualInteractionBlock",
}
_LOSSES = {
    **dict.fromkeys(("weighted", "ef", "stress", "forces_only", "virials"), "square"),
    "huber": "huber",
    "universal": "universal",
    "l1l2energyforces": "l1l2",
}
_SCHEDULES = {"ReduceLROnPlateau": "plateau", "ExponentialLR": "exponential"}
_OPTIMIZERS = {"adam": "adam", "adamw": "adam", "schedulefree": "schedule-free"}
#: Nothing has to be said of these here.
_NEEDLESS = {
    *("model", "amsgrad", "ema", "swa", "stage_two", "compute_forces", "compute_stress"),
    *("num_workers", "pin_memory", "valid_batch_size", "log_dir", "model_dir", "results_dir"),
    *("checkpoints_dir", "log_level", "plot", "error_table", "save_cpu", "scaling", "lora"),
    *("foundation_model_elements", "multiheads_finetuning", "keep_checkpoints", "optimizer"),
    *("save_all_checkpoints", "restart_latest", "enable_cueq", "start_stage_two", "stage_two_lr"),
    *("stage_two_energy_weight", "stage_two_forces_weight", "stage_two_stress_weight"),
    *("pseudolabel_replay", "num_channels", "max_L", "compute_avg_num_neighbors"),
    *("max_num_epochs", "eval_interval"),
}


def is_of_mace(tree: Mapping[str, Any]) -> bool:
    """Tell whether these are settings of `mace_run_train`: no sections, and names of its own."""
    return any(name in tree for name in ("train_file", "foundation_model", "max_num_epochs", "E0s"))


def translated(given: Mapping[str, Any]) -> str:
    """Say in YAML what a configuration of `mace_run_train` means here.

    Parameters
    ----------
    given : mapping
        Its settings, by their names on its command line.

    Returns
    -------
    str
        What has no counterpart, or another meaning, stands in comments at the end.
    """
    # Upstream takes the older names of its second stage, too.
    values = {
        name.replace("start_swa", "start_stage_two").replace("swa_", "stage_two_"): value
        for name, value in given.items()
    }
    found = {SAME[name]: value for name, value in values.items() if name in SAME}
    remarks: list[str] = []
    if "foundation_model" in values:
        found["model.base"] = values["foundation_model"]
        if str(values["foundation_model"]) in ("small", "medium", "large"):
            remarks.append("model.base: the name of a model to download; give its file")
    else:
        found = {**_NETWORK, **found}
        channels, degree = values.get("num_channels"), values.get("max_L")
        if channels is not None:
            degrees = range((1 if degree is None else degree) + 1)
            terms = [f"{channels}x{n}{'eo'[n % 2]}" for n in degrees]
            found["model.hidden_irreps"] = "+".join(terms)
    found.setdefault("data.energy_key", "REF_energy")
    for translate in _OTHERWISE:
        translate(values, found, remarks)
    known = {*SAME, *_NEEDLESS, *_TAKEN}
    remarks += [
        f"{name}: {value} has no counterpart"
        for name, value in given.items()
        if name.replace("swa_", "stage_two_") not in known
    ]
    tree: dict[str, Any] = {}
    for dotted, value in found.items():
        section, _, leaf = dotted.rpartition(".")
        (tree.setdefault(section, {}) if section else tree)[leaf] = value
    notes = "".join(f"# {remark}\n" for remark in remarks)
    return yaml.safe_dump(tree, sort_keys=False) + notes


def _labels(values: dict[str, Any], found: dict[str, Any], remarks: list[str]) -> None:
    stress = values.get("stress_key") or values.get("virials_key")
    if stress:
        found["data.stress_key"] = stress
    e0s = values.get("E0s")
    if isinstance(e0s, str) and e0s.strip().startswith("{"):
        e0s = yaml.safe_load(e0s)
    if isinstance(e0s, Mapping):
        found["data.e0s"] = {chemical_symbols[int(z)]: float(e) for z, e in e0s.items()}
    elif e0s in ("average", "estimated"):
        found["data.e0s"] = "fit"
    elif e0s == "IsolatedAtom":
        found["data.e0s"] = "atoms"
    elif e0s == "foundation":
        found["data.e0s"] = "keep"
    elif e0s is not None:
        remarks.append(f"E0s: {e0s}: write its energies as data.e0s: {{H: -13.6, ...}}")


def _loss(values: dict[str, Any], found: dict[str, Any], remarks: list[str]) -> None:
    loss = values.get("loss")
    if loss in _LOSSES:
        found["loss.metric"] = _LOSSES[loss]
        if loss == "forces_only":
            found["loss.energy_weight"] = 0.0
    elif loss is not None:
        remarks.append(f"loss: {loss} has no counterpart")


def _steps(values: dict[str, Any], found: dict[str, Any], remarks: list[str]) -> None:
    """Epochs become steps where the training file can be counted."""
    epochs = values.get("max_num_epochs")
    if epochs is None:
        return
    try:
        n_frames = len(read_frames(values["train_file"]))
    except (KeyError, UserError):
        remarks.append(
            f"max_num_epochs: {epochs}: optimizer.max_steps is that times frames / batch_size"
        )
        return
    per_epoch = max(1, n_frames // int(values.get("batch_size", 10)))
    found["optimizer.max_steps"] = int(epochs) * per_epoch
    found["optimizer.valid_interval"] = per_epoch * int(values.get("eval_interval", 1))


def _optimiser(values: dict[str, Any], found: dict[str, Any], remarks: list[str]) -> None:
    kind = values.get("optimizer")
    if kind in _OPTIMIZERS:
        found["optimizer.kind"] = _OPTIMIZERS[kind]
    schedule = values.get("scheduler")
    if schedule in _SCHEDULES:
        found["optimizer.schedule"] = _SCHEDULES[schedule]
    elif schedule is not None:
        remarks.append(f"scheduler: {schedule} has no counterpart")
    factors = values.get("lr_params_factors")
    factors = yaml.safe_load(factors) if isinstance(factors, str) else factors
    for name, factor in (factors or {}).items():
        part = name.removesuffix("_lr_factor").replace("embedding", "node_embedding")
        found.setdefault("optimizer.rates", {})[part] = factor
    if values.get("patience") is not None:
        found["optimizer.patience"] = values["patience"]
    if values.get("stage_two") or values.get("swa"):
        epochs = int(values.get("max_num_epochs", 2048))
        start = int(values.get("start_stage_two") or epochs // 4 * 3)
        if start >= epochs:
            remarks.append(f"start_stage_two: {start}: after the last epoch, so left out")
            return
        found["optimizer.second_stage"] = round(start / epochs, 4)
        rate = float(values.get("stage_two_lr", 1e-3))
        found["optimizer.second_rate"] = round(rate / (float(values.get("lr", 0.01)) or 0.01), 6)
        # Weights of both stages are of one scale.
        found.setdefault("loss.energy_weight", 1.0)
        found.setdefault("loss.forces_weight", 100.0)
        found["loss.second"] = {
            "energy": float(values.get("stage_two_energy_weight", 1000.0)),
            "forces": float(values.get("stage_two_forces_weight", 100.0)),
        }


def _tuning(values: dict[str, Any], found: dict[str, Any], remarks: list[str]) -> None:
    if values.get("lora"):
        found["model.lora_rank"] = values.get("lora_rank", 4)
        found["model.lora_alpha"] = values.get("lora_alpha", 1.0)
    if values.get("freeze"):
        remarks.append(f"freeze: {values['freeze']}: name the parts in model.freeze")
    if values.get("pt_train_file"):
        found["replay.train"] = values["pt_train_file"]
        found["replay.labels"] = "base" if values.get("pseudolabel_replay") else "file"
        found["replay.head"] = "pt_head"
    if values.get("wandb"):
        found["log"] = ["wandb"]
    folder = values.get("name") or values.get("work_dir")
    if folder:
        remarks.append(f"name: {folder}: --out {folder} on the command line")


_OTHERWISE: tuple[Callable[[dict[str, Any], dict[str, Any], list[str]], None], ...] = (
    _labels,
    _loss,
    _steps,
    _optimiser,
    _tuning,
)
_TAKEN = {
    *("foundation_model", "stress_key", "virials_key", "E0s", "loss", "scheduler"),
    *("lr_params_factors", "patience", "lora_rank", "lora_alpha", "freeze", "pt_train_file"),
    *("wandb", "name", "work_dir"),
}
