"""Limits on the time and the memory of work in this process: other people's may have no end."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

_GRAIN = 1 << 15  # elements that PyTorch gives a thread at least


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


@contextlib.contextmanager
def limited_memory(limit_bytes: int | None, threads: int) -> Iterator[None]:
    """Let this process allocate no more than ``limit_bytes`` above what it holds (Linux).

    After it, whatever ended it, there is memory again: to say so takes some.

    Args:
        limit_bytes: ``None`` for no limit.
        threads: of PyTorch; there before, or OpenMP would end the process for their stacks.
    """
    if limit_bytes is None:
        yield
        return
    import resource  # noqa: PLC0415 - not on every system

    torch.set_num_threads(threads)
    torch.ones(2 * threads * _GRAIN).neg_()
    before, most = resource.getrlimit(resource.RLIMIT_DATA)
    status = Path("/proc/self/status").read_text()
    line = next(x for x in status.splitlines() if x.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (int(line.split()[1]) * 1024 + limit_bytes, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, most))
