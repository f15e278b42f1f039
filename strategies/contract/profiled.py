"""A model's chain with what a strategy needs to know about it."""

from __future__ import annotations

import dataclasses
import functools
import gc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from strategies.contract import caches, dropped
from strategies.contract.compiled_around import check_planned
from strategies.contract.registry import get
from strategies.contract.strategy import Strategy
from strategies.execution.chain import Chain, find_chain, in_copy
from strategies.execution.errors import Unsupported
from strategies.execution.stand_in import compile_all
from strategies.execution.undo import installed
from strategies.profiling.oom import is_out_of_memory
from strategies.profiling.optimizers import only
from strategies.profiling.order import ordered
from strategies.profiling.standing import noted
from strategies.profiling.step import ExampleStep, Step, preserved
from strategies.profiling.update import update_bytes, update_cost


def profiled(
    model: nn.Module,
    strategy: str | Strategy,
    step: Step | None,
    *,
    blocks: str | Sequence[str] | None = None,
    compile_blocks: bool | Mapping[str, Any] = False,
) -> Chain:
    """The chain of ``model`` with what ``strategy`` needs to know about it.

    Args:
        model: under no strategy.
        strategy: as in `apply`.
        step: a step of the model, for strategies that need one.
        blocks: as in `apply`.
        compile_blocks: as in `apply`: a plan for compiled blocks is made from compiled blocks.
    """
    chain = find_chain(model, blocks)
    check_planned(model, chain, get(strategy))
    if step is None:
        return chain
    if isinstance(step, ExampleStep) and step.optimizer and step.release_gradients:
        step.update_bytes = _tried(update_bytes, model, only(step.optimizer))
    wanted = compile_blocks if get(strategy).needs_profile else False
    with (
        installed(lambda: caches.turn_off(model, chain)),
        installed(lambda: dropped.none(model)),
        installed(lambda: compile_all(chain.blocks, wanted)),
        preserved(model),
    ):
        chain = _profiled(chain, get(strategy), step)
    if not isinstance(step, ExampleStep):
        return chain
    step.let_go()
    return _updated(chain, step)


def _profiled(chain: Chain, strategy: Strategy, step: Step) -> Chain:
    """The chain, profiled on the step; on fake tensors if the step does not fit as it is.

    That is why a budget is asked for, after all. Fake tensors have the same bytes, but no kernels
    run, so that their scratch memory is not seen.
    """
    try:
        return strategy.profiled(_ordered(chain, step) if strategy.needs_profile else chain, step)
    except (RuntimeError, MemoryError) as error:
        if not isinstance(step, ExampleStep) or not is_out_of_memory(error):
            raise
    step.drop_gradients()
    gc.collect()  # the step that failed left its graph in cycles of hooks
    mode = FakeTensorMode()
    fake = step.faked(mode)
    with mode:
        fake_chain = strategy.profiled(_ordered(in_copy(chain, fake.model), fake), fake)
    assert fake_chain.profile is not None
    profile = dataclasses.replace(fake_chain.profile, faked=True)
    return dataclasses.replace(in_copy(fake_chain, step.model), profile=profile)


def _ordered(chain: Chain, step: Step) -> Chain:
    """The chain in the order in which it runs; that first forward shows what stands, too."""
    with noted(step):
        return ordered(chain, step)


def _updated(chain: Chain, step: ExampleStep) -> Chain:
    """The chain whose profile counts the optimizer's update, and the state that it will have.

    Raises:
        Unsupported: the optimizer cannot run on fake tensors.
    """
    if chain.profile is None or step.optimizer is None:
        return chain
    cost = functools.partial(update_cost, blocks=step.device.type == "cuda")
    update = _tried(cost, step.optimizer)
    resident_bytes = chain.profile.resident_bytes + update.missing_bytes
    profile = dataclasses.replace(
        chain.profile,
        resident_bytes=resident_bytes,
        # What is released was updated in backward, where it was watched.
        update_working_bytes=0 if step.release_gradients else update.working_bytes,
    )
    return dataclasses.replace(chain, profile=profile)


def _tried(cost: Callable[..., Any], *given: Any) -> Any:
    """What an update costs.

    Raises:
        Unsupported: the optimizer, which is given last, cannot run on fake tensors.
    """
    try:
        return cost(*given)
    except Exception as error:  # the optimizer may be anybody's
        raise Unsupported(
            f"the update of {type(given[-1]).__name__} cannot be tried on fake tensors"
            f" ({type(error).__name__}: {error}); plan without optimizer=, and take what its state"
            " and its update need from the budget"
        ) from error
