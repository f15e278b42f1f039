"""What the processes of a file's cells share, however many files this process has run before."""

from __future__ import annotations

from collections.abc import Sequence
from multiprocessing import forkserver

from bench.run import server


def share(modules: Sequence[str]) -> None:
    """Fork cells' processes from one that has imported these modules, too: each would for seconds.

    The first cell of a process decides what is shared; here a new server takes the place of the one
    that was started for other tests.
    """
    forkserver._forkserver._stop()
    server.begin(modules)
