"""Runs a chain under a plan: groups of one block under one checkpoint, others in frames.

Every block runs at its own time, under the hooks of the groups that it belongs to. All of it hangs
on the blocks' instances (`strategies.execution.stand_in`); containers, ``state_dict`` keys and
parameters stay as they are.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_leaves

from strategies.execution.chain import Chain
from strategies.execution.checkpoint import boundary_of, checkpoint_module
from strategies.execution.contexts import writes_arguments
from strategies.execution.errors import Unsupported
from strategies.execution.frames import Frame, laid
from strategies.execution.met import Met
from strategies.execution.scopes import Group, Position, Scope, Scopes
from strategies.execution.stand_in import StandIn
from strategies.execution.state import WatchingStandIn
from strategies.execution.undo import Undo
from strategies.schedules import plan as plans
from strategies.schedules.plan import Node, Plan
from strategies.storage import Overlapped, Storage


class GroupedForward(WatchingStandIn):
    """Runs a block in its groups' frames.

    Attributes:
        positions: in the chain; a block that is there several times is called so often.
        scopes: shared by all blocks.
    """

    def __init__(
        self, module: nn.Module, positions: Sequence[Position], scopes: Scopes, entry: str
    ) -> None:
        super().__init__(module, entry)
        self.positions, self.scopes = positions, scopes

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the module's own ``forward``."""
        if torch.compiler.is_compiling():
            refuse_compilation()
        scope = self.scopes.stack[-1]
        if scope.again is not None:
            (position, met, args, kwargs), scope.again = scope.again, None
            with self.state.recompute(met) or contextlib.nullcontext():
                scope.output = self.run(scope, position, args, kwargs)
            return scope.output
        number = scope.calls[self.module]
        scope.calls[self.module] += 1
        position = self.positions[number % len(self.positions)]
        if not torch.is_grad_enabled():
            return self.original(*args, **kwargs)
        return self.run(scope, position, args, kwargs)

    def run(self, scope: Scope, position: Position, args: Any, kwargs: Any) -> Any:
        """Run the block under the hooks of its groups; a failure ends all frames."""
        groups = position.groups[scope.depth :]
        if not groups:
            with laid(scope.hooks) if scope.hooks else contextlib.nullcontext():
                return self.original(*args, **kwargs)
        leaves, spec = tree_flatten((args, kwargs))
        with contextlib.ExitStack() as stack:
            met = self.state.begin(leaves)
            if scope.hooks is not None:
                stack.enter_context(laid(scope.hooks))
            for depth, group in enumerate(groups, scope.depth + 1):
                frame = scope.frames.get(group)
                if frame is None or not frame.continues(leaves):
                    frame = scope.frames[group] = self.frame(group, depth, leaves, args, kwargs)
                frame.enter(functools.partial(self.again, position, met), leaves, spec)
                stack.enter_context(laid(frame.hooks))
            try:
                output = self.original(*args, **kwargs)
            except BaseException:
                scope.frames.clear()
                raise
            self.state.end(met, leaves)
        for group in groups:
            if scope.frames[group].wants(met.written):
                raise writes_arguments(self.module)
            scope.frames[group].leave(tree_leaves(output))
            if position.index == group.last:
                del scope.frames[group]
        return output

    def frame(
        self, group: Group, depth: int, leaves: Sequence[Any], args: Any, kwargs: Any
    ) -> Frame:
        """A new frame, which begins with this block."""
        around = functools.partial(self.scopes.recompute, depth)
        if group.storage is None:
            return Frame(leaves, around, contextlib.nullcontext())
        return Frame(leaves, around, group.storage.keep(boundary_of(self, args, kwargs)))

    def again(
        self, position: Position, met: Met, scope: Scope, args: Any, kwargs: Any
    ) -> list[Any]:
        """Run the block again, through its hooks, which may gather its parameters (FSDP)."""
        scope.again = position, met, args, kwargs
        self.module(*args, **kwargs)
        if not scope.is_taken():
            raise Unsupported(
                f"{type(self.module).__name__} has another forward than when the strategy was"
                " applied; apply it after the change, or undo the change before"
            )
        output, scope.output = scope.output, None
        return tree_leaves(output)


