"""Heads: a model that was trained for several levels of theory has an energy for each."""

from __future__ import annotations

from collections.abc import Sequence

from ase_ws.errors import UserError

#: What upstream calls the head of a model that was trained for one level of theory.
ONE_HEAD = ("Default",)


class HeadWarning(UserWarning):
    """Of several heads one was taken that nobody had named."""


class HeadError(UserError):
    """No such head, or several and none is named; `heads` are those of the model."""

    def __init__(self, message: str, heads: Sequence[str]):
        super().__init__(message)
        self.heads = tuple(heads)


def choose_head(heads: Sequence[str], head: str | None) -> int:
    """Index of the head of this name; of none, as upstream chooses.

    Upstream takes the only head, or the one that is called "default"; without it, it refuses.

    Raises
    ------
    HeadError
        Lists the heads.
    """
    listed = ", ".join(f"'{name}'" for name in heads)
    if head is not None:
        if head not in heads:
            raise HeadError(f"the model has no head '{head}'; its heads are {listed}", heads)
        return list(heads).index(head)
    default = [k for k, name in enumerate(heads) if len(heads) == 1 or name.lower() == "default"]
    if len(default) != 1:
        raise HeadError(
            f"the model has several heads, each with an energy of its own: name one of {listed} "
            "(head=... in Python, --head on the command line)",
            heads,
        )
    return default[0]
