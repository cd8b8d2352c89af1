"""What the stability report says in plain sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ase_ws.report.drawing.text import count, joined, kelvin, number
from ase_ws.results.blame import Blame, Rerun
from ase_ws.results.finding import Finding
from ase_ws.results.outcome import Rates
from ase_ws.results.pictures import FailingFrame

_CAUSES = {
    "model": "The model is to blame",
    "timestep": "The time step is to blame",
    "precision": "The numerical precision is to blame",
    "starting structure": "The starting structure is to blame",
    "not settled": "What is to blame is not settled",
}
_CHANGES = {
    "half the timestep": "with half the time step",
    "float64": "in float64",
    "second model": "with the second model",
}


def rate_text(rate: Rates) -> str:
    """Say the failure rate: a number where something failed, a limit where nothing did."""
    failed, total_ps = rate.counted()
    if not total_ps > 0:
        return "not measured"
    if not failed:
        return f"below {number(rate.failure_rate_95_upper_per_ps, 2)} /ps"
    return f"{number(rate.failure_rate_per_ps, 2)} /ps"


def interval_text(rate: Rates) -> str:
    """Say the 95 % interval of the rate; empty where `rate_text` says it or none is known."""
    interval = rate.failure_rate_95_per_ps
    if interval is None:
        return ""
    if not rate.counted()[0]:
        return "95 % limit"
    return f"95 %: {number(interval[0], 2)} to {number(interval[1], 2)}"


def counted(failed: int | None, replicas: int | None, total_ps: float) -> str:
    """Say how many runs failed: "2 of 4 replicas failed in 3.1 ps"."""
    time = "" if math.isnan(total_ps) else f" in {number(total_ps)} ps"
    if failed is None:
        return "nothing is known"
    of_all = "" if replicas is None else f" of {replicas}"
    noun = "replica" if (replicas if replicas is not None else failed) == 1 else "replicas"
    return f"{failed or 'none'}{of_all} {noun} failed{time}"


def atom_names(atoms: Sequence[int | None], symbols: Sequence[str]) -> list[str]:
    """Name atoms by element and number, from 0: "H5"; "atom 5" where the element is not known."""
    return [
        f"{symbols[atom]}{atom}" if 0 <= atom < len(symbols) else f"atom {atom}"
        for atom in atoms
        if atom is not None
    ]


def finding_where(finding: Finding) -> str:
    """Say when and in which run: "at 0.41 ps, 500 K, replica 2"."""
    parts = []
    # What belongs to no run, such as a static check, has no time.
    if not math.isnan(finding.time) and (finding.time or finding.replica is not None):
        parts.append(f"at {picoseconds(finding.time)}")
    if finding.temperature is not None:
        parts.append(kelvin(finding.temperature))
    if finding.replica is not None:
        parts.append(f"replica {finding.replica}")
    return ", ".join(parts)


def finding_text(finding: Finding) -> str:
    """Say what happened, when and in which run."""
    where = finding_where(finding)
    message = finding.message or "no details were given"
    return f"{message} ({where})" if where else message


def picoseconds(femtoseconds: float | None) -> str:
    """Write a time of MD in fs below 0.1 ps, in ps from there on."""
    if femtoseconds is None:
        return number(None)
    if abs(femtoseconds) < 100:
        return f"{number(femtoseconds)} fs"
    return f"{number(femtoseconds / 1000)} ps"


def cause_text(blame: Blame) -> str:
    """Say what is to blame."""
    return _CAUSES.get(blame.cause.strip().lower(), "What is to blame is not known")


def blame_sentence(blame: Blame, *, before_md: bool = False) -> str:
    """Say what is to blame and how the reruns tell, in one sentence."""
    if before_md and blame.cause.strip().lower() in ("model", "precision"):
        return f"{cause_text(blame)}: it fails before MD, where no time step is in play."
    again = [_changed(rerun) for rerun in blame.reruns if rerun.failed]
    through = [_changed(rerun) for rerun in blame.reruns if rerun.failed == 0]
    told = [f"it fails again {joined(again)}"] if again else []
    told += [f"no run fails {joined(through)}"] if through else []
    return f"{cause_text(blame)}{': ' if told else ''}{', but '.join(told)}."


def _changed(rerun: Rerun) -> str:
    """Say what was changed and how often it failed: "in float64 (3 of 4)"."""
    change = _CHANGES.get(rerun.what.strip().lower(), f"with {rerun.what or 'one change'}")
    if not rerun.failed or rerun.replicas is None:
        return change
    return f"{change} ({rerun.failed} of {rerun.replicas})"


def frame_alt(frame: FailingFrame, names: Sequence[str], shown: int) -> str:
    """Describe the picture of the failing frame."""
    of_all = "" if shown == len(frame.symbols) else f" (of {len(frame.symbols)})"
    marked = f"; ringed: {joined(list(names)[:12])}" if names else "; no single atom is at fault"
    return f"Picture of the failing frame, {count(shown, 'atom')}{of_all}{marked}."
