"""A chain in the slots and seconds that the table of `strategies.solvers.optimal` reads."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from strategies.schedules.profile import ChainProfile


class Numbers(NamedTuple):
    """A chain in slots and seconds, as the compiled table reads it. Arrays are by block or by mode.

    Attributes:
        forward_s: of each block.
        last_s: repeating the last block of a group.
        around: [L + 1] alive by position while a stretch that ends there runs forward.
        mode_begin: [L + 1] where each block's modes begin.
        mode_forward: needed above that in forward.
        mode_backward: [2, modes] needed for backward, by whether boundary s is held elsewhere.
        mode_taken: [2, modes] what the rest has less.
        mode_holds: whether the block keeps its output.
        mode_s: time repeated inside the block.
        last_need: [2, L + 1] of the last block of a group, and of the tail.
        unsaved_first: needed by a forward that keeps nothing, of the first block of a group.
        unsaved_next: of another one.
        group_taken: what the rest has less after a group that ends here.
        group_own: what a group keeps besides its input.
        reach: the last block that a group may hold that begins here.
    """

    forward_s: Any
    last_s: Any
    around: Any
    mode_begin: Any
    mode_forward: Any
    mode_backward: Any
    mode_taken: Any
    mode_holds: Any
    mode_s: Any
    last_need: Any
    unsaved_first: Any
    unsaved_next: Any
    group_taken: Any
    group_own: int
    reach: Any


def numbers_of(profile: ChainProfile, slot_bytes: int) -> Numbers:
    """``profile`` in slots, all rounded down."""
    blocks, count = profile.blocks, len(profile.blocks)
    size = [profile.boundary_bytes(i) for i in range(count + 1)]
    behind = [profile.tail_gradient_bytes] * count  # gradients of the parameters after each block
    for i in range(count - 2, -1, -1):
        behind[i] = behind[i + 1] + blocks[i + 1].gradient_bytes
    around = [size[i + 1] + behind[i] for i in range(count)]
    modes = [(i, mode) for i, block in enumerate(blocks) for mode in block.modes]
    freed = [size[i] * (not mode.keeps_input) for i, mode in modes]
    kept = [mode.saved_bytes + size[i + 1] * mode.keeps_output for i, mode in modes]
    back = [
        bytes_ + around[i] + mode.backward_working_bytes
        for bytes_, (i, mode) in zip(kept, modes, strict=True)
    ]
    taken = [mode.saved_bytes + size[i + 1] for i, mode in modes]
    last = [around[i] + block.recompute_working_bytes for i, block in enumerate(blocks)]
    released = [size[i] * (not block.modes[0].keeps_input) for i, block in enumerate(blocks)]
    tail, tail_free = _tail_needs(profile)

    def slots(values: list[int]) -> Any:
        return np.array([value // slot_bytes for value in values], dtype=np.int64)

    def without(values: list[int], less: list[int]) -> Any:
        free = [value - freed_bytes for value, freed_bytes in zip(values, less, strict=True)]
        return np.stack([slots(free), slots(values)])

    own = profile.group_bytes
    return Numbers(
        forward_s=np.array([block.forward_s for block in blocks]),
        last_s=np.array([block.last_recompute_s for block in blocks]),
        around=slots([*around, 0]),
        mode_begin=np.cumsum([0, *(len(block.modes) for block in blocks)]),
        mode_forward=slots([mode.forward_working_bytes for _, mode in modes]),
        mode_backward=without(back, freed),
        mode_taken=without(taken, freed),
        mode_holds=np.array([int(mode.keeps_output) for _, mode in modes]),
        mode_s=np.array([mode.recompute_s for _, mode in modes]),
        last_need=without([*last, tail], [*released, tail - tail_free]),
        unsaved_first=slots([block.unsaved_working_bytes + own for block in blocks]),
        unsaved_next=slots([b.unsaved_working_bytes + own + size[i] for i, b in enumerate(blocks)]),
        group_taken=slots([own + size[i + 1] for i in range(count)]),
        group_own=own // slot_bytes,
        reach=np.array([_reach(profile, i) for i in range(count)]),
    )


def _tail_needs(profile: ChainProfile) -> tuple[int, int]:
    """Of the tail, if the last boundary is held elsewhere, and if not."""
    last_bytes = profile.boundary_bytes(len(profile.blocks))
    backward = profile.tail_saved_bytes + profile.tail_backward_working_bytes
    freed = 0 if profile.tail_keeps_input else last_bytes
    forward = profile.tail_working_bytes
    return max(forward, backward), max(forward, backward - freed)


def _reach(profile: ChainProfile, begin: int) -> int:
    later = [border for border in profile.borders if border > begin]
    return min([len(profile.blocks), *later]) - 1
