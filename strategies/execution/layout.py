"""Lays a plan on a chain: groups of one block under one checkpoint, others in frames.

All of it hangs on the blocks' instances (`strategies.execution.stand_in`); containers,
``state_dict`` keys and parameters stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from strategies.execution.chain import Chain
from strategies.execution.checkpoint import checkpoint_module
from strategies.execution.groups import GroupedForward, RootForward
from strategies.execution.scopes import Group, Position, Scopes
from strategies.execution.stand_in import StandIn
from strategies.execution.undo import Undo
from strategies.schedules import plan as plans
from strategies.schedules.plan import Node, Plan
from strategies.storage import Overlapped, Storage


class SettledForward(StandIn):
    """Of the last block: when its last call is over, no boundary leaves any more.

    Attributes:
        tier: by which they leave.
        times: how often the chain calls it.
        scopes: that count its calls in each forward.
    """

    def __init__(self, module: nn.Module, tier: Overlapped, times: int, scopes: Scopes) -> None:
        super().__init__(module)
        self.tier, self.times, self.scopes = tier, times, scopes

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the module's own ``forward``."""
        number = self.scopes.stack[-1].count(self)
        try:
            return self.original(*args, **kwargs)
        finally:
            if (number + 1) % self.times == 0:
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
        last, times = chain.blocks[-1], len(positions[chain.blocks[-1]])
        undos.append(SettledForward(last, storage.tier, times, scopes).install())
    return undos


def _positions(
    node: Node, storage: Storage | None, outer: tuple[Group, ...] = ()
) -> Iterator[Position]:
    """The blocks below a node, each with its groups."""
    if isinstance(node, int):
        yield Position(node, outer)
        return
    exact = all(group.exact for group in outer) and (storage is None or storage.codec.exact)
    group = Group(len(list(plans.leaves(node))), max(plans.leaves(node)), storage, exact)
    for child in node:
        yield from _positions(child, None, (*outer, group))


def _install_block(block: nn.Module, places: list[Position], scopes: Scopes) -> list[Undo]:
    if _in_frames(places):
        entry = StandIn.outermost(block)
        return [GroupedForward(block, places, scopes, entry).install()]
    groups = [group for place in places for group in place.groups]
    if _is_activation(block) and all(group.storage is None for group in groups):
        return []
    return [checkpoint_module(block, group.storage) for group in groups]


def _is_activation(block: nn.Module) -> bool:
    """Whether it is one of torch's layers without weights.

    It saves its output, which the next layer saves as well, or its input; a checkpoint of it alone
    would keep both.
    """
    weightless = not any(True for _ in block.children()) and not block._parameters
    return weightless and type(block).__module__.startswith("torch.nn.modules.")


def _in_frames(places: Sequence[Position]) -> bool:
    """Whether a block is in a group of several, or is in several groups."""
    sizes = [group.size for place in places for group in place.groups]
    return bool(sizes) and (len(places) > 1 or sizes != [1])
