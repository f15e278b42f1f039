"""Commands that look at a model themselves: one with a user's code has a process of its own.

That code may end the process, or never return, and the command is to say so in a sentence.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from bench.cells.cell import Cell
from bench.run import culprit, executor
from bench.run.endings import Ending
from bench.run.executor import Work
from bench.workloads.errors import InputError
from bench.workloads.sources import references_of


@contextlib.contextmanager
def named(cell: Cell) -> Iterator[None]:
    """As `bench.run.culprit.named`; what is refused within is refused to the user in its own words.

    Raises:
        InputError: whatever was refused.
    """
    try:
        with culprit.named(cell):
            yield
    except ValueError as error:
        raise InputError(str(error)) from error


def answer(work: Work, payload: bytes, cell: Cell, timeout_s: float = executor.TIMEOUT_S) -> bytes:
    """What ``work`` makes of ``payload``.

    Args:
        work: a function of a module; runs the model within `named`.
        payload: its argument.
        cell: whose model it looks at.
        timeout_s: after which a process of its own is killed.

    Raises:
        ValueError: the user's model, batch or loss is at fault, or it cannot be done.
    """
    if not references_of(cell.make_workload()):
        return work(payload)
    given = executor.in_process(work, payload, timeout_s)
    if isinstance(given, Ending):
        raise ValueError(f"{cell.workload} ended in {given.status}: {given.reason}")  # noqa: TRY004
    return given
