"""Blocks under op policies, watched."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping

from strategies.execution import block_modes as modes_of
from strategies.execution import op_policies
from strategies.execution.chain import Chain
from strategies.execution.errors import Unsupported
from strategies.execution.undo import installed
from strategies.profiling.saved import Kept, Saved, watch_saved
from strategies.profiling.step import Step
from strategies.profiling.watched import How, Watched, after
from strategies.schedules.modes import Mode
from strategies.schedules.schedule import ALL


@dataclasses.dataclass
class ModesWatched:
    """The two passes under op policies, by block."""

    names: Mapping[int, str]
    checkpoints: Mapping[int, int]
    saved: Saved
    step: Watched


def watch_modes(
    step: Step, chain: Chain, names: Mapping[int, str], how: How
) -> ModesWatched | None:
    """``None`` where the blocks cannot run so, which some find out only when they run."""
    if not names:
        return None
    counts = {index: modes_of.checkpoints(chain, index, name) for index, name in names.items()}
    with contextlib.suppress(Unsupported), installed(lambda: modes_of.install(chain, names)):
        try:
            saved = watch_saved(step, chain)
            watched = how.watch(step, chain)
        except RuntimeError as error:
            if op_policies.is_of_written(error):
                return None
            raise
        for index, name in names.items():
            saved.blocks[index].keeps_output |= modes_of.keeps_output(chain.blocks[index])
            # A checkpoint holds what it is given: of a dataclass, without a word to autograd.
            saved.blocks[index].keeps_input |= op_policies.is_policy(name)
        return ModesWatched(names, counts, saved, watched)
    return None


def mode_of(name: str, kept: Kept, watched: Watched, index: int) -> Mode:
    """A way to run a block, from what a forward saved and a step that was watched.

    Args:
        name: of the mode.
        kept: by the block.
        watched: with the block in that mode.
        index: of the block.
    """
    enter, leave = f"enter {index}", f"leave {index}"
    begin, end = f"backward {index}", after(index)
    gained_bytes = watched.gained_bytes(enter, leave) - kept.output_bytes
    return Mode(
        name=name,
        # An op policy keeps tensors in a place of its own, which no hook of autograd sees.
        saved_bytes=kept.saved_bytes if name == ALL else gained_bytes,
        keeps_input=kept.keeps_input,
        keeps_output=kept.keeps_output,
        forward_working_bytes=watched.working_bytes(enter, watched.next(index)),
        backward_working_bytes=watched.working_bytes(begin, end),
        backward_flops=watched.flops(begin, end),
        recompute_flops=watched.recompute_flops(begin, end),
        recompute_s=watched.recompute_s(begin, end),
    )
