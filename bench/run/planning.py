"""Chain profiles of cells: on this device, or on fake tensors with a simulated device's rates.

Times are *measured* by the device's clock, or *modelled* by a roofline over its operators.
"""

from __future__ import annotations

import dataclasses

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import strategies
from bench.cells.cell import Cell
from bench.cells.training import TrainingStep
from bench.run import block_times
from bench.simulate import semantics
from bench.simulate.run import fake_step
from strategies.contract.budgeted import Budgeted
from strategies.contract.registry import classes
from strategies.optimal import Optimal
from strategies.profiling import trial
from strategies.profiling.step import preserved
from strategies.schedules.profile import ChainProfile


def budgeted(spec: str, budget: str) -> Budgeted:
    """The strategy of that name with a budget.

    Raises:
        ValueError: it has none; names those that do.
    """
    strategy = strategies.get(spec)
    if not isinstance(strategy, Budgeted):
        able = ", ".join(name for name, cls in classes().items() if issubclass(cls, Budgeted))
        raise ValueError(f"{strategy.name()} takes no budget; {able} do")  # noqa: TRY004 - input
    return dataclasses.replace(strategy, budget=budget)


def profile_cell(
    cell: Cell, *, measured: bool = False, strategy: Budgeted | None = None
) -> ChainProfile:
    """What the blocks of a cell's workload cost, under no strategy.

    Args:
        cell: checked.
        measured: times by the clock, where there is a device; a simulated one's stay modelled.
        strategy: that is to plan by the profile; default: `optimal`.

    Raises:
        ValueError: a model that is no chain.
    """
    strategy = strategy or Optimal()
    if not measured or cell.simulated:
        return profile_for(cell, strategy)
    torch.set_num_threads(cell.threads)
    step = build_step(cell)
    return profile_step(step, _chain(step), strategy)


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
    if isinstance(strategy, Budgeted):
        return strategy.profile_of(chain)
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
    step: TrainingStep,
    chain: strategies.Chain,
    strategy: Budgeted | None = None,
    rounds: int = block_times.ROUNDS,
) -> ChainProfile:
    """What the blocks of a real step cost, times by the clock; see `profile_cell`."""
    strategy = strategy or Optimal()
    with preserved(step.model):
        profile = strategy.profile_of(strategy.profiled(chain, step))
        with trial.frozen():  # the collection before every timed step is short
            return block_times.measure(step, chain, profile, rounds)


def budgets_between(low_bytes: int, high_bytes: int, count: int) -> list[int]:
    """Evenly spaced budgets, both ends included (one alone: the lower)."""
    steps = max(1, count - 1)
    return [low_bytes + (high_bytes - low_bytes) * number // steps for number in range(count)]


def _chain(step: TrainingStep) -> strategies.Chain:
    return strategies.find_chain(step.model, step.workload.blocks)
