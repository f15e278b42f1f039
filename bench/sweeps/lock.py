"""One lock a machine: whoever measures time holds it alone, all others together.

It is the system's (``flock``), and gone with the process that held it, however that ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

_NAME = "ckpt-bench.lock"


@contextlib.contextmanager
def held(alone: bool) -> Iterator[None]:
    """Wait until nobody times here; to time oneself, until nobody measures at all.

    Args:
        alone: whether time is measured.
    """
    handle = _opened(Path(tempfile.gettempdir()) / _NAME)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


def _opened(path: Path) -> int:
    """The file of whoever came first; it may be another user's, so it is only read."""
    try:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CREAT, 0o444)
