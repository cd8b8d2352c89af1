"""Tables in Markdown, from the results on file."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Any, NamedTuple

from design import MAIN_TESTS, Case, Group
from spreads import QUANTITIES, Result, ratio, spread, values

#: What a method is compared with.
BASELINE = "supervised"
Found = dict[str, list[Result]]


def rows(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Give a table in Markdown."""
    every = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in every)


def cell_name(group: Group, cell: Case) -> str:
    """Name a cell by what differs within its group."""
    parts = []
    for factor, show in _SHOWN.items():
        if len(getattr(group, factor)) > 1:
            parts.append(show(cell[factor]))
    return ", ".join(parts) or _SHOWN["set"](cell["set"])


_SHOWN: dict[str, Callable[[Any], str]] = {
    "set": str,
    "start": lambda v: "from scratch" if v == "scratch" else f"from a base ({v})",
    "forces": str,
    "labels": str,
    "n": lambda v: f"{v} labels",
    "learning_rate": lambda v: "learning rate as shipped" if v is None else f"lr {v:g}",
    "steps": lambda v: f"{v} steps",
    "batch": lambda v: f"batch {v}",
}


def compared(group: Group, found: list[tuple[Case, Found]]) -> str:
    """Give errors of every method by cell and test, and ratios to supervised."""
    quantities = [q for q in QUANTITIES if _any(found, q)]
    header = ["case", "method", "seeds"]
    for quantity in quantities:
        header += [QUANTITIES[quantity], "ratio"]
    if group.times:
        header.append("CPU, s")
    lines = []
    for cell, by_method in found:
        tests = sorted({t for rs in by_method.values() for r in rs for t in r["tests"]})
        for test, (method, results) in itertools.product(tests, by_method.items()):
            name = cell_name(group, cell) + (f", {test}" if len(tests) > 1 else "")
            line = [name, method_name(method, results), str(len(results))]
            for quantity in quantities:
                line += _entry(results, by_method.get(BASELINE, []), test, quantity, method)
            if group.times:
                # Evaluation included; others have their part of the machine, hence the least.
                spent = [r["cpu_seconds"] for r in results if r.get("cpu_seconds") is not None]
                line.append(f"{min(spent):.0f}" if spent else "")
            lines.append(line)
    return rows(header, lines)


def method_name(method: str, results: Sequence[Result]) -> str:
    """Name a method, with the strength that it has."""
    strength = results[0]["case"].get("strength")
    return method if strength is None else f"{method}, {strength:g}"


def extremes(found: list[tuple[Case, Found]], quantity: str) -> dict[tuple[Any, ...], Extremes]:
    """Give worst and best of the seeds' means over learning rates and steps.

    By (set, start, labels, n), by method, over the seeds that supervised and the method both have
    in all cells of the grid; with them the same of supervised over these seeds.
    """
    by_problem: dict[tuple[Any, ...], list[Found]] = {}
    for cell, by_method in found:
        by_problem.setdefault(problem_of(cell), []).append(by_method)
    every = {}
    for problem, cells in by_problem.items():
        every[problem] = {}
        for method in dict.fromkeys(m for cell in cells for m in cell):
            seeds = _complete(cells, BASELINE, quantity) & _complete(cells, method, quantity)
            if seeds:
                every[problem][method] = Ends(
                    *_ends(cells, method, quantity, seeds),
                    *_ends(cells, BASELINE, quantity, seeds),
                    len(seeds),
                )
    return every


def problem_of(cell: Case) -> tuple[Any, ...]:
    """Give what the cells of one grid share: set, start, labels, their number."""
    return tuple(cell[f] for f in ("set", "start", "labels", "n"))


class Ends(NamedTuple):
    """Worst and best mean of a grid, those of supervised over the same seeds, and their number."""

    worst: float
    best: float
    worst_supervised: float
    best_supervised: float
    n_seeds: int


Extremes = dict[str, Ends]


def _complete(cells: list[Found], method: str, quantity: str) -> set[int]:
    """Seeds that every cell of the grid has."""
    return set.intersection(*(set(_on_main_test(cell.get(method, []), quantity)) for cell in cells))


def _ends(cells: list[Found], method: str, quantity: str, seeds: set[int]) -> tuple[float, float]:
    means = []
    for cell in cells:
        by_seed = _on_main_test(cell[method], quantity)
        means.append(sum(by_seed[s] for s in seeds) / len(seeds))
    return max(means), min(means)


