"""From the dictionary of a stability campaign to what the page shows: one entry a temperature.

This knows the keys of `StabilityReport.to_dict()`, not the class: the report sees results only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]


def stability_entries(record: Record) -> list[dict[str, Any]]:
    """Split a stability report into one entry for each temperature.

    Parameters
    ----------
    record : mapping
        `StabilityReport.to_dict()`. Anything without replicas is taken to be in the form of the
        page already and is handed back as it is.

    Returns
    -------
    list of dict
        In the form of `ase_ws.results.demo.Stability`. A report over several temperatures has
        only one verdict: where it is "unstable", a temperature without a failure of its own is
        "inconclusive". Run one campaign a temperature for a verdict each.
    """
    replicas = record.get("replicas")
    if not isinstance(replicas, Sequence) or isinstance(replicas, str) or not replicas:
        return [dict(record)]
    temperatures = list(dict.fromkeys(replica.get("temperature") for replica in replicas))
    if len(temperatures) == 1:
        return [{"temperature_K": temperatures[0], **record, "traces": _traces(replicas)}]
    return [_at(temperature, record, replicas) for temperature in temperatures]


def _at(temperature: Any, record: Record, replicas: Sequence[Record]) -> dict[str, Any]:
    # A finding without a temperature (from the relaxation) holds for all of them.
    failures, warnings = (
        [item for item in record.get(key) or () if item.get("temperature") in (temperature, None)]
        for key in ("failures", "warnings")
    )
    verdict = record.get("verdict")
    if verdict == "unstable" and not failures:
        verdict = "inconclusive"
    rows = [row for row in record.get("temperatures") or () if row["temperature"] == temperature]
    row = rows[0] if rows else {}
    own = [replica for replica in replicas if replica.get("temperature") == temperature]
    return {
        **record,
        "temperature_K": temperature,
        "verdict": "unstable" if failures else verdict,
        "failures": failures,
        "warnings": warnings,
        "failed_replicas": row.get("failed"),
        "total_ps": row.get("total_ps"),
        "failure_rate_per_ps": row.get("failure_rate_per_ps"),
        "failure_rate_95_upper_per_ps": row.get("failure_rate_95_upper_per_ps"),
        "traces": _traces(own),
    }


def _traces(replicas: Sequence[Record]) -> list[dict[str, Any]]:
    return [_trace(replica, replica.get("traces") or {}) for replica in replicas]


def _trace(replica: Record, traces: Record) -> dict[str, Any]:
    conserved = traces.get("conserved_ev_per_atom") or []
    start = next((energy for energy in conserved if energy is not None), 0.0)
    return {
        "replica": replica.get("replica"),
        "time_ps": [_scaled(time, 1e-3) for time in traces.get("time_fs") or ()],
        "energy_drift_mev_per_atom": [
            None if energy is None else 1000 * (energy - start) for energy in conserved
        ],
        "temperature_K": traces.get("temperature_k"),
    }


def event_in_ps(record: Any) -> Any:
    """Give a finding its time in ps where it has it in fs."""
    if isinstance(record, Mapping) and "time_ps" not in record and "time_fs" in record:
        return {**record, "time_ps": _scaled(record["time_fs"], 1e-3)}
    return record


def check_with_threshold(record: Any) -> Any:
    """Give a check its threshold in words where it has limits for warning and failure."""
    if not isinstance(record, Mapping) or "threshold" in record:
        return record
    limits = {
        word: record[key]
        for word, key in (("warn", "warn_at"), ("fail", "fail_at"))
        if record.get(key) is not None
    }
    return {**record, "threshold": limits or None}


def _scaled(number: float | None, factor: float) -> float | None:
    return None if number is None else number * factor
