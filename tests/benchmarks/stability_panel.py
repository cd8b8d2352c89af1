"""A panel of real potentials for the stability suite: is a verdict that of a careful person?

    python tests/benchmarks/stability_panel.py [--only NAME ...] [--workers N] [--mace-files DIR]
    python tests/benchmarks/stability_panel.py --show    # the last results
    python tests/benchmarks/stability_panel.py --nve     # what a person sees: plain NVE by ASE
    python tests/benchmarks/stability_panel.py --scan    # pairs pushed together: where walls turn

Results stand in `results/stability_panel*.jsonl`, a line each, and a killed run goes on where it
was; those of the suite count for the version of the code that they come from. What needs a package
or a file that is absent is left out, with the reason. All prints are Markdown.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from ase import Atoms
from ase.calculators.calculator import BaseCalculator
from runner import one_line_errors, run_named
from stability_panel_by_hand import nve, pairs, push
from stability_panel_cases import CASES, MACE_FILES, POTENTIALS
from stability_panel_structures import STRUCTURES

from ase_ws.errors import UserError
from ase_ws.stability import check_stability

RESULTS = Path(__file__).parent / "results"
Result = dict[str, Any]


@functools.cache
def calculator(potential: str) -> BaseCalculator:
    """Give the calculator, which takes seconds to load, once a process."""
    import torch

    torch.set_num_threads(1)
    return POTENTIALS[potential].make()


def judged_by_suite(name: str) -> Result:
    """Run the suite on a case."""
    case = CASES[name]
    try:
        report = check_stability(
            STRUCTURES[case.structure](),
            calculator(case.potential),
            temperature=case.temperature,
            ps=1.0,
            replicas=1,
            timestep=case.timestep,
            topology=case.topology,  # pyright: ignore[reportArgumentType]
        )
    except UserError as error:
        return {"verdict": "refused", "reason": str(error), "failures": [], "warnings": []}
    return {
        "verdict": report.verdict,
        "reason": report.reason,
        "failures": [[finding.check, finding.message] for finding in report.failures],
        "warnings": [[finding.check, finding.message] for finding in report.warnings],
    }


def judged_by_hand(name: str) -> Result:
    """Run plain NVE of a case."""
    case = CASES[name]
    atoms = STRUCTURES[case.structure]()
    return nve(atoms, calculator(case.potential), case.temperature, case.timestep)


def scanned(name: str) -> Result:
    """Push pairs of elements together: all of a structure, or two atoms alone.

    "POTENTIAL:STRUCTURE" or "POTENTIAL:A-B"; the holes stand by pair and by what moved.
    """
    potential, what = name.split(":")
    if what not in STRUCTURES:
        first, second = what.split("-")
        alone = push(_alone(first, second), calculator(potential), (first, second))
        return {"holes": [[what, "alone", alone]]}
    made = STRUCTURES[what]()
    return {
        "holes": [
            ["-".join(pair), moved, push(made, calculator(potential), pair, both=moved == "both")]
            for pair in pairs(made)
            for moved in ("both", "one")
        ]
    }


def _alone(first: str, second: str) -> Atoms:
    """Two atoms 3 Å apart in a box."""
    return Atoms([first, second], [[4.5, 6, 6], [7.5, 6, 6]], cell=[12] * 3, pbc=True)


def scans() -> list[str]:
    """Name what is to be scanned: trained potentials on the structures of their cases.

    Not GFN2-xTB, whose self-consistent charges do not converge for atoms on top of each other.
    """
    named: dict[str, None] = {}
    for case in CASES.values():
        if not (POTENTIALS[case.potential].classical or case.potential == "xtb"):
            named[f"{case.potential}:{case.structure}"] = None
            for first, second in pairs(STRUCTURES[case.structure]()):
                named[f"{case.potential}:{first}-{second}"] = None
    return list(named)


def code_version() -> str:
    """Hash of the package and of the panel."""
    folder = Path(__file__).parent
    package = sorted((folder.parent.parent / "ase_ws").rglob("*.py"))
    content = hashlib.sha256()
    for path in [*package, *sorted(folder.glob("stability_panel*.py"))]:
        content.update(path.read_bytes())
    return content.hexdigest()[:12]


def run_all(
    run: Callable[[str], Result], names: Sequence[str], journal: Path, workers: int, version: str
) -> dict[str, Result]:
    """Run what the journal has not for this version; give all results by name."""
    timed = functools.partial(_timed, run)
    done = run_named(timed, names, journal, field="name", version=version, workers=workers)
    return {name: done[name] for name in names}


def last(journal: Path, names: Sequence[str]) -> dict[str, Result]:
    """Give the last result of each name, of whatever version."""
    found = {r["name"]: r for r in map(json.loads, journal.read_text().splitlines())}
    return {name: found[name] for name in names if name in found}


def _timed(run: Callable[[str], Result], name: str) -> Result:
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = run(name)
    return {"name": name, **result, "seconds": round(time.perf_counter() - start, 1)}


def suite_table(results: dict[str, Result], by_hand: dict[str, Result]) -> Iterator[str]:
    """Give the verdicts beside those of a person, and how often they agree."""
    yield "| potential | structure | K | verdict | failed | warned | NVE by hand, meV/atom/ps |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    common = Counter(r.get("version") for r in results.values()).most_common(1)[0][0]
    for name, r in results.items():
        case = CASES[name]
        verdict = r["verdict"]
        # With --show: not by the code that most are by.
        verdict += "" if r.get("version") == common else " °"
        if r["verdict"] != case.expected:
            verdict = f"**{verdict}**, {case.expected} expected"
        slope = f"{by_hand[name]['slope']:+.2f}" if name in by_hand else ""
        failed, warned = (_checks(r[kind]) for kind in ("failures", "warnings"))
        where = case.potential, case.structure, f"{case.temperature:.0f}"
        yield _row((*where, verdict, failed, warned, slope))
    counts = Counter((CASES[name].expected, r["verdict"]) for name, r in results.items())
    yield ""
    for (expected, verdict), n in sorted(counts.items()):
        yield f"- expected {expected}, found {verdict}: {n}"
    yield f"- {sum(r['seconds'] for r in results.values()):.0f} s in all"
    yield ""
    for name in results:
        if CASES[name].why:
            yield f"- {name}: {CASES[name].why}"


def nve_table(results: dict[str, Result]) -> Iterator[str]:
    """Give what plain NVE shows."""
    keys = ["relaxed", "slope", "spread", "closest", "stretch", "moved", "temperature", "ms"]
    yield _row(["case", "expected", *keys])
    yield _row(["---"] * (len(keys) + 2))
    for name, r in results.items():
        yield _row([name, CASES[name].expected, *(r[key] for key in keys)])


def scan_table(results: dict[str, Result]) -> Iterator[str]:
    """Give the walls that turn, the lowest first."""
    keys = ["start", "wall", "turns", "depth", "lowest", "at"]
    units = ["start, Å", "wall, eV", "turns at, Å", "depth, eV", "lowest, eV", "at, Å"]
    yield _row(["potential", "pair", "in", "moved", *units])
    yield _row(["---"] * (len(keys) + 4))
    found = [
        (name.split(":")[0], pair, name.split(":")[1] if moved != "alone" else "", moved, hole)
        for name, r in results.items()
        for pair, moved, hole in r["holes"]
        if hole is not None
    ]
    for *cells, hole in sorted(found, key=lambda hole: (hole[0], hole[-1]["wall"])):
        yield _row([*cells, *(hole[key] for key in keys)])


def _checks(findings: Sequence[Sequence[str]]) -> str:
    return ", ".join(sorted({check for check, _ in findings}))


def _row(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def available(names: Sequence[str], missing: Callable[[str], str | None]) -> list[str]:
    """Give the names of what can be run here; say once for each reason what cannot."""
    reasons = Counter(reason for name in names if (reason := missing(name)))
    for reason, n in reasons.items():
        print(f"left out: {n} cases, {reason}", file=sys.stderr)
    return [name for name in names if missing(name) is None]


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="part of a name is enough")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--mace-files", metavar="DIR", help="public MACE files, none is packaged")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--nve", action="store_true", help="plain NVE instead of the suite")
    mode.add_argument("--scan", action="store_true", help="pairs pushed together instead")
    mode.add_argument("--show", action="store_true", help="print the last results, run nothing")
    arguments = parser.parse_args()
    if arguments.mace_files:
        os.environ[MACE_FILES] = str(Path(arguments.mace_files).resolve())
    every = scans() if arguments.scan else list(CASES)
    names = [name for name in every if any(part in name for part in arguments.only or [""])]
    if not names:
        sys.exit(f"no case has {' or '.join(arguments.only)} in its name")
    if not arguments.show:
        names = available(names, lambda name: POTENTIALS[re.split("[:_]", name)[0]].missing)
    hand = RESULTS / "stability_panel_nve.jsonl"
    if arguments.scan:
        journal = RESULTS / "stability_panel_scan.jsonl"
        table = scan_table(run_all(scanned, names, journal, arguments.workers, "1"))
    elif arguments.nve:
        table = nve_table(run_all(judged_by_hand, names, hand, arguments.workers, "1"))
    else:
        journal = RESULTS / "stability_panel.jsonl"
        found = (
            last(journal, names)
            if arguments.show
            else run_all(judged_by_suite, names, journal, arguments.workers, code_version())
        )
        lines = hand.read_text().splitlines() if hand.exists() else []
        table = suite_table(found, {r["name"]: r for r in map(json.loads, lines)})
    print("\n".join(table))


if __name__ == "__main__":
    with one_line_errors():
        main()