class RootForward(StandIn):
    """Of the model: a forward begins and ends with no open frame, whatever blocks it leaves out."""

    def __init__(self, module: nn.Module, scopes: Scopes) -> None:
        super().__init__(module)
        self.scopes = scopes

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the model's own ``forward``."""
        if torch.compiler.is_compiling():
            return self.original(*args, **kwargs)
        scope = self.scopes.stack[-1]
        scope.reset()
        try:
            return self.original(*args, **kwargs)
        finally:
            scope.reset()


@torch.compiler.disable  # type: ignore[untyped-decorator]
def refuse_compilation() -> None:
    """Called where a compiler traces the model; runs, and raises, when the compiled model runs.

    Raises:
        Unsupported: always.
    """
    raise Unsupported(
        "a recompute group of several blocks cannot be compiled as a part of the model; compile the"
        " blocks instead: strategies.apply(model, ..., compile_blocks=True), or block.compile() for"
        " each before apply"
    )


class SettledForward(StandIn):
    """Of the last block: when it is over, no boundary leaves any more."""

    def __init__(self, module: nn.Module, tier: Overlapped) -> None:
        super().__init__(module)
        self.tier = tier

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the module's own ``forward``."""
        try:
            return self.original(*args, **kwargs)
        finally:
            self.tier.settle()


def install(
    chain: Chain,
    plan: Plan,
    storage: Storage | None = None,
    stored: frozenset[int] | None = None,
    model: nn.Module | None = None,
) -> list[Undo]:
    """Make the model that owns ``chain`` run under ``plan``.

    Args:
        chain: the model's blocks.
        plan: see `strategies.schedules.plan`; groups across containers are split there.
        storage: how top-level boundaries rest between forward and backward.
        stored: which boundaries do, by the block that reads them; ``None`` for all.
        model: whose forwards end what a group left open.

    Returns:
        How to undo it, to be run in reverse.
    """
    plans.validate(plan, len(chain))
    resting = {index: storage for index in range(len(chain)) if stored is None or index in stored}
    positions: dict[nn.Module, list[Position]] = {block: [] for block in chain.blocks}
    for node in plans.split(plan, chain.borders):
        for position in _positions(node, resting.get(plans.first(node))):
            positions[chain.blocks[position.index]].append(position)
    undos: list[Undo] = []
    scopes = Scopes()
    for block, places in positions.items():
        undos += _install_block(block, places, scopes)
    if model is not None and any(map(_in_frames, positions.values())):
        undos.append(RootForward(model, scopes).install())
    if storage is not None and isinstance(storage.tier, Overlapped):
        undos.append(SettledForward(chain.blocks[-1], storage.tier).install())
    return undos


def _positions(
    node: Node, storage: Storage | None, outer: tuple[Group, ...] = ()
) -> Iterator[Position]:
    """The blocks below a node, each with its groups."""
    if isinstance(node, int):
        yield Position(node, outer)
        return
    group = Group(len(list(plans.leaves(node))), max(plans.leaves(node)), storage)
    for child in node:
        yield from _positions(child, None, (*outer, group))


def _install_block(block: nn.Module, places: list[Position], scopes: Scopes) -> list[Undo]:
    if _in_frames(places):
        entry = StandIn.outermost(block)
        return [GroupedForward(block, places, scopes, entry).install()]
    return [checkpoint_module(block, group.storage) for place in places for group in place.groups]


def _in_frames(places: Sequence[Position]) -> bool:
    """Whether a block is in a group of several, or is in several groups."""
    sizes = [group.size for place in places for group in place.groups]
    return bool(sizes) and (len(places) > 1 or sizes != [1])
