"""All that is known about a model and a strategy before the model is touched, made once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from strategies.contract import caches, dropped, idle
from strategies.contract.compiled_around import check_plan
from strategies.contract.profiled import profiled
from strategies.contract.registry import get
from strategies.contract.remedies import NothingFits
from strategies.contract.strategy import Strategy
from strategies.execution import block_modes, layout
from strategies.execution.chain import Chain
from strategies.execution.errors import Unsupported
from strategies.execution.stand_in import compile_all
from strategies.execution.undo import Handle, Undo, installed, undo_all, undone_on_error
from strategies.profiling.coverage import coverage
from strategies.profiling.step import ExampleStep, Step, preserved
from strategies.schedules.interpreter import Prediction
from strategies.schedules.plan import Plan
from strategies.schedules.schedule import Schedule
from strategies.storage import Storage

MARK = "ckpt_applied"


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A strategy worked out for a model, which is as it was.

    Attributes:
        model: the same object that was given.
        strategy: with its parameters.
        chain: the blocks, and what is known about them.
        schedule: what is kept and what is recomputed, as it will be executed.
        storage: how boundaries rest, or ``None`` for as they are.
        attention_kernel: the kernel that the strategy chooses, if it chooses one.
        notes: what a user should know about these parameters on this model.
        prediction: what the schedule costs, where the strategy knows what the blocks cost.
        examined: whether an example showed which blocks run, which the notes then say.
        whole: what the whole model is under in the place of a plan, if there is none.
    """

    model: nn.Module
    strategy: Strategy
    chain: Chain
    schedule: Schedule
    storage: Storage | None
    attention_kernel: str | None
    notes: Sequence[str]
    prediction: Prediction | None = None
    examined: bool = False
    whole: Strategy | None = None

    @property
    def plan(self) -> Plan:
        """The schedule's plan."""
        return self.schedule.plan

    @property
    def stored(self) -> frozenset[int] | None:
        """The boundaries that rest in the storage, by the block that reads them; ``None``: all."""
        named = self.storage is not None and not self.storage.everywhere
        return self.schedule.offloaded if named or self.schedule.offloaded else None

    def install(self, compile_blocks: bool | Mapping[str, Any] = False) -> list[Undo]:
        """Kernels and sub-modules, op policies, and the plan; returns how to undo them."""
        undos: list[Undo] = []
        with undone_on_error(undos):
            undos += compile_all(self.chain.blocks, compile_blocks)
            undos += (self.whole or self.strategy).install(self.model, self.chain)
            modes, tier = dict(enumerate(self.schedule.modes)), (self.storage or Storage()).tier
            undos += block_modes.install(self.chain, modes, tier)
            undos += layout.install(self.chain, self.plan, self.storage, self.stored, self.model)
            if undos or self.prediction is not None:  # which is of a model without
                undos += caches.turn_off(self.model, self.chain)
            if undos and not self.examined:
                undos += idle.watch(self.model, self.chain, self.strategy.spec())
        return undos

    def apply(self, compile_blocks: bool | Mapping[str, Any] = False) -> Applied:
        """Put the model under the strategy.

        Args:
            compile_blocks: see `strategies.apply`.

        Raises:
            ValueError: it is under one already.
        """
        check_bare(self.model)
        parts = {field.name: getattr(self, field.name) for field in dataclasses.fields(Prepared)}
        applied = Applied(**parts, undos=self.install(compile_blocks))
        self.model.__dict__[MARK] = applied
        return applied


@dataclasses.dataclass(frozen=True)
class Applied(Prepared, Handle):
    """A model under a strategy. As a context manager, undoes itself at the end."""

    undos: list[Undo] = dataclasses.field(default_factory=list, repr=False)

    def undo(self) -> nn.Module:
        """Put the model back as it was; a second call does nothing."""
        undo_all(self.undos)
        self.model.__dict__.pop(MARK, None)
        return self.model


def prepare(
    model: nn.Module,
    strategy: str | Strategy,
    *,
    blocks: str | Sequence[str] | None = None,
    step: Step | None = None,
    chain: Chain | None = None,
    device: torch.device | None = None,
    compile_blocks: bool | Mapping[str, Any] = False,
    settle: Callable[[Prepared], Prepared] | None = None,
    **params: Any,
) -> Prepared:
    """Work out what ``strategy`` will do to ``model``, and leave the model as it is.

    Args:
        model: see `strategies.apply`, also for the other arguments.
        strategy: a name, a specification, or a `Strategy`.
        blocks: dotted path(s) of the container(s) of blocks.
        step: to watch.
        chain: instead of ``step`` and ``blocks``.
        device: that the model is to run on; default: where it is.
        compile_blocks: how its blocks will be compiled when the strategy is applied.
        settle: what chooses between the plans that the profile allows.
        params: the strategy's parameters.

    Raises:
        ValueError: unknown strategy or parameter, or the model is under a strategy already.
        Unsupported: the strategy cannot run on this model or its device.
    """
    chosen = get(strategy, **params)
    check_bare(model)
    reason = chosen.unsupported(model, device or device_of(model))
    if reason:
        raise Unsupported(f"{chosen.spec()}: {reason}")
    if chain is None:
        chain = profiled(model, chosen, step, blocks=blocks, compile_blocks=compile_blocks)
    try:
        prepared = _prepared(model, chosen, chain)
        check_plan(model, chain, chosen, prepared.plan)
        if settle is not None:
            prepared = settle(prepared)
    except NothingFits as refusal:
        if not isinstance(step, ExampleStep):
            raise
        raise refusal.with_tried(model, chain, step) from refusal
    if isinstance(step, ExampleStep):
        with installed(lambda: dropped.none(model)), preserved(model):
            notes = list(coverage(chain, step).sentences(chain))
        if prepared.prediction is not None:
            notes.append(step.assumptions())
        prepared = dataclasses.replace(prepared, notes=[*notes, *prepared.notes], examined=True)
    return prepared


def _prepared(model: nn.Module, strategy: Strategy, chain: Chain) -> Prepared:
    planned, storage = strategy.planned(chain), strategy.storage()
    schedule, notes = planned.schedule.split(chain.borders), list(planned.notes)
    if chain.left_out:
        notes.append(
            "without a plan, because they lie in other blocks, are TorchScript, or do not run one"
            f" after the other: the blocks of {', '.join(chain.left_out)}"
        )
    nothing = all(isinstance(node, int) for node in schedule.plan)
    if storage and storage.everywhere and nothing:
        notes.append(f"the plan keeps no boundaries apart, so nothing rests as {storage}")
    return Prepared(
        model=model,
        strategy=strategy,
        chain=chain,
        schedule=schedule,
        storage=storage,
        attention_kernel=strategy.attention_kernel(model),
        notes=notes,
        prediction=planned.prediction,
    )


def check_bare(model: nn.Module) -> None:
    """Refuse a model that is under a strategy.

    Raises:
        ValueError: it is, or a part of it.
    """
    for module in model.modules():
        if MARK in module.__dict__:
            current = module.__dict__[MARK].strategy.spec()
            raise ValueError(
                f"the model is under {current} already; call strategies.undo(model) first"
            )


def device_of(model: nn.Module) -> torch.device:
    """Where a model's parameters are."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device
