"""Errors that are meant for the user: one line with what, what was expected, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """Bad input: the command line prints it as one line and exits with code 2."""


class AnsweredError(UserError):
    """Bad input that has an answer, which the command line prints on stdout before the line."""

    def __init__(self, message: str, answer: str):
        super().__init__(message)
        self.answer = answer


class DivergedError(UserError):
    """The training loss became NaN or infinite."""


class UnsafeFileError(UserError):
    """A file holds something that would have to be executed to be read."""


@contextmanager
def about(what: object) -> Iterator[None]:
    """Begin the message of a `UserError` from the block with what it is about, such as a file."""
    try:
        yield
    except UserError as error:
        if not str(error).startswith(f"{what}: "):
            error.args = (f"{what}: {error}",)
        raise
