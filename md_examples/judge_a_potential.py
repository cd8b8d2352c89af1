"""Is it safe? The whole suite on one molecule, beside a potential that was broken on purpose.

    python md_examples/judge_a_potential.py [MODEL]

Writes `judged/report.html`, with both on one page, and shows the same checks to a trajectory that
exists already.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ase.build import molecule

from ase_ws import PotentialCalculator, check_stability, run_md
from ase_ws.data import BASE_MODEL, METHANOL_TRAIN
from ase_ws.report import write_stability_report
from ase_ws.stability import Calibration, StabilityReport, check_trajectory
from ase_ws.testing.bad import Curl


def main(
    model: str | Path = BASE_MODEL, picoseconds: float = 1.0, out: str | Path = "judged"
) -> list[StabilityReport]:
    """Print the verdicts and write the page; return the reports."""
    atoms, good = molecule("CH3OH"), PotentialCalculator(model)
    calibration = Calibration.from_file(METHANOL_TRAIN)
    reports = []
    # The curl adds forces that no energy has, and does not say so.
    for name, calculator in (
        ("as it is", good),
        ("with a curl", Curl(good, axis=(0.0, 0.0, 0.01))),
    ):
        report = check_stability(
            atoms,
            calculator,
            temperature=[300, 500],
            ps=picoseconds,
            replicas=2,
            calibration=calibration,
            name=name,
            out=Path(out) / name.replace(" ", "_"),
        )
        print(f"--- {name}\n{report.summary()}\n")
        reports.append(report)
    page = write_stability_report([r.to_dict() for r in reports], Path(out) / "report.html")
    result = run_md(atoms, good, temperature=300, steps=200)
    seen = check_trajectory([atoms, result.atoms], frame_interval=100, temperature=300)
    print(f"--- a trajectory of two frames\n{seen.summary()}\npage: {page}")
    return reports


if __name__ == "__main__":
    main(sys.argv[1]) if len(sys.argv) > 1 else main()
