"""When garbage is looked for; imports nothing that takes time."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Nothing is collected meanwhile.

    While a step is traced, when a cycle of references dies would be chance. During large imports it
    would be in vain, a sixth of their time: what they make stays.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
