"""``apply``: put a model under a strategy, in place, and take it out again."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from strategies.contract.registry import get
from strategies.contract.strategy import Strategy
from strategies.execution import block_modes, groups
from strategies.execution.chain import Chain, find_chain
from strategies.execution.errors import Unsupported
from strategies.execution.undo import RestoreAttribute, Undo
from strategies.profiling.oom import is_out_of_memory
from strategies.profiling.step import ExampleStep, Step, detached, preserved
from strategies.schedules.plan import Plan
from strategies.schedules.schedule import Schedule
from strategies.storage import Storage

_MARK = "ckpt_applied"


@dataclasses.dataclass
class Applied:
    """A model under a strategy. As a context manager, undoes itself at the end.

    Attributes:
        model: the same object that was given.
        strategy: with its parameters.
        chain: the blocks found.
        schedule: what is kept and what is recomputed, as executed.
        storage: how boundaries rest, or ``None`` for as they are.
        attention_kernel: the kernel that the strategy chose, if it chose one.
        notes: what a user should know about these parameters on this model.
    """

    model: nn.Module
    strategy: Strategy
    chain: Chain
    schedule: Schedule
    storage: Storage | None
    attention_kernel: str | None
    notes: Sequence[str]
    undos: list[Undo] = dataclasses.field(default_factory=list, repr=False)

    @property
    def plan(self) -> Plan:
        """The schedule's plan."""
        return self.schedule.plan

    def undo(self) -> nn.Module:
        """Put the model back as it was; a second call does nothing."""
        while self.undos:
            self.undos.pop()()
        self.model.__dict__.pop(_MARK, None)
        return self.model

    def __enter__(self) -> Applied:
        """The handle itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Undo."""
        self.undo()


def apply(
    model: nn.Module,
    strategy: str | Strategy,
    *,
    blocks: str | Sequence[str] | None = None,
    example: Any = None,
    loss: Callable[[Any], Tensor] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    chain: Chain | None = None,
    **params: Any,
) -> Applied:
    """Put ``model`` under ``strategy``, in place.

    Parameters stay the same objects, ``state_dict`` keys stay the same, and ``train()``/``eval()``
    keep their meaning; without gradients (``torch.no_grad``) nothing is checkpointed. Forward hooks
    on blocks that share a recompute group run again when the group is recomputed. Models of the
    transformers library build no cache of keys and values meanwhile (``config.use_cache``).

    Args:
        model: any module whose blocks sit in a ``ModuleList`` or ``Sequential``.
        strategy: a name (`strategies.available`), a specification such as ``"every_k(k=4)"``, or a
            `Strategy`.
        blocks: dotted path(s) of the container(s) of blocks, if they are not to be found.
        example: a batch, for strategies that plan by what the blocks cost (``needs_profile``): a
            tensor, a sequence of arguments, or a mapping of keyword arguments. One step runs on it
            a few times, on fake tensors if it does not fit; gradients, buffers and random states
            are afterwards what they were.
        loss: of the model's output on the example; default: its ``.loss``, or else its sum.
        optimizer: whose state counts into a budget, as far as it exists by now.
        chain: instead of ``blocks`` and ``example``: the blocks, with what was found out about
            them before (`strategies.profiled`).
        params: the strategy's parameters.

    Returns:
        A handle: ``.plan``, ``.notes``, ``.undo()``; also a context manager.

    Raises:
        ValueError: unknown strategy or parameter, or the model is under a strategy already.
        Unsupported: the strategy cannot run on this model or its device.
    """
    chosen = get(strategy, **params)
    for module in model.modules():
        if _MARK not in module.__dict__:
            continue
        current = module.__dict__[_MARK].strategy.spec()
        raise ValueError(f"the model is under {current} already; call strategies.undo(model) first")
    reason = chosen.unsupported(model, _device_of(model))
    if reason:
        raise Unsupported(f"{chosen.spec()}: {reason}")
    if chain is None:
        step = None if example is None else ExampleStep(model, detached(example), loss, optimizer)
        chain = profiled(model, chosen, step, blocks=blocks)
    schedule, storage = chosen.schedule(chain).split(chain.borders), chosen.storage()
    plan = schedule.plan
    notes = list(chosen.notes(chain))
    if storage and schedule.offloaded is None and all(isinstance(node, int) for node in plan):
        notes.append(f"the plan keeps no boundaries apart, so nothing rests as {storage}")
    applied = Applied(
        model=model,
        strategy=chosen,
        chain=chain,
        schedule=schedule,
        storage=storage,
        attention_kernel=chosen.attention_kernel(model),
        notes=notes,
    )
    _install(applied)
    model.__dict__[_MARK] = applied
    return applied


