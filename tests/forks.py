"""Pytest again and again, each time in a forked process: what it imports first is imported once.

    python tests/forks.py

Reads lines, each a file for the output and the arguments, as JSON; answers each with pytest's exit
code. Nothing of the project is imported before: it may be another each time.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
from collections.abc import Sequence

import pytest

LIBRARIES = (
    *("hypothesis", "matplotlib.pyplot", "msgspec", "numba", "numpy", "pandas", "psutil", "rich"),
    *("seaborn", "torch", "torch._dynamo", "torch.distributed", "typer"),
)
OPTIONS = ("-W", "ignore::pytest.PytestAssertRewriteWarning")  # hypothesis is loaded already
BROKEN = 99


def run(log: str, arguments: Sequence[str]) -> int:
    """Pytest's exit code in a process of its own, which writes to a file."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = BROKEN
    try:
        output = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(output, stream)
        code = int(pytest.main([*OPTIONS, *arguments]))
    finally:
        sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for line in sys.stdin:
        sys.stdout.write(f"{run(*json.loads(line))}\n")
        sys.stdout.flush()
