"""Errors that are meant for the user: one line with what, what was expected, and what to do."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input: the command line prints it as one line and exits with code 2."""


class DivergedError(UserError):
    """The training loss became NaN or infinite."""


class UnsafeFileError(UserError):
    """A file holds something that would have to be executed to be read."""
