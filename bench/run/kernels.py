"""Kernels in the compiler's cache that a process has left unfinished when it was killed.

PyTorch's Inductor writes a library where it will be looked for, and takes what is there for whole:
whoever needs that kernel next, in whichever process, cannot load it.
"""

from __future__ import annotations

import re
from pathlib import Path

_LIBRARY = re.compile(r"ImportError: (/\S+\.so): ")


def removed(error: Exception) -> bool:
    """Whether ``error`` is of a library of the cache that does not load, which is gone now."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir  # noqa: PLC0415 - a compiler

    named = _LIBRARY.search(str(error))
    library = Path(named.group(1)) if named else None
    if library is None or Path(cache_dir()) not in library.parents or not library.exists():
        return False
    library.unlink()
    return True
