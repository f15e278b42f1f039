"""Makes the abstract machine of a plain step hold what the watched one held, at every block.

What the machine does not know of is charged where it shows: to the tail, to the forward of a block,
or to what its backward leaves alive. That is, above all, gradients of what several blocks are
given (encoder states, a position bias, a mask that learns): the last block to read one makes its
gradient, the blocks before it add to it, and where it was computed, it comes to its end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from strategies.profiling.watched import Watched, after
from strategies.schedules.abstract_machine import Machine
from strategies.schedules.plan import plain
from strategies.schedules.profile import BlockCost, ChainProfile
from strategies.schedules.schedule import Schedule


class _Moments(Machine):
    """A machine that notes what is alive when each phase begins."""

    def __init__(self, profile: ChainProfile) -> None:
        count = len(profile.blocks)
        resting = [profile.boundary_bytes(index) for index in range(count)]
        super().__init__(profile, resting, Schedule(plain(count)))
        self.alive_at: dict[str, int] = {}
        self.after_forward_bytes = 0

    def visit(self, working_bytes: int, phase: str) -> None:
        """As it is; before, note."""
        self.alive_at[phase] = self.alive_bytes
        super().visit(working_bytes, phase)

    @classmethod
    def of(cls, profile: ChainProfile) -> _Moments:
        """Of a whole step."""
        machine, plan = cls(profile), plain(len(profile.blocks))
        machine.forward(plan)
        machine.after_forward_bytes = machine.alive_bytes
        machine.backward(plan)
        return machine


def balanced(profile: ChainProfile, normal: Watched, lingering: Sequence[int]) -> ChainProfile:
    """The profile with what the machine does not know of.

    Args:
        profile: of a model as it is, under no plan; its tail keeps and leaves nothing yet.
        normal: the step that it was made from.
        lingering: see `composing.lingering_bytes`.
    """
    profile = _with_tail_gradient(_with_tail(profile, normal, lingering), normal)
    return _with_side_gradients(profile, normal)


def _with_tail(profile: ChainProfile, normal: Watched, lingering: Sequence[int]) -> ChainProfile:
    """What the tail keeps; and what the model holds in forward, which it lets go by then."""
    machine, last = _Moments.of(profile), len(profile.blocks) - 1
    held_bytes = normal.at(f"leave {last}").alive_bytes - machine.alive_at["tail"]
    alive = [normal.at(f"enter {i}").alive_bytes + lingering[i] for i in range(last + 1)]
    return dataclasses.replace(
        profile,
        blocks=tuple(
            _holding(block, alive[i] - machine.alive_at[f"forward {i}"])
            for i, block in enumerate(profile.blocks)
        ),
        tail_working_bytes=profile.tail_working_bytes + held_bytes + lingering[-1],
        tail_saved_bytes=normal.at("forward done").alive_bytes - machine.after_forward_bytes,
    )


def _holding(block: BlockCost, more_bytes: int) -> BlockCost:
    """A block in whose forward more is alive, whatever the plan."""
    if more_bytes <= 0:
        return block
    modes = tuple(
        dataclasses.replace(mode, forward_working_bytes=mode.forward_working_bytes + more_bytes)
        for mode in block.modes
    )
    unsaved_bytes = block.unsaved_working_bytes + more_bytes
    return dataclasses.replace(block, modes=modes, unsaved_working_bytes=unsaved_bytes)


def _with_tail_gradient(profile: ChainProfile, normal: Watched) -> ChainProfile:
    begin = f"backward {len(profile.blocks) - 1}"
    gained_bytes = normal.at(begin).alive_bytes - _Moments.of(profile).alive_at[begin]
    return dataclasses.replace(profile, tail_gradient_bytes=gained_bytes)


def _with_side_gradients(profile: ChainProfile, normal: Watched) -> ChainProfile:
    """What each block's backward leaves alive besides."""
    machine, count = _Moments.of(profile), len(profile.blocks)
    more = [_more_bytes(normal, machine.alive_at, index) for index in range(count)]
    head_bytes = normal.gained_bytes(after(0), "end")
    expected_bytes = machine.alive_bytes - machine.alive_at[after(0)]
    blocks = tuple(
        dataclasses.replace(block, gradient_bytes=block.gradient_bytes + more_bytes)
        for block, more_bytes in zip(profile.blocks, more, strict=True)
    )
    return dataclasses.replace(
        profile, blocks=blocks, head_gradient_bytes=expected_bytes - head_bytes
    )


def _more_bytes(normal: Watched, alive_at: dict[str, int], index: int) -> int:
    """Left by a block's backward, beyond what the machine says."""
    begin, end = f"backward {index}", after(index)
    return normal.gained_bytes(begin, end) - (alive_at[end] - alive_at[begin])