def _install(applied: Applied) -> None:
    try:
        applied.undos += install(
            applied.model, applied.strategy, applied.chain, applied.schedule, applied.storage
        )
        if applied.undos:
            applied.undos += _turn_caches_off(applied.model)
    except BaseException:
        applied.undo()
        raise


def install(
    model: nn.Module,
    strategy: Strategy,
    chain: Chain,
    schedule: Schedule,
    storage: Storage | None,
) -> list[Undo]:
    """Kernels and sub-modules, op policies, and the plan; returns how to undo them in reverse."""
    undos = list(strategy.install(model, chain))
    try:
        undos += block_modes.install(chain, dict(enumerate(schedule.modes)))
        undos += groups.install(chain, schedule.plan, storage, schedule.offloaded)
    except BaseException:
        while undos:
            undos.pop()()
        raise
    return undos


def profiled(
    model: nn.Module,
    strategy: str | Strategy,
    step: Step | None,
    *,
    blocks: str | Sequence[str] | None = None,
) -> Chain:
    """The chain of ``model`` with what ``strategy`` needs to know about it.

    Args:
        model: under no strategy.
        strategy: as in `apply`.
        step: a step of the model, for strategies that need one.
        blocks: as in `apply`.
    """
    chain = find_chain(model, blocks)
    if step is None:
        return chain
    undos = _turn_caches_off(model)
    try:
        with preserved(model):
            return _profiled(chain, get(strategy), step, blocks)
    finally:
        while undos:
            undos.pop()()


def _profiled(
    chain: Chain, strategy: Strategy, step: Step, blocks: str | Sequence[str] | None
) -> Chain:
    """The chain, profiled on the step; on fake tensors if the step does not fit as it is.

    That is why a budget is asked for, after all. Fake tensors have the same bytes, but no kernels
    run, so that their scratch memory is not seen.
    """
    try:
        return strategy.profiled(chain, step)
    except (RuntimeError, MemoryError) as error:
        if not isinstance(step, ExampleStep) or not is_out_of_memory(error):
            raise
    step.drop_gradients()
    gc.collect()  # the step that failed left its graph in cycles of hooks
    mode = FakeTensorMode()
    fake = step.faked(mode)
    with mode:
        found = strategy.profiled(find_chain(fake.model, blocks), fake)
    assert found.profile is not None
    return dataclasses.replace(chain, profile=dataclasses.replace(found.profile, faked=True))


def _turn_caches_off(model: nn.Module) -> list[Undo]:
    """Transformers: a cache of keys and values would be filled again by every recompute."""
    undos: list[Undo] = []
    for module in model.modules():
        config = getattr(module, "config", None)
        if config is not None and getattr(config, "use_cache", None) is True:
            undos.append(RestoreAttribute.of(config, "use_cache"))
            config.use_cache = False
    return undos


def undo(model: nn.Module) -> nn.Module:
    """Take ``model`` out of the strategy that it is under.

    Raises:
        ValueError: it is under none.
    """
    applied = model.__dict__.get(_MARK)
    if applied is None:
        raise ValueError("the model is under no strategy")
    applied.undo()
    return model


def _device_of(model: nn.Module) -> torch.device:
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device
