"""Learning curves: errors over the number of labels, one line a method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from design import Case
from matplotlib.ticker import MaxNLocator
from spreads import QUANTITIES
from spreads import spread as spread_of
from spreads import values as values_of
from tables import Found

#: The report's colours: told apart by colour-blind readers.
COLOURS = ("#0b5394", "#d1622b", "#3c7a3f", "#8e4a9e", "#7a6a53", "#b3a500")


Panels = dict[tuple[str, str, str], dict[str, list[tuple[int, Any]]]]


def panels(found: list[tuple[Case, Found]]) -> Panels:
    """Give points (labels, spread) by panel (set, test, quantity) and method; two at least."""
    every: Panels = {}
    for cell, by_method in found:
        for method, results in by_method.items():
            for test in sorted({t for r in results for t in r["tests"]}):
                for quantity in ("energy_mev", "forces_mev_per_angstrom"):
                    spread = spread_of(values_of(results, test, quantity).values())
                    if spread is not None:
                        lines = every.setdefault((_title(cell), test, quantity), {})
                        lines.setdefault(method, []).append((cell["n"], spread))
    return {k: v for k, v in every.items() if max(map(len, v.values())) > 1}


def _title(cell: Case) -> str:
    return cell["set"] if cell["start"] == "scratch" else f"{cell['set']}, from a base"


def learning_curves(found: list[tuple[Case, Found]], path: Path) -> bool:
    """Draw the panels, lines are methods and bars ranges over seeds; tell whether there are any."""
    drawn = panels(found)
    if not drawn:
        return False
    n_rows = -(-len(drawn) // 2)
    figure, axes = plt.subplots(
        n_rows, 2, figsize=(8.0, 2.7 * n_rows), squeeze=False, layout="constrained"
    )
    methods = list(dict.fromkeys(m for lines in drawn.values() for m in lines))
    for axis, (key, lines) in zip(axes.flat, drawn.items(), strict=False):
        for method, points in lines.items():
            _line(axis, method, sorted(points), COLOURS[methods.index(method) % len(COLOURS)])
        title = key[0] if key[1] == "test" else f"{key[0]}, {key[1]}"
        axis.set(title=title, ylabel=QUANTITIES[key[2]], xscale="log", yscale="log")
        ticks = sorted({n for points in lines.values() for n, _ in points})
        axis.set_xticks(ticks, [str(n) for n in ticks])
        axis.minorticks_off()
        marks = _marks(*axis.get_ylim())
        axis.set_yticks(marks, [f"{mark:.3g}" for mark in marks])
    for axis in axes.flat[len(drawn) :]:
        axis.set_visible(False)
    for axis in axes[-1]:
        axis.set_xlabel("labelled structures")
    handles, names = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=3, frameon=False)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
    return True


def _marks(low: float, high: float) -> list[float]:
    """Round numbers of a logarithmic axis; evenly spaced ones where it is short."""
    round_ones = [k * 10**e for e in range(-1, 4) for k in (1, 1.5, 2, 3, 5, 7)]
    marks = [mark for mark in round_ones if low <= mark <= high]
    if len(marks) < 3:
        marks = [m for m in MaxNLocator(4).tick_values(low, high) if low <= m <= high]
    return marks


def _line(axis: Any, method: str, points: list[tuple[int, Any]], colour: str) -> None:
    sizes = [n for n, _ in points]
    means = [s.mean for _, s in points]
    low = [s.mean - s.low for _, s in points]
    high = [s.high - s.mean for _, s in points]
    axis.errorbar(
        sizes, means, yerr=[low, high], label=method, color=colour, marker="o", capsize=2, lw=1.5
    )
