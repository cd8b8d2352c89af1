"""What a comparison of models found, in plain sentences: also where something brought nothing."""

from __future__ import annotations

from typing import Any

#: Ratios this close to 1 are called "no difference": one seed cannot tell them apart. With few
#: energies the paired ratio of one method to another spreads by more than this over three seeds
#: (`tests/benchmarks/RESULTS.md`).
NOISE = 0.1

ENERGY = "energy_rmse_mev_per_atom"
FORCES = "forces_rmse_mev_per_angstrom"


def findings(models: list[dict[str, Any]]) -> list[str]:
    """Compare base, supervised and weak model; each a dict of `results.json`.

    Parameters
    ----------
    models : list of dict
        With the keys "base", "supervised", "weak" and, if it is there, "gauss_newton" under `key`.

    Returns
    -------
    list of str
    """
    by_key = {model["key"]: model for model in models}
    base, supervised, weak = (by_key[k]["errors"] for k in ("base", "supervised", "weak"))
    sentences = [
        f"Fine-tuning on energies alone {_change(base, supervised, ENERGY, 'the energy error')} "
        f"and {_change(base, supervised, FORCES, 'the force error')}, on frames never seen.",
        f"The weak losses {_change(supervised, weak, ENERGY, 'the energy error')} "
        f"and {_change(supervised, weak, FORCES, 'the force error')}, "
        "compared with supervised fine-tuning of the same length.",
    ]
    ratios = [weak[name] / supervised[name] for name in (ENERGY, FORCES)]
    if all(abs(ratio - 1) < NOISE for ratio in ratios):
        sentences.append(
            "Here the weak losses brought nothing: both errors are within "
            f"{100 * NOISE:.0f} % of the supervised ones, which one seed cannot tell apart."
        )
    elif max(ratios) > 1 + NOISE:
        sentences.append("Here the weak losses made an error worse: do without them on such data.")
    if "gauss_newton" in by_key:
        closed = by_key["gauss_newton"]["errors"]
        sentences.append(
            f"The closed form {_change(supervised, closed, ENERGY, 'the energy error')} "
            f"and {_change(supervised, closed, FORCES, 'the force error')}, compared with "
            "supervised fine-tuning by gradient steps."
        )
    return sentences + [_verdict(model) for key, model in by_key.items() if key != "base"]


def _change(before: dict[str, Any], after: dict[str, Any], name: str, what: str) -> str:
    old, new = before[name], after[name]
    unit = "meV/atom" if name == ENERGY else "meV/Å"
    ratio = new / old
    verb = "left" if abs(ratio - 1) < NOISE else "lowered" if ratio < 1 else "raised"
    middle = f"{what} as it was" if verb == "left" else what
    return f"{verb} {middle} ({_short(old)} to {_short(new)} {unit}, × {ratio:.2f})"


def _short(value: float) -> str:
    """Three significant digits, trailing zeros kept: 3.00, 41.2, 119."""
    text = f"{value:#.3g}"
    return text.rstrip(".")


def _verdict(model: dict[str, Any]) -> str:
    parts = []
    for report in model["stability"]:
        rows = report["temperatures"]
        rows = [row for row in rows if row.get("failed")] or rows
        temperatures = ", ".join(f"{row['temperature']:g} K" for row in rows)
        parts.append(f"{report['verdict']} at {temperatures or 'the start'}")
    total = sum(report["total_ps"] for report in model["stability"])
    return f"MD with the model '{model['name']}': {'; '.join(parts)} ({total:.3g} ps in all)."
