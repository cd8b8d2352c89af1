"""Does the stability suite tell good from bad? A labelled set of cases and its confusion table.

    python tests/benchmarks/stability_cases.py [--only NAME ...] [--workers N] [--fresh]

Each case is a potential, a structure and a run, with the verdict, the checks and the blame that it
deserves (`stability_good.py`, `stability_bad.py`, `stability_near.py`, `stability_blind*.py`).
Results stand in `results/stability_cases.jsonl`, one line each: what is there for the same code is
not run again, unless `--fresh` is given. The code's version is a hash over `ase_ws` and the cases.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from runner import one_line_errors, run_named
from stability_bad import BAD
from stability_blind import BLIND_BAD, BLIND_GOOD
from stability_blind3 import BLIND3_BAD, BLIND3_GOOD
from stability_case import Case
from stability_good import GOOD
from stability_near import NEAR_BAD

from ase_ws.errors import UserError
from ase_ws.stability import check_stability

RESULTS = Path(__file__).parent / "results" / "stability_cases.jsonl"
ALL = [*GOOD, *BLIND_GOOD, *BLIND3_GOOD, *BAD, *BLIND_BAD, *NEAR_BAD, *BLIND3_BAD]
CASES: dict[str, Case] = {case.name: case for case in ALL}


def run_case(case: Case) -> dict[str, Any]:
    """Judge one case, and the judgement."""
    start = time.perf_counter()
    report = check_stability(
        case.atoms(),
        case.calculator(),
        temperature=case.temperature,
        ps=case.ps,
        replicas=case.replicas,
        timestep=case.timestep,
        ensemble=case.ensemble,
        **dict(case.options),
    )
    blame = getattr(report, "blame", None)
    found = failed_checks(report)
    first = report.failures[0] if report.failures else None
    return {
        "case": case.name,
        "wanted": case.verdict,
        "verdict": report.verdict,
        "reason": report.reason,
        "first": None if first is None else first.check,
        "time_fs": None if first is None else first.time,
        "failed": sorted(found),
        "right_check": None if not case.checks else bool(found & case.checks),
        "wanted_blame": case.blame,
        "blame": None if blame is None else blame.cause,
        "blame_reason": None if blame is None else blame.reason,
        "warnings": sorted({finding.check for finding in report.warnings}),
        "after_thresholds": case.after_thresholds,
        "seconds": round(time.perf_counter() - start, 1),
    }


def failed_checks(report: Any) -> set[str]:
    """Names of all checks that failed, static ones too where the suite has them."""
    names = {finding.check for finding in report.failures}
    static = getattr(report, "static", None) or ()
    return names | {check.name for check in static if check.status == "failed"}


def code_version() -> str:
    """Hash of the package and of the cases."""
    folder = Path(__file__).parent
    package = sorted((folder.parent.parent / "ase_ws").rglob("*.py"))
    content = hashlib.sha256()
    for path in [*package, *sorted(folder.glob("stability_*.py"))]:
        content.update(path.read_bytes())
    return content.hexdigest()[:12]


def run_cases(
    cases: Sequence[Case], *, workers: int, fresh: bool, journal: Path
) -> list[dict[str, Any]]:
    """Run what is not done yet; give every result in the order of the cases."""
    names = [case.name for case in cases if case.available]
    done = run_named(
        run_one,
        names,
        journal,
        field="case",
        version=code_version(),
        workers=workers,
        fresh=fresh,
    )
    return [done[case.name] for case in cases if case.name in done]


def run_one(name: str) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return run_case(CASES[name])
        except UserError as error:
            return refused(CASES[name], str(error))


def refused(case: Case, reason: str) -> dict[str, Any]:
    """Give the result of a case that the suite would not even start: no verdict at all."""
    nothing = dict.fromkeys(("first", "time_fs", "right_check", "blame", "blame_reason"))
    return {
        **nothing,
        "case": case.name,
        "wanted": case.verdict,
        "verdict": "refused",
        "reason": reason,
        "failed": [],
        "wanted_blame": case.blame,
        "warnings": [],
        "after_thresholds": case.after_thresholds,
        "seconds": 0.0,
    }


def misses(results: Sequence[dict[str, Any]]) -> list[str]:
    """Say in one line each what is not as it should be."""
    found = []
    for result in results:
        name, verdict = result["case"], result["verdict"]
        if verdict != result["wanted"]:
            found.append(f"{name}: {verdict}, should be {result['wanted']} ({result['reason']})")
        elif result["right_check"] is False:
            found.append(f"{name}: caught by {', '.join(result['failed'])} only")
        if result["blame"] != result["wanted_blame"] and result["blame"] is not None:
            found.append(f"{name}: blames {result['blame']}, not {result['wanted_blame']}")
    return found


def print_tables(results: Sequence[dict[str, Any]]) -> None:
    """Print every case, the confusion table, and what is wrong."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=max(120, Console().width))
    table = Table("case", "verdict", "first failure", "checks", "blame", "s")
    for r in results:
        right = {None: "", True: "right", False: "[red]other[/red]"}[r["right_check"]]
        colour = "green" if r["verdict"] == r["wanted"] else "red"
        at = "" if r["time_fs"] is None else f" {r['time_fs']:.0f} fs"
        name = r["case"] + (" *" if r["after_thresholds"] else "")
        verdict = f"[{colour}]{r['verdict']}[/{colour}]"
        first = f"{r['first'] or ''}{at}"
        table.add_row(name, verdict, first, right, r["blame"] or "", f"{r['seconds']:.0f}")
    console.print(table)
    confusion = Table("", "stable", "unstable", "inconclusive", "right check", "right blame")
    for kind, wanted in (("good", "stable"), ("bad", "unstable")):
        mine = [r for r in results if r["wanted"] == wanted]
        counts = Counter(r["verdict"] for r in mine)
        right = sum(r["right_check"] is True for r in mine)
        blame = sum(r["blame"] is not None and r["blame"] == r["wanted_blame"] for r in mine)
        verdicts = [str(counts[v]) for v in ("stable", "unstable", "inconclusive")]
        of = f" of {len(mine)}"
        tail = [f"{right}{of}", f"{blame}{of}"] if kind == "bad" else ["", ""]
        confusion.add_row(kind, *verdicts, *tail)
    console.print(confusion)
    for line in misses(results):
        console.print(line, style="red", highlight=False)
    seconds = sum(r["seconds"] for r in results)
    console.print(f"* made after the thresholds were fixed; {seconds:.0f} s in all")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="part of a name is enough")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--fresh", action="store_true", help="forget all earlier results")
    arguments = parser.parse_args()
    wanted = arguments.only or [""]
    cases = [case for name, case in CASES.items() if any(part in name for part in wanted)]
    if not cases:
        sys.exit(f"no case has {' or '.join(wanted)} in its name")
    left_out = [case.name for case in cases if not case.available]
    if left_out:
        print(
            f"left out, for what they need is not installed: {', '.join(left_out)}", file=sys.stderr
        )
    print_tables(
        run_cases(cases, workers=arguments.workers, fresh=arguments.fresh, journal=RESULTS)
    )


if __name__ == "__main__":
    with one_line_errors():
        main()
