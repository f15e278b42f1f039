"""Compiles what every test process would compile for itself, in a process that ends.

    python tests/warm.py

Sources to byte code, of what is imported, at the head of a file or late; and what the solvers run.
What is compiled is kept beside the sources; the compilers' memory is not.
"""

import ast
import contextlib
import dataclasses
import importlib
import io
from pathlib import Path

import pytest
import torch
from nested import random_profile

from strategies.schedules import plan as plans
from strategies.schedules.interpreter import predict
from strategies.solvers import hybrid, optimal_table
from strategies.solvers.optimal_numbers import numbers_of

ROOT = Path(__file__).parent.parent
BLOCKS = 4


def solve():
    """Compile the tables, of short and of long chains."""
    profile = dataclasses.replace(random_profile(0, BLOCKS, modes=2), link_bytes_per_s=1)
    numbers = numbers_of(profile, 1)
    table = optimal_table.empty(2, len(numbers.firsts), 1)
    for dtype in ("float64", "float32"):
        optimal_table.compiled()(table.astype(dtype), numbers)
    hybrid.solve(profile, predict(profile, plans.plain(BLOCKS)).peak_bytes)


def imported_late(source):
    """What is imported inside of functions, or asked for by ``importorskip``: modules and names."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.col_offset and not node.level:
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import) and node.col_offset:
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.importorskip":
            yield node.args[0].value, ""


def import_all():
    """What tests import, and what they and we import late; a compiler is the latest of all."""
    with contextlib.redirect_stdout(io.StringIO()):
        pytest.main(["--collect-only", "-qq"])
    files = [
        file for name in ("bench", "strategies", "tests") for file in ROOT.glob(f"{name}/**/*.py")
    ]
    for module, name in sorted({one for file in files for one in imported_late(file.read_text())}):
        with contextlib.suppress(Exception):  # an optional package, or no module of this process
            getattr(importlib.import_module(module), name, None)  # some load it only then
    torch.compile(torch.tanh)(torch.ones(2, requires_grad=True)).sum().backward()


if __name__ == "__main__":
    solve()
    import_all()
