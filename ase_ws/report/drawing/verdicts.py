"""Verdicts and statuses: in words, with an icon and a colour class; never by colour alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """How a verdict is shown; `kind` is the CSS class and icon: good, bad, open or none."""

    kind: str
    word: str


STABLE = Verdict("good", "Stable")
UNSTABLE = Verdict("bad", "Unstable")
INCONCLUSIVE = Verdict("open", "Not enough evidence")

_BY_NAME = {"stable": STABLE, "unstable": UNSTABLE, "inconclusive": INCONCLUSIVE}
_STATUS_KINDS = {"passed": "good", "warned": "open", "failed": "bad"}


def verdict_of(name: str) -> Verdict:
    """Anything but a known verdict is "not enough evidence": what we cannot read is no proof."""
    return _BY_NAME.get(name.strip().lower(), INCONCLUSIVE)


def status_kind(status: str) -> str:
    """Give the CSS class and icon for the status of one check."""
    return _STATUS_KINDS.get(status.strip().lower(), "none")
