"""A model that is compiled as a whole: blocks inside what a compiler traced are no blocks."""

from __future__ import annotations

from torch import nn

from strategies.contract.strategy import Strategy
from strategies.execution.chain import Chain
from strategies.execution.errors import Unsupported
from strategies.profiling.compiled import is_compiled
from strategies.schedules.plan import Plan, leaves


def compiled_around(model: nn.Module, chain: Chain) -> str | None:
    """The path of a compiled module that has blocks inside; ``None``: there is none."""
    names = (name for name, module in model.named_modules() if is_compiled(module))
    return next((name for name in names if any(_is_in(each, name) for each in chain.names)), None)


def _is_in(block: str, name: str) -> bool:
    return block != name and (not name or block.startswith(f"{name}."))


def check_planned(model: nn.Module, chain: Chain, strategy: Strategy) -> None:
    """Before what a compiler traced is watched, which shows no blocks.

    Raises:
        Unsupported: the strategy needs a profile of blocks, and there are none.
    """
    if strategy.needs_profile:
        _refuse(model, chain, strategy, "what a block of it costs cannot be seen")


def check_plan(model: nn.Module, chain: Chain, strategy: Strategy, plan: Plan) -> None:
    """Before the first step, which would fail.

    Raises:
        Unsupported: a group of several blocks is a part of what is compiled.
    """
    if any(len(list(leaves(node))) > 1 for node in plan):
        _refuse(model, chain, strategy, "groups of several blocks cannot be a part of that")


def _refuse(model: nn.Module, chain: Chain, strategy: Strategy, reason: str) -> None:
    name = compiled_around(model, chain)
    if name is not None:
        raise Unsupported(
            f"{strategy.spec()}: {name or 'the model'} is compiled as a whole, and {reason}; apply"
            " the strategy to the model as it was before, and have its blocks compiled:"
            " compile_blocks=True"
        )
