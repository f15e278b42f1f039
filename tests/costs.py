"""Made-up costs for arithmetic by hand: a test names the figures that it is about."""

import dataclasses

from strategies.schedules.modes import Mode
from strategies.schedules.profile import BlockCost, ChainProfile


def ones(kind, **figures):
    """A cost with 1 for every figure that has no default and is not named."""
    needed = (f for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING)
    return kind(**{field.name: 1 for field in needed} | figures)


def mode(**figures):
    """A block's mode, which keeps its input alone, if nothing else is said."""
    return ones(Mode, **{"name": "all", "keeps_input": True, "keeps_output": False} | figures)


def block(*modes, **figures):
    """What a block costs, in one mode, if nothing else is said."""
    return ones(BlockCost, modes=modes or (mode(),), **figures)


def chain(*blocks, **figures):
    """The profile of a chain whose tail keeps its input, if nothing else is said."""
    return ones(ChainProfile, blocks=blocks, **{"tail_keeps_input": True} | figures)
