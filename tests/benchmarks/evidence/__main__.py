"""Does it pay? Runs the design, writes RESULTS.md, its figures, the tables of the losses' README.

    python tests/benchmarks/evidence                      # all of it; a killed run goes on
    python tests/benchmarks/evidence --only direct few    # some groups
    python tests/benchmarks/evidence --hours 2            # stop then, and write what is there
    python tests/benchmarks/evidence --report             # write only
    python tests/benchmarks/evidence --list               # what is to run, what is done, its hours

Every call but `--list` ends by writing RESULTS.md, its figures and the tables of
`ase_ws/losses/README.md`.

One process a core, one thread each; restrict the cores with `taskset`. Results are lines of JSON
in `tests/benchmarks/results/evidence.jsonl`. What is measured stands in `design.yaml`. Needs the
frames in ../shared/data and, for base models of a cheaper level, tblite; groups whose files are not
here are left out, by name.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import data
import report
from case import run
from design import Case, Design, Group, key, load_design, plain
from runner import one_line_errors, read_results, run_cases
from selection import chosen, tuning
from tables import hours as hours_of

NAME = "evidence"


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and do it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    design = load_design()
    parser.add_argument("--only", nargs="+", choices=list(design.groups), metavar="GROUP")
    parser.add_argument("--hours", type=float, help="stop then; what is running is given up")
    parser.add_argument("--report", action="store_true", help="run nothing, write only")
    parser.add_argument("--list", action="store_true", help="list the groups and write nothing")
    options = parser.parse_args(arguments)
    if options.list:
        print(listing(design))
        return
    if not options.report:
        wanted = {k: g for k, g in design.groups.items() if k in (options.only or design.groups)}
        until = None if options.hours is None else time.monotonic() + 3600 * options.hours
        run_groups(wanted, until)
    for path in report.write(design, read_results(NAME)):
        print(path)


def run_groups(groups: dict[str, Group], until: float | None) -> None:
    """Tune at seed 0, then run the rest with what came out best."""
    here = {name: group for name, group in groups.items() if not _left_out(name, group)}
    for group in here.values():
        for name in group.set:
            for start in group.start:
                # Here, not in the workers: two of them would train the same base model.
                data.base_model(start, name)
    cases = [c for g in here.values() for c in tuning(g)]
    results = run_cases(NAME, run, _each_once(cases), until=until)
    cases = [c for g in here.values() for c in chosen(g, results)]
    run_cases(NAME, run, _each_once(cases), until=until)


def listing(design: Design) -> str:
    """Give, for each group, its runs, those done and the hours of these."""
    done = read_results(NAME)
    lines = [f"{'group':16} {'runs':>5} {'done':>5} {'core-hours':>10}"]
    for name, group in design.groups.items():
        cases = _each_once([*tuning(group), *chosen(group, done.values())])
        mine = [r for r in done.values() if r["case"] in cases]
        hours = hours_of(mine)
        lines.append(f"{name:16} {len(cases):5d} {len(mine):5d} {hours:10.2f}")
    hours = hours_of(done.values())
    lines.append(f"{'all':16} {'':5} {len(done):5d} {hours:10.2f}")
    return "\n".join(lines)


def _left_out(name: str, group: Group) -> bool:
    pairs = itertools.product(group.start, group.set)
    absent = next((what for pair in pairs if (what := data.missing(*pair))), None)
    if absent is not None:
        print(f"{name}: left out, {absent} is not here", file=sys.stderr)
    return absent is not None


def _each_once(cases: list[Case]) -> list[Case]:
    """Several groups may ask for the same run."""
    return list({key(case): plain(case) for case in cases}.values())


if __name__ == "__main__":
    with one_line_errors():
        main()
