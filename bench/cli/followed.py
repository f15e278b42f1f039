"""Lines that another process writes as it works, shown on stderr as they come."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Iterator
from typing import IO

import typer

LOOK_S = 0.5
"""Between two looks."""


@contextlib.contextmanager
def followed() -> Iterator[str]:
    """The path of a file that a process of ours may append lines to; it is gone afterwards."""
    with tempfile.NamedTemporaryFile("r", prefix="ckpt-bench-", encoding="utf-8") as file:
        ended = threading.Event()
        watch = threading.Thread(target=_watch, args=(file, ended), daemon=True)
        watch.start()
        try:
            yield file.name
        finally:
            ended.set()
            watch.join()


def _watch(file: IO[str], ended: threading.Event) -> None:
    last = False
    while not last:
        last = ended.wait(LOOK_S)  # what came just before the end is shown, too
        for line in file.readlines():
            typer.echo(line, err=True, nl=False)
