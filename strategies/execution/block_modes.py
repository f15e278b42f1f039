"""Modes of single blocks: ways to run a block that keep a part of what autograd would."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from strategies.execution import attention_core, compiled_blocks, op_policies
from strategies.execution.chain import Chain
from strategies.execution.errors import Unsupported
from strategies.execution.undo import Undo, undo_all
from strategies.schedules.modes import Compilation
from strategies.schedules.schedule import ALL
from strategies.storage import Tier

CORE = "core"
MODES = (CORE, op_policies.PRODUCTS)
"""Op policies that a budgeted strategy tries: ``core`` recomputes softmax(QKᵀ)V alone, ``products``
all but matrix products."""


def supporting(chain: Chain, name: str) -> list[int]:
    """The blocks that can run under an op policy (all of them ran before, in mode ``all``)."""
    return [index for index in range(len(chain)) if _runs(chain, index, name)]


def checkpoints(chain: Chain, index: int, name: str) -> int:
    """How many checkpoints a block under an op policy has; each keeps a random state."""
    if name != CORE:
        return 1
    undos = _install_cores(chain, [index])
    count = len(undos)
    undo_all(undos)
    return count


def _runs(chain: Chain, index: int, name: str) -> bool:
    if chain.repeats:
        return False  # one block in several places has one forward
    try:
        undos = install(chain, {index: name})
    except Unsupported:
        return False
    undo_all(undos)
    return True


def install(chain: Chain, names: Mapping[int, str], tier: Tier = op_policies.HERE) -> list[Undo]:
    """Make blocks run under op policies, or compiled.

    Args:
        chain: the model's blocks.
        names: modes by block; ``all`` changes nothing.
        tier: where kept outputs go that a mode sends away.

    Returns:
        How to undo it, to be run in reverse.

    Raises:
        ValueError: an unknown name.
        Unsupported: a block cannot run so.
    """
    for name in names.values():
        if not is_mode(name):
            known = ", ".join((ALL, *MODES))
            raise ValueError(f"a mode is one of {known}, keep(2,5) or compiled(50), not {name!r}")
    undos = _install_cores(chain, [index for index, name in names.items() if name == CORE])
    others = {index: name for index, name in names.items() if op_policies.is_policy(name)}
    blocks = {index: chain.blocks[index] for index in others}
    undos += op_policies.install(blocks, others, chain.blocks, tier)
    undos += compiled_blocks.install(chain, names)
    return undos


def is_mode(name: str) -> bool:
    """Whether a block can run so at all."""
    return name in (ALL, CORE) or op_policies.is_policy(name) or Compilation.parse(name) is not None


def _install_cores(chain: Chain, indices: Sequence[int]) -> list[Undo]:
    if not indices:
        return []
    blocks = [chain.blocks[index] for index in indices]
    return attention_core.install(blocks, CORE)


def keeps_output(block: nn.Module) -> bool:
    """Whether the block's op policy kept its very output, the last time that it ran."""
    forward = block.__dict__.get("forward")
    return isinstance(forward, op_policies.PolicyForward) and forward.keeps_output
