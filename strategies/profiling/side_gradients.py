"""Gradients of what several blocks are given: they live from block to block.

Encoder states, a position bias, a mask that learns: the last block to read one makes its gradient,
the blocks before it add to it, and where it was computed, it comes to its end. The abstract machine
of a plan knows a block's parameters and its boundaries alone; what a watched backward left alive
besides is of these.
"""

from __future__ import annotations

import dataclasses

from strategies.profiling.watched import Watched, after
from strategies.schedules.abstract_machine import Machine
from strategies.schedules.plan import plain
from strategies.schedules.profile import ChainProfile
from strategies.schedules.schedule import Schedule


class _Moments(Machine):
    """A machine that notes what is alive when each phase begins."""

    def __init__(self, profile: ChainProfile) -> None:
        count = len(profile.blocks)
        resting = [profile.boundary_bytes(index) for index in range(count)]
        super().__init__(profile, resting, Schedule(plain(count)))
        self.alive_at: dict[str, int] = {}

    def visit(self, working_bytes: int, phase: str) -> None:
        """As it is; before, note."""
        self.alive_at[phase] = self.alive_bytes
        super().visit(working_bytes, phase)


def with_side_gradients(profile: ChainProfile, normal: Watched) -> ChainProfile:
    """The profile with what each block's backward leaves alive besides.

    Args:
        profile: of a model as it is, under no plan.
        normal: the step that it was made from.
    """
    machine, count = _Moments(profile), len(profile.blocks)
    machine.forward(plain(count))
    machine.backward(plain(count))
    more = [_more_bytes(normal, machine.alive_at, index) for index in range(count)]
    head_bytes = normal.gained_bytes(after(0), "end")
    # What no operator made, the machine counts and the ledger does not.
    expected_bytes = machine.alive_bytes - machine.alive_at[after(0)] + normal.untracked_bytes()
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
