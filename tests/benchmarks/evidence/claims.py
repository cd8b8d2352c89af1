"""What is claimed, and whether the results on file bear it out."""

from __future__ import annotations

from statistics import median
from typing import NamedTuple

from design import MAIN_TESTS, Case, Claim, Design, Group, matches
from selection import belongs
from spreads import pairs, ratio
from tables import BASELINE, Found, extremes, problem_of, rows


class Outcome(NamedTuple):
    """Ratio to supervised in a cell, and over how many seeds."""

    cell: str
    ratio: float
    n_seeds: int


def outcomes(claim: Claim, found: list[tuple[Case, Found]]) -> list[Outcome]:
    """Give what was measured, by cell of those that the claim is about."""
    if claim.what in ("worst", "best"):
        return [
            Outcome(
                f"{problem[0]}, {problem[-1]} labels",
                getattr(ends[claim.method], claim.what)
                / getattr(ends[claim.method], f"{claim.what}_supervised"),
                ends[claim.method].n_seeds,
            )
            for problem, ends in extremes(found, "forces_mev_per_angstrom").items()
            if claim.method in ends
        ]
    quantity = {"energy": "energy_mev", "forces": "forces_mev_per_angstrom"}[claim.what]
    measured = []
    for cell, by_method in found:
        results, supervised = by_method.get(claim.method, []), by_method.get(BASELINE, [])
        for test in claim.tests:
            value = ratio(results, supervised, test, quantity)
            if value is not None:
                n_seeds = len(pairs(results, supervised, test, quantity))
                name = f"{cell['set']}, {cell['n']} labels"
                if test not in MAIN_TESTS:
                    name += f", {test}"
                measured.append(Outcome(name, value.mean, n_seeds))
    return measured


def table(design: Design, found: dict[str, list[tuple[Case, Found]]]) -> str:
    """Give each claim, its bound, the worst cell, and whether it holds."""
    lines = []
    for claim in design.claims:
        mine = [(c, f) for c, f in found[claim.group] if matches(c, claim.where)]
        measured = outcomes(claim, mine)
        if not measured:
            lines.append([claim.says, f"≤ {claim.at_most:g}", "not measured", "", "–", "–"])
            continue
        worst = max(measured, key=lambda outcome: outcome.ratio)
        holds = sum(outcome.ratio <= claim.at_most for outcome in measured)
        seeds = sorted({outcome.n_seeds for outcome in measured})
        whole_grid = claim.what in ("worst", "best")
        cells = _planned(design.groups[claim.group], claim)
        each = 1 if claim.tests == MAIN_TESTS else len(claim.tests)
        planned = len({problem_of(c) for c in cells}) if whole_grid else each * len(cells)
        lines.append(
            [
                claim.says,
                f"≤ {claim.at_most:g}",
                f"{median(outcome.ratio for outcome in measured):.2f}",
                f"{worst.ratio:.3f} ({worst.cell})",
                f"{holds} of {len(measured)} measured, {planned} planned",
                "–".join(str(n) for n in dict.fromkeys((seeds[0], seeds[-1]))),
            ]
        )
    header = ["claim", "bound", "median of the cells", "worst cell", "cells within", "seeds"]
    return rows(header, lines)


def _planned(group: Group, claim: Claim) -> list[Case]:
    """Give the cells that the claim is about and its method is run in."""
    cases = [case for case in group.cases() if case["method"] == claim.method]
    return [
        cell
        for cell in group.cells()
        if matches(cell, claim.where) and any(belongs(case, cell, group) for case in cases)
    ]
