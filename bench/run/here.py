"""A cell measured in this process: of a model that is here, and cannot be sent to another."""

from __future__ import annotations

import torch

from bench.cells.cell import Cell
from bench.run import culprit, worker
from bench.run.blank import blank
from bench.run.endings import classify_error
from bench.store.records import Record
from bench.workloads.errors import InputError
from strategies.execution.randoms import Shared


def measure_here(cell: Cell) -> Record:
    """The record of a checked cell; threads and shared random states are afterwards as before.

    Nothing bounds its time or memory, and a process that dies takes this one with it.

    Raises:
        InputError: the user's model, batch or loss is at fault.
    """
    threads, shared = torch.get_num_threads(), Shared(full=True)
    try:
        with torch.random.fork_rng(), culprit.named(cell):
            return worker.measure(cell)
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, it is this cell's result
        ending = classify_error(error)
        return blank(cell, ending.status, ending.reason)
    finally:
        shared.restore()
        torch.set_num_threads(threads)
