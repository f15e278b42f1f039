"""Which strategy cannot run which model, and why: derived from both, for every strategy."""

from __future__ import annotations

from collections.abc import Callable

from reference import Reference

from strategies import Strategy
from strategies.execution.compiler import can_be_watched
from strategies.flash_checkpoint import FlashCheckpoint
from strategies.memory_budget import MemoryBudget
from strategies.selective import Selective

Rule = Callable[[Reference, Strategy], str | None]


def expected(given: Reference, strategy: Strategy) -> str | None:
    """The reason that must be given, as a regular expression; ``None``: the model must run."""
    return next(filter(None, (rule(given, strategy) for rule in RULES)), None)


def no_switch(given: Reference, strategy: Strategy) -> str | None:
    """Attention that no kernel can be chosen for."""
    refused = isinstance(strategy, FlashCheckpoint) and given.case.attention != "core"
    return (
        "^flash_checkpoint: no attention that can be switched: no module has" if refused else None
    )


def no_attention(given: Reference, strategy: Strategy) -> str | None:
    """Attention, or its core, that is not there to be checkpointed."""
    if not isinstance(strategy, Selective):
        return None
    core = strategy.variant == "attention_core"
    if given.case.attention is None:
        what = "attention" if core else "attention or FFN"
        return rf"^selective\(variant={strategy.variant}\): no {what} sub-module in the blocks"
    return None


def no_pass(given: Reference, strategy: Strategy) -> str | None:
    """PyTorch 2.9 cannot be asked what its compiler is about to do."""
    refused = isinstance(strategy, MemoryBudget) and not can_be_watched()
    return r"^memory_budget\(.*: this PyTorch has no joint_custom_pass" if refused else None


def random_numbers(given: Reference, strategy: Strategy) -> str | None:
    """Random numbers that PyTorch's compiler might draw anew."""
    refused = isinstance(strategy, MemoryBudget) and strategy.fraction < 1 and given.draws
    return r"^memory_budget: the model draws random numbers \(" if refused else None


RULES: tuple[Rule, ...] = (
    *(() if can_be_watched() else (no_pass,)),
    *(no_switch, no_attention, random_numbers),
)
