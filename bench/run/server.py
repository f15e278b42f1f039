"""The process that cells' processes are forked from; this module imports nothing that takes time.

So a command can have it started first: it imports what it preloads while the command does.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Sequence
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext

_LIBRARIES = {"hf": "transformers.modeling_utils"}
"""What models of a source need, by its prefix; where it is not installed, it is passed over."""

MOST_NAME_BYTES = 107 - len("/pymp-12345678/listener-12345678")
"""Of the folder in which Python makes a socket, whose name the system has so many bytes for."""


def shared(module: str, workload: str) -> list[str]:
    """What to preload for work in a module, on a workload of that name."""
    return [module, *(m for prefix, m in _LIBRARIES.items() if workload.startswith(f"{prefix}:"))]


def context(preload: Sequence[str] = ()) -> ForkServerContext:
    """How processes are started.

    Args:
        preload: modules that all of them share, where none was started yet.

    Raises:
        OSError: no socket can have its name in the folder for temporary files.
    """
    folder = tempfile.gettempdir()
    if len(os.fsencode(folder)) > MOST_NAME_BYTES:
        raise OSError(
            f"{folder}: too long a name for the sockets that processes start through, of"
            f" {MOST_NAME_BYTES} bytes at most; set TMPDIR to another folder"
        )
    # Threads that spin while they wait make a step many times slower as soon as any other process
    # wants a core; the server that all cells are forked from reads this when it starts.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    context = multiprocessing.get_context("forkserver")
    # Imported once; starts no threads.
    shared = ["bench.run.uncollected", "bench.run.worker", "bench.run.preloaded", *preload]
    context.set_forkserver_preload(shared)
    return context


def begin(preload: Sequence[str] = ()) -> None:
    """Start it, if it does not run."""
    context(preload)
    forkserver.ensure_running()
