"""Runs a chain under a plan, by nesting ``torch.utils.checkpoint`` (non-reentrant).

Random state, autocast, early stop and determinism checks are therefore PyTorch's own. Two ways in,
both on the instance, both leaving ``state_dict`` keys and parameter identity alone:

- a group of one block wraps that block's ``forward``;
- groups of several blocks give their container a subclass that yields stand-ins for them.

Everything here is an object rather than a closure, so that a model under a strategy can still be
copied with ``copy.deepcopy``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from strategies.execution.chain import Chain, Container
from strategies.execution.checkpoint import (
    checkpoint_module,
)
from strategies.execution.segments import install_segments
from strategies.execution.undo import Undo, replace_forward
from strategies.schedules import plan as plans
from strategies.schedules.plan import Node, Plan
from strategies.storage import Overlapped, Storage


class SettledForward:
    """Stands in for the last block's ``forward``: when it is over, no boundary leaves any more."""

    def __init__(self, module: nn.Module, tier: Overlapped) -> None:
        self.tier = tier
        self.original: Callable[..., Any] = module.forward
        functools.update_wrapper(self, module.forward, updated=())

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
) -> list[Undo]:
    """Make the model that owns ``chain`` run under ``plan``.

    Args:
        chain: the model's blocks.
        plan: see `strategies.schedules.plan`; groups across containers are split there.
        storage: how top-level boundaries rest between forward and backward.
        stored: which boundaries do, by the block that reads them; ``None`` for all.

    Returns:
        How to undo it, to be run in reverse.
    """
    plans.validate(plan, len(chain))
    plan = plans.split(plan, chain.borders)
    undos: list[Undo] = []
    resting = {index: storage for index in range(len(chain)) if stored is None or index in stored}
    starts = (0, *chain.borders, len(chain))
    for container, begin, end in zip(chain.containers, starts, starts[1:], strict=False):
        nodes = [node for node in plan if begin <= plans.first(node) < end]
        undos += _install_container(container, nodes, chain.blocks, resting)
    if storage is not None and isinstance(storage.tier, Overlapped):
        last = chain.blocks[-1]
        undos.append(replace_forward(last, SettledForward(last, storage.tier)))
    return undos


def _install_container(
    container: Container,
    nodes: list[Node],
    blocks: Sequence[nn.Module],
    resting: Mapping[int, Storage | None],
) -> list[Undo]:
    groups = [node for node in nodes if not isinstance(node, int)]
    members = [blocks[i] for node in nodes for i in plans.leaves(node)]
    repeated = len({id(block) for block in members}) < len(members)
    if not groups:
        return []
    if repeated or any(group != (plans.first(group),) for group in groups):
        return [install_segments(container, nodes, blocks, resting)]
    begins = [plans.first(group) for group in groups]
    return [checkpoint_module(blocks[index], resting.get(index)) for index in begins]
