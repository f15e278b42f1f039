"""Chain profiles of cells: on this CPU, or on fake tensors with a simulated device's rates."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import strategies
from bench.cells import Cell
from bench.simulate import semantics
from bench.simulate.run import fake_step
from bench.training import TrainingStep
from strategies.modes import MODES
from strategies.profile import ChainProfile
from strategies.profiling.chain import profile_chain
from strategies.profiling.step import preserved


def profile_cell(cell: Cell) -> ChainProfile:
    """What the blocks of a cell's workload cost, without its strategy.

    Args:
        cell: checked.

    Raises:
        ValueError: a real accelerator, or a model that is no chain.
    """
    if cell.simulated:
        return _simulated(cell)
    if cell.device != "cpu":
        raise ValueError(f"plan takes cpu or a simulated device, not {cell.device}")
    torch.set_num_threads(cell.threads)
    step = TrainingStep.build(
        cell.make_workload(), torch.device("cpu"), cell.precision, cell.optimizer
    )
    step()  # the optimizer's state exists from its first step
    with preserved(step.model):
        return profile_chain(step, _chain(step), modes=MODES, scratch=True)


def _simulated(cell: Cell) -> ChainProfile:
    mode = FakeTensorMode()
    step = fake_step(cell, mode)
    with mode, semantics.cuda():
        return profile_chain(step, _chain(step), modes=MODES)


def _chain(step: TrainingStep) -> strategies.Chain:
    return strategies.find_chain(step.model, step.workload.blocks)
