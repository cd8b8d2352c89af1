"""Every method gets the same small budget of tries, and the best by validation goes on."""

from __future__ import annotations

from collections.abc import Iterable

from design import Case, Group, key, matches
from spreads import Result

#: The seed that methods are tuned at.
TUNED_AT = 0
_TRIED = ("strength", "learning_rate")


def tuning(group: Group) -> list[Case]:
    """Give the runs of the first seed, every try of each method."""
    return [
        {**case, **attempt}
        for case in group.cases(seeds=[TUNED_AT] if TUNED_AT in group.seed else [])
        for attempt in group.tries_of(case["method"])
    ]


def chosen(group: Group, results: Iterable[Result]) -> list[Case]:
    """Give the runs of all seeds at the best try of each cell, as far as the tries were made."""
    done = {key(r["case"]): r for r in results}
    found = []
    for case in group.cases():
        attempts = [
            done.get(key({**case, "seed": TUNED_AT, **attempt}))
            for attempt in group.tries_of(case["method"])
        ]
        if len(attempts) == 1:
            found.append({**case, **group.tries_of(case["method"])[0]})
        elif all(attempts):
            best = min((a for a in attempts if a), key=_valid_loss)
            found.append({**case, **{k: best["case"].get(k) for k in _TRIED}})
    return found


def belongs(case: Case, cell: Case, group: Group) -> bool:
    """Tell whether a run is of a cell, but for what its method has differently or was tuned to."""
    own = group.changed({**cell, "method": case["method"]})
    if any("learning_rate" in attempt for attempt in group.tries_of(case["method"])):
        own["learning_rate"] = case["learning_rate"]
    return matches(case, own)


def _valid_loss(result: Result) -> float:
    loss = result["valid_loss"]
    # A run that broke off is no best one.
    return float("inf") if loss is None or loss != loss else loss