def _on_main_test(results: list[Result], quantity: str) -> dict[int, float]:
    """Give a quantity by seed on the one main test that a set has."""
    return {s: v for test in MAIN_TESTS for s, v in values(results, test, quantity).items()}


def grid(found: list[tuple[Case, Found]], quantity: str) -> str:
    """Give worst and best of the grid, beside supervised."""
    names = {m: method_name(m, results) for _, by in found for m, results in by.items()}
    lines = [
        [
            f"{problem[0]}, {problem[-1]} labels",
            names[method],
            str(ends.n_seeds),
            f"{ends.worst:.0f}",
            f"{ends.best:.0f}",
            *(
                ["", ""]
                if method == BASELINE
                else [
                    f"{ends.worst / ends.worst_supervised:.2f}",
                    f"{ends.best / ends.best_supervised:.2f}",
                ]
            ),
        ]
        for problem, methods in extremes(found, quantity).items()
        for method, ends in methods.items()
    ]
    name = QUANTITIES[quantity]
    return rows(
        [
            "case",
            "method",
            "seeds",
            f"worst {name}",
            f"best {name}",
            "worst / worst",
            "best / best",
        ],
        lines,
    )


def hours(results: Iterable[Result]) -> float:
    """Core-hours of the runs: of the CPU, by the clock where an early run noted no other."""
    return sum(r.get("cpu_seconds", r["seconds"]) for r in results) / 3600


def elsewhere(results: Iterable[Result]) -> str:
    """Say how many runs were made on which GPU; nothing where none was."""
    gpus = Counter(device for r in results if (device := r.get("device", "CPU")) != "CPU")
    return "".join(f", {n} of them on an {gpu}" for gpu, n in sorted(gpus.items()))


def failures(broken: list[Result]) -> str:
    """Give the runs that broke off, and why."""
    lines = [[str(r["case"]), r["failed"]] for r in broken]
    return rows(["case", "what happened"], lines)


def judged(group: Group, found: list[tuple[Case, Found]]) -> str:
    """Give what MD makes of the models: failures over replicas, rates, NVE drift."""
    from ase_ws.results.rates import failure_rate_interval

    header = [
        "case",
        "method",
        "T",
        "failed (check)",
        "simulated, ps",
        "rate, 1/ps (95 %)",
        "mean time, ps",
    ]
    lines = []
    for cell, by_method in found:
        for method, results in by_method.items():
            juries = [r["judge"] for r in results if "judge" in r]
            for temperature in juries[0]["nvt"] if juries else ():
                failed = sum(j["nvt"][temperature]["failed"] for j in juries)
                ps = sum(j["nvt"][temperature]["ps"] for j in juries)
                low, high = failure_rate_interval(failed, ps) or (float("nan"), float("nan"))
                mean = f"{ps / failed:.2f}" if failed else f"> {ps / 3.0:.0f}"
                name = cell_name(group, cell)
                rate = f"{failed / ps:.2g} ({low:.2g}–{high:.2g})"
                by = sum(
                    (Counter[str](j["nvt"][temperature]["by"]) for j in juries), Counter[str]()
                )
                causes = ", ".join(f"{check} {n}" for check, n in by.most_common())
                ended = f"{failed} ({causes})" if causes else str(failed)
                lines.append([name, method, temperature, ended, f"{ps:.1f}", rate, mean])
            drifts = [
                abs(d) for j in juries for d in j["nve_drift_mev_per_atom_ps"] if d is not None
            ]
            if drifts:
                text = f"drift {median(drifts):.2g} meV/atom/ps (size; median of {len(drifts)})"
                lines.append([cell_name(group, cell), method, "NVE", text, "", "", ""])
    return rows(header, lines)


def _any(found: list[tuple[Case, Found]], quantity: str) -> bool:
    return any(
        test.get(quantity) is not None
        for _, by_method in found
        for results in by_method.values()
        for r in results
        for test in r["tests"].values()
    )


def _entry(
    results: list[Result], supervised: list[Result], test: str, quantity: str, method: str
) -> list[str]:
    found = spread(values(results, test, quantity).values())
    if found is None:
        return ["–", ""]
    text = found.text(1 if quantity == "energy_mev" else 0)
    against = None if method == BASELINE else ratio(results, supervised, test, quantity)
    return [text, "" if against is None else against.text(2)]
