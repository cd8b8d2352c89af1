"""Writes RESULTS.md, the figures, and the marked tables of the losses' README; none by hand."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import claims
import figures
import tables
from design import Case, Design, Group, key
from selection import belongs, chosen, tuning

from ase_ws.files.writing import write_text

BENCHMARKS = Path(__file__).parents[1]
README = BENCHMARKS.parents[1] / "ase_ws" / "losses" / "README.md"
COMMAND = "python tests/benchmarks/evidence"
#: A table of that README: what stands between these marks is written by `--report`.
MARK = re.compile(r"(<!-- evidence: (\S+) -->\n).*?(<!-- end of evidence -->)", re.DOTALL)


def write(design: Design, done: dict[str, Any]) -> list[Path]:
    """Write all files from the results on file; give their paths."""
    found = {name: collect(group, done) for name, group in design.groups.items()}
    written = [BENCHMARKS / "RESULTS.md"]
    for name, group in design.groups.items():
        path = BENCHMARKS / "figures" / f"{name}.png"
        if group.kind == "curve" and figures.learning_curves(found[name], path):
            written.append(path)
    write_text(written[0], results_page(design, found, done))
    readme = README.read_text(encoding="utf-8")
    new = filled(readme, design, found)
    if new != readme:
        write_text(README, new)
        written.append(README)
    return [Path(os.path.relpath(path)) for path in written]


def filled(readme: str, design: Design, found: dict[str, list[tuple[Case, tables.Found]]]) -> str:
    """Give that README with its marked tables written anew."""
    return MARK.sub(lambda m: m[1] + block(design, found, m[2]) + m[3], readme)


def collect(group: Group, done: dict[str, Any]) -> list[tuple[Case, tables.Found]]:
    """Give the results of a group: by cell, by method; empty where nothing was run."""
    # What broke off has a table of its own.
    by_case = {key(r["case"]): r for r in done.values() if "failed" not in r}
    # Combinations that a change makes alike are one case.
    cases = {key(case): case for case in chosen(group, done.values())}
    found = []
    for cell in group.cells():
        by_method: tables.Found = {}
        for name, case in cases.items():
            if name in by_case and belongs(case, cell, group):
                by_method.setdefault(case["method"], []).append(by_case[name])
        found.append((cell, by_method))
    return found


def results_page(
    design: Design, found: dict[str, list[tuple[Case, tables.Found]]], done: dict[str, Any]
) -> str:
    """Give RESULTS.md."""
    hours = tables.hours(done.values())
    versions = sorted({f"{k} {v}" for r in done.values() for k, v in r["versions"].items()})
    others = unplanned(design, done)
    parts = [
        "# Do the weak losses pay? Results",
        f"Written by `{COMMAND} --report` from `results/evidence.jsonl`; `{COMMAND}` makes the "
        f"runs ({len(done)} of them so far, {hours:.1f} core-hours, one thread each"
        f"{tables.elsewhere(done.values())}; {len(others)} of them, {tables.hours(others):.1f} "
        "hours, are of earlier designs and in no table; "
        f"{', '.join(versions)}). Nothing here is typed by hand. Means over seeds (other frames, "
        "other weights, other order; of 950 in 1,000 and 450 in 500 nearly the same ones), "
        "smallest and largest in brackets. Labels are training structures; a tenth as many, 10 at "
        "least and 50 at most, are held out besides. Ratios are to supervised training of the same "
        "cell and seed: geometric mean and a 95 % bootstrap interval over the seeds, which with "
        "three of them says little more than their range. RMSE throughout; "
        "energies per molecule, per atom for crystals.",
        "## Claims",
        claims.table(design, found),
    ]
    broken = [r for r in done.values() if "failed" in r]
    if broken:
        parts += ["## Runs that broke off", tables.failures(broken)]
    for name, group in design.groups.items():
        parts += [f"## {group.title}", group.why.strip(), f"`{COMMAND} --only {name}`"]
        if not any(by_method for _, by_method in found[name]):
            parts.append("Not run yet.")
            continue
        if group.kind == "curve" and figures.panels(found[name]):
            parts.append(f"![learning curves](figures/{name}.png)")
        parts.append(group_table(group, found[name]))
        runs = [r for _, by_method in found[name] for rs in by_method.values() for r in rs]
        if gpus := tables.elsewhere(runs):
            parts.append(f"{len(runs)} runs{gpus}.")
    return "\n\n".join(parts) + "\n"


def unplanned(design: Design, done: dict[str, Any]) -> list[Any]:
    """Give the results on file that no group asks for any more."""
    planned = {
        key(case)
        for group in design.groups.values()
        for case in (*tuning(group), *chosen(group, done.values()))
    }
    return [r for r in done.values() if key(r["case"]) not in planned]


def group_table(group: Group, found: list[tuple[Case, tables.Found]]) -> str:
    """Give the table, or tables, of a group."""
    if group.kind == "judge":
        return "\n\n".join([tables.compared(group, found), tables.judged(group, found)])
    if group.kind == "grid":
        return "\n\n".join(
            [
                *(tables.grid(found, q) for q in ("forces_mev_per_angstrom", "energy_mev")),
                tables.compared(group, found),
            ]
        )
    return tables.compared(group, found)


def block(design: Design, found: dict[str, list[tuple[Case, tables.Found]]], name: str) -> str:
    """Give a table of that README by its name: "claims", a group, or the "grid" of one."""
    if name == "claims":
        return claims.table(design, found) + "\n"
    group, _, part = name.partition("/")
    if part == "grid":
        return tables.grid(found[group], "forces_mev_per_angstrom") + "\n"
    return group_table(design.groups[group], found[group]) + "\n"
