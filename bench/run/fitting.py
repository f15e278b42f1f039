"""The largest size of a cell that fits its simulated device, searched in a process of its own."""

from __future__ import annotations

import msgspec

from bench.cells.cell import Cell
from bench.run import culprit, executor
from bench.run.endings import Ending
from bench.simulate import fit
from bench.simulate.fit import Axis


class Question(msgspec.Struct, frozen=True):
    """What is searched."""

    cell: Cell
    axis: Axis


def fitted(cell: Cell, axis: Axis, timeout_s: float) -> Cell:
    """The cell at the largest size that fits; the smallest if none does; as it is if it cannot run.

    Raises:
        ValueError: there is nothing to search, or the user's model is at fault.
    """
    fit.check(cell, axis)
    question = msgspec.json.encode(Question(cell, axis))
    answer = executor.in_process(work, question, timeout_s)
    if not isinstance(answer, Ending):
        return msgspec.json.decode(answer, type=Cell)
    if answer.status == "unsupported":
        return cell
    raise ValueError(f"--fit {axis} ended in {answer.status}: {answer.reason}")


def work(payload: bytes) -> bytes:
    """The answer to a question, both as JSON."""
    question = msgspec.json.decode(payload, type=Question)
    cell, axis = question.cell, question.axis
    with culprit.named(cell):
        largest = fit.largest(cell, axis)
    return msgspec.json.encode(largest or fit.sized(cell, axis, fit.STEP[axis]))
