"""A limit to how long a question may take, where the system has alarms."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class TooLongError(Exception):
    """The limit has passed."""


class _Ring(BaseException):
    """No Exception: foreign code that catches those must not swallow it."""


@contextmanager
def within(seconds: float | None) -> Iterator[None]:
    """Give up what is done inside after so many seconds.

    In the main thread of a POSIX system only, and not inside a call into C that does not come
    back. Elsewhere, and where an earlier alarm is due before, nothing is done. Handler and timer
    are left as they were, the timer with the time that has passed taken off.

    Raises
    ------
    TooLongError
    """
    if (
        seconds is None
        or not hasattr(signal, "setitimer")
        or threading.current_thread() is not threading.main_thread()
    ):
        yield
        return
    due, every = signal.getitimer(signal.ITIMER_REAL)
    handler = signal.getsignal(signal.SIGALRM)
    # A handler of C code (None) could not be put back.
    if 0.0 < due <= seconds or handler is None:
        yield
        return
    waiting = True

    def ring(*_: Any) -> None:
        if waiting:
            raise _Ring

    started = time.monotonic()
    signal.signal(signal.SIGALRM, ring)
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            yield
        finally:
            # From here on it rings no more: the alarm may fall between two lines.
            waiting = False
    except _Ring:
        raise TooLongError(f"no answer within {seconds:.3g} s") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, handler)
        if due > 0.0:
            left = max(due - (time.monotonic() - started), 1e-6)
            signal.setitimer(signal.ITIMER_REAL, left, every)
