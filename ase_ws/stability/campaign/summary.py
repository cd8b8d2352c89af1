"""One row for each model and structure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: Raised whenever a key of `summary.json` changes its meaning or goes.
SCHEMA_VERSION = 1


def row_of(model: str, structure: str, report: Mapping[str, Any]) -> dict[str, Any]:
    """Take from a stability report (as a dictionary) what the summary says of it."""
    temperatures = [
        {key: value for key, value in row.items() if key != "survival"}
        for row in report["temperatures"]
    ]
    kept = (
        "verdict", "reason", "first_failure", "total_ps", "failed_replicas",
        "failure_rate_per_ps", "failure_rate_95_upper_per_ps", "failure_rate_95_per_ps",
    )  # fmt: skip
    blame = report["blame"]
    return {
        "model": model,
        "structure": structure,
        **{key: report[key] for key in kept},
        "replicas": len(report["replicas"]),
        "temperatures": temperatures,
        "blame": None if blame is None else {"cause": blame["cause"], "reason": blame["reason"]},
        "report": f"{model}/{structure}/stability.json",
    }


def summarise(rows: Sequence[dict[str, Any]], n_pairs: int) -> dict[str, Any]:
    """Make `summary.json`.

    The verdict of a campaign is "unstable" as soon as one pair is, "stable" when all are, and
    "inconclusive" otherwise.
    """
    verdicts = {row["verdict"] for row in rows}
    if "unstable" in verdicts:
        verdict = "unstable"
    elif verdicts == {"stable"} and len(rows) == n_pairs:
        verdict = "stable"
    else:
        verdict = "inconclusive"
    return {
        "schema_version": SCHEMA_VERSION,
        "verdict": verdict,
        "complete": len(rows) == n_pairs,
        "pairs": n_pairs,
        "replicas": sum(row["replicas"] for row in rows),
        "failed_replicas": sum(row["failed_replicas"] for row in rows),
        "total_ps": sum(row["total_ps"] for row in rows),
        "rows": list(rows),
    }
