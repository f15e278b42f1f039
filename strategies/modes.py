"""Op policies of single blocks: ways to run a block that keep a part of what autograd would."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from torch import nn

from strategies.base import Undo, Unsupported
from strategies.chain import Chain
from strategies.schedule import ALL
from strategies.selective import Selective

CORE = "core"
CHECKPOINTS = {CORE: 1}
"""How many checkpoints a block holds under each op policy; each keeps its random state."""
MODES = tuple(CHECKPOINTS)
"""Op policies that a budgeted strategy tries: ``core`` recomputes softmax(QKᵀ)V alone."""


def supporting(chain: Chain, name: str) -> list[int]:
    """The blocks that can run under an op policy (all of them ran before, in mode ``all``)."""
    return [index for index in range(len(chain)) if _runs(chain, index, name)]


def _runs(chain: Chain, index: int, name: str) -> bool:
    if len({id(block) for block in chain.blocks}) < len(chain):
        return False  # one block in several places has one forward
    try:
        undos = install(chain, {index: name})
    except Unsupported:
        return False
    while undos:
        undos.pop()()
    return True


def install(chain: Chain, names: Mapping[int, str]) -> list[Undo]:
    """Make blocks run under op policies.

    Args:
        chain: the model's blocks.
        names: op policies by block; ``all`` changes nothing.

    Returns:
        How to undo it, to be run in reverse.

    Raises:
        ValueError: an unknown name.
        Unsupported: a block cannot run so.
    """
    for name in names.values():
        if name not in (ALL, *MODES):
            raise ValueError(f"a mode is one of {', '.join((ALL, *MODES))}, not {name!r}")
    blocks = tuple(chain.blocks[index] for index, name in names.items() if name == CORE)
    if not blocks:
        return []
    part = dataclasses.replace(chain, blocks=blocks)
    return list(Selective(variant="attention_core").install(nn.Module(), part))
