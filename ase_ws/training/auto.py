"""The rule behind `--weak auto`: which weak losses pay for which model."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Choice(NamedTuple):
    """What was picked, and why, in one line for the user."""

    kind: Literal["none", "gradient"]
    why: str


def choose_weak(*, conservative: bool, has_forces: bool) -> Choice:
    """Pick the weak losses for a model by what was measured to pay.

    Parameters
    ----------
    conservative : bool
        Whether the forces are -dE/dr.
    has_forces : bool
        Whether any training frame has labelled forces.

    Returns
    -------
    Choice
        Strength and ε are then the defaults of `FinetuneConfig.resolved`.

    Notes
    -----
    The rule is that of `ase_ws/losses/README.md`, "When do the weak losses pay?": where forces are
    derived from the energy, the first-order losses say nothing about them and penalise curvature;
    measured
    (`tests/benchmarks/RESULTS.md`), they repaired badly chosen learning rates and cost about as
    often as they gained against well chosen ones, in no way that the labels tell beforehand.
    Where forces are read out, supervised training does not tie them to the energy. Of the losses
    measured that do, the gradient, partly against labelled forces, brought most for the same steps.
    Without a labelled force it is all that trains such forces; how well was not measured.
    """
    if conservative:
        return Choice(
            "none",
            "no weak losses: with forces -dE/dr they carry no information on forces, and did not "
            "gain reliably where we measured",
        )
    if not has_forces:
        return Choice(
            "gradient",
            "direct forces against -dE/dr: without labelled forces nothing else trains them (not "
            "measured: look at `ase-ws evaluate`, or take --forces conservative)",
        )
    return Choice(
        "gradient",
        "direct forces against -dE/dr (the limit of PITC for small displacements): supervised "
        "training does not tie them to the energy",
    )
