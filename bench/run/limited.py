"""A limit on the time of work in this process: other people's code may not end."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """What takes longer is ended by an exception, at the next Python instruction.

    Signals reach the main thread alone: elsewhere there is no limit.

    Raises:
        TimeoutError: it took longer, whatever the exception was turned into on its way.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    late = TimeoutError(f"no end within {seconds:g} s")

    def end(*_: Any) -> None:
        raise late

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except Exception as error:
        if late.__traceback__ is not None:
            raise late from error
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
