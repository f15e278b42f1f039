"""The link in the slots and seconds that the table of `strategies.solvers.hybrid` reads."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from strategies.schedules.profile import ChainProfile


class Roads(NamedTuple):
    """What the compiled table needs to know of the link. Arrays are by block, sums before each.

    Attributes:
        up: slots that a boundary frees, rounded up.
        down: slots that it takes, rounded down.
        may_leave: whether it may leave.
        transfer_s: time on the link, one way.
        forward_s: [L + 1] of the blocks before.
        backward_s: [L + 1] of the blocks before.
    """

    up: Any
    down: Any
    may_leave: Any
    transfer_s: Any
    forward_s: Any
    backward_s: Any


def roads_of(profile: ChainProfile, slot_bytes: int) -> Roads:
    """The link of ``profile`` in slots and seconds."""
    blocks = profile.blocks
    size = [profile.boundary_bytes(index) for index in range(len(blocks))]
    leave = [index > 0 or not profile.head_keeps_output for index in range(len(blocks))]

    def sums(values: Sequence[float]) -> Any:
        return np.array([*itertools.accumulate(values, initial=0.0)])

    return Roads(
        up=np.array([-(-value // slot_bytes) for value in size], dtype=np.int64),
        down=np.array([value // slot_bytes for value in size], dtype=np.int64),
        may_leave=np.array(leave),
        transfer_s=np.array([profile.transfer_s(index) for index in range(len(blocks))]),
        forward_s=sums([block.forward_s for block in blocks]),
        backward_s=sums([block.backward_s for block in blocks]),
    )
