"""Whose error is it? A model from elsewhere that fails is tried once more, under no strategy.

If it fails so, too, then the model, its batch or its loss is at fault, and the user is told where.
If it does not, the error is the strategy's, or ours, and stays what it is. Code that asks to exit
has failed: nobody else's process ends.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.cells.cell import Cell
from bench.cells.training import TrainingStep
from bench.simulate.run import fake_step
from bench.workloads.errors import InputError
from bench.workloads.sources import SourceWorkload
from strategies import Unsupported
from strategies.profiling.oom import is_out_of_memory


@contextlib.contextmanager
def named(cell: Cell) -> Iterator[None]:
    """Errors that a cell's model has under no strategy, too, are the user's.

    What the model prints meanwhile goes to stderr, and the folder that it changes to is left again.

    Raises:
        InputError: one of them, as a sentence that names file and line.
    """
    try:
        with contextlib.chdir(Path.cwd()), contextlib.redirect_stdout(sys.stderr):
            yield
    except (InputError, Unsupported):
        raise
    except (Exception, SystemExit) as error:
        if isinstance(cell.make_workload(), SourceWorkload) and not is_out_of_memory(error):
            try_plain(cell)
        raise


def try_plain(cell: Cell) -> None:
    """Run one step of a cell's model from elsewhere under no strategy; simulated if the cell is.

    Raises:
        InputError: it fails; names the user's file and line.
    """
    workload, model = cell.make_workload(), None
    assert isinstance(workload, SourceWorkload)
    with contextlib.ExitStack() as stack:
        try:
            if cell.simulated:
                mode = FakeTensorMode()
                step = fake_step(cell, mode)
                stack.enter_context(mode)
            else:
                device = torch.device(cell.device)
                step = TrainingStep.build(workload, device, cell.precision, cell.optimizer)
            model = step.model
            step()
        except (Exception, SystemExit) as error:
            raise workload.blame(error, model) from error
