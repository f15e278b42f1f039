"""Chain profiles of cells: on this device, or on fake tensors with a simulated device's rates.

Times are *measured* by the device's clock, or *modelled* by a roofline over its operators.
"""

from __future__ import annotations

import gc

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import strategies
from bench.cells import Cell
from bench.measure import blocks
from bench.simulate import semantics
from bench.simulate.run import fake_step
from bench.training import TrainingStep
from strategies.modes import MODES
from strategies.profile import ChainProfile
from strategies.profiling.chain import profile_chain
from strategies.profiling.step import preserved


def profile_cell(cell: Cell, *, measured: bool = False) -> ChainProfile:
    """What the blocks of a cell's workload cost, without its strategy.

    Args:
        cell: checked.
        measured: times by the clock, where there is a device; a simulated one's stay modelled.

    Raises:
        ValueError: a model that is no chain.
    """
    if cell.simulated:
        return _simulated(cell)
    torch.set_num_threads(cell.threads)
    step = build_step(cell)
    return profile_step(step, _chain(step), measured=measured)


def profile_for(cell: Cell, strategy: strategies.Strategy) -> ChainProfile:
    """The profile that a strategy plans by in a cell; a strategy that needs one.

    Raises:
        strategies.Unsupported: the strategy cannot be planned for this workload.
    """
    if cell.simulated:
        mode = FakeTensorMode()
        step = fake_step(cell, mode)
        with mode, semantics.cuda():
            return _planned_by(step, strategy)
    torch.set_num_threads(cell.threads)
    return _planned_by(build_step(cell), strategy)


def _planned_by(step: TrainingStep, strategy: strategies.Strategy) -> ChainProfile:
    chain = strategies.profiled(step.model, strategy, step, blocks=step.workload.blocks)
    assert chain.profile is not None
    return chain.profile


def times_of(cell: Cell, *, measured: bool) -> str:
    """What `profile_cell` makes of the times: ``measured`` or ``modelled``."""
    return "measured" if measured and not cell.simulated else "modelled"


def build_step(cell: Cell) -> TrainingStep:
    """The step of a cell on its real device, once run: the optimizer's state exists from then."""
    device = torch.device(cell.device)
    step = TrainingStep.build(cell.make_workload(), device, cell.precision, cell.optimizer)
    step()
    step.drop_gradients()
    return step


def profile_step(
    step: TrainingStep, chain: strategies.Chain, *, measured: bool, rounds: int = blocks.ROUNDS
) -> ChainProfile:
    """What the blocks of a real step cost; see `profile_cell`."""
    with preserved(step.model):
        profile = profile_chain(step, chain, modes=MODES, scratch=True)
        if not measured:
            return profile
        gc.freeze()  # modules are no garbage: the collection before every timed step is short
        return blocks.measure(step, chain, profile, rounds)


def budgets_between(low_bytes: int, high_bytes: int, count: int) -> list[int]:
    """Evenly spaced budgets, both ends included (one alone: the lower)."""
    steps = max(1, count - 1)
    return [low_bytes + (high_bytes - low_bytes) * number // steps for number in range(count)]


def _simulated(cell: Cell) -> ChainProfile:
    mode = FakeTensorMode()
    step = fake_step(cell, mode)
    with mode, semantics.cuda():
        return profile_chain(step, _chain(step), modes=MODES)


def _chain(step: TrainingStep) -> strategies.Chain:
    return strategies.find_chain(step.model, step.workload.blocks)
