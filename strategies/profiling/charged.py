"""What a block's mode is charged with, where somebody else holds a tensor, or nobody does."""

from __future__ import annotations

import dataclasses

from strategies.execution.op_policies import is_policy
from strategies.profiling.passed import Passed
from strategies.schedules.modes import Mode
from strategies.schedules.profile import BlockCost
from strategies.schedules.schedule import ALL


def without_own(block: BlockCost, passed: Passed, index: int) -> BlockCost:
    """What others hold of what it makes for itself is in `ChainProfile.shared`.

    What that takes the place of, the checkpoint of an op policy holds until it has run again.
    """
    own_bytes = {saved: passed.own_bytes(index, saved=saved) for saved in (False, True)}
    before_bytes = passed.replaced_bytes(index)
    modes = tuple(
        dataclasses.replace(
            mode,
            saved_bytes=mode.saved_bytes
            - own_bytes[mode.name == ALL]
            + before_bytes * is_policy(mode.name),
        )
        for mode in block.modes
    )
    operators = block.operators and block.operators.holding(before_bytes)
    return dataclasses.replace(block, modes=modes, operators=operators)


def with_unseen(block: BlockCost, more_bytes: int) -> BlockCost:
    """Its backward needs so many bytes more than was watched, in whatever mode it runs."""
    if not more_bytes:
        return block
    modes = tuple(
        dataclasses.replace(mode, backward_working_bytes=mode.backward_working_bytes + more_bytes)
        for mode in block.modes
    )
    operators = block.operators and block.operators.needing(more_bytes)
    recompute_bytes = block.recompute_working_bytes + more_bytes
    return dataclasses.replace(
        block, modes=modes, operators=operators, recompute_working_bytes=recompute_bytes
    )


def in_vain(mode: Mode) -> Mode:
    """Of a block whose backward never comes: its graph goes when its output does.

    So no plan saves by it; what is left when forward ends is the tail's (`balance`).
    """
    return dataclasses.replace(mode, saved_bytes=0, keeps_input=False, keeps_output=False)


def without_output(block: BlockCost, output_bytes: int) -> BlockCost:
    """Its output, of so many bytes, is no boundary; whoever keeps it is in `ChainProfile.shared`.

    But for an op policy that keeps it where the block as it is does not: as bytes of its own.
    """
    more_bytes = 0 if block.modes[0].keeps_output else output_bytes
    modes = tuple(
        dataclasses.replace(
            mode, keeps_output=False, saved_bytes=mode.saved_bytes + more_bytes * mode.keeps_output
        )
        for mode in block.modes
    )
    return dataclasses.replace(block, modes=modes)
