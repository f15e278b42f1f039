"""A chain in the slots and seconds that the table of `strategies.solvers.optimal` reads."""

from __future__ import annotations

import collections
from typing import Any, NamedTuple

import numpy as np

from strategies.schedules.profile import BlockCost, ChainProfile
from strategies.solvers.optimal_stretches import stretches_of

_MOST_SIZES = 24
"""Of sizes that a slot is fitted to; a chain of more is one of unlike blocks."""


class Numbers(NamedTuple):
    """A chain in slots and seconds, as the compiled table reads it. Arrays are by block or by mode.

    What a stretch needs is counted above what is alive by the position of its last block.

    Attributes:
        forward_s: of each block.
        last_s: repeating the last block of a group.
        around_bytes: [L + 1] alive by position while a stretch that ends there runs forward.
        mode_begin: [L + 1] where each block's modes begin.
        mode_forward: needed in forward.
        mode_backward_bytes: [2, modes] needed for backward above what is alive by the block's own
            position, by whether boundary s is held elsewhere.
        mode_backward: the same in slots, above nothing.
        mode_taken: [2, modes] what the rest has less.
        mode_holds: whether the block keeps its output.
        mode_s: time repeated inside the block.
        last_need: [2, L + 1] of the last block of a group, and of the tail.
        unsaved_first: needed by a forward that keeps nothing, of the first block of a group.
        unsaved_next: of another one.
        group_taken: what the rest has less after a group that ends here.
        group_own_bytes: what a group keeps besides its input.
        reach: the last block that a group may hold that begins here.
        rows: [L + 1, L + 1] see `optimal_stretches.Stretches`.
        firsts: [rows, 2] see there.
        slot_bytes: of one slot.
    """

    forward_s: Any
    last_s: Any
    around_bytes: Any
    mode_begin: Any
    mode_forward: Any
    mode_backward_bytes: Any
    mode_backward: Any
    mode_taken: Any
    mode_holds: Any
    mode_s: Any
    last_need: Any
    unsaved_first: Any
    unsaved_next: Any
    group_taken: Any
    group_own_bytes: int
    reach: Any
    rows: Any
    firsts: Any
    slot_bytes: int


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
    back = [b + mode.backward_working_bytes for b, (_, mode) in zip(kept, modes, strict=True)]
    above = [b + around[i] for b, (i, _) in zip(back, modes, strict=True)]
    taken = [mode.saved_bytes + size[i + 1] for i, mode in modes]
    last = [block.recompute_working_bytes for block in blocks]
    released = [_released_bytes(block, size[i]) for i, block in enumerate(blocks)]
    tail, tail_free = _tail_needs(profile)

    def slots(values: list[int]) -> Any:
        return np.array([value // slot_bytes for value in values], dtype=np.int64)

    def seconds(values: list[float]) -> Any:  # of whole ones, too: one type is compiled once
        return np.array(values, dtype=np.float64)

    def without(values: list[int], less: list[int]) -> Any:
        free = [value - freed_bytes for value, freed_bytes in zip(values, less, strict=True)]
        return np.stack([slots(free), slots(values)])

    own, stretches = profile.group_bytes, stretches_of(profile)
    return Numbers(
        forward_s=seconds([block.forward_s for block in blocks]),
        last_s=seconds([block.last_recompute_s for block in blocks]),
        around_bytes=np.array([*around, 0], dtype=np.int64),
        mode_begin=np.cumsum([0, *(len(block.modes) for block in blocks)]),
        mode_forward=slots([mode.forward_working_bytes for _, mode in modes]),
        mode_backward_bytes=np.stack([np.subtract(back, freed), np.array(back)]).astype(np.int64),
        mode_backward=without(above, freed),
        mode_taken=without(taken, freed),
        mode_holds=np.array([int(mode.keeps_output) for _, mode in modes]),
        mode_s=seconds([mode.recompute_s for _, mode in modes]),
        last_need=without([*last, tail], [*released, tail - tail_free]),
        unsaved_first=slots([block.unsaved_working_bytes + own for block in blocks]),
        unsaved_next=slots([b.unsaved_working_bytes + own + size[i] for i, b in enumerate(blocks)]),
        group_taken=slots([own + size[i + 1] for i in range(count)]),
        group_own_bytes=own,
        reach=np.array([_reach(profile, i) for i in range(count)]),
        rows=stretches.rows,
        firsts=stretches.firsts,
        slot_bytes=slot_bytes,
    )


def slot_bytes_for(profile: ChainProfile, total_bytes: int, slots: int) -> int:
    """How finely to count memory with so many slots at most.

    Sizes are rounded down, and many equal blocks add up what that loses. So where there are few
    sizes, a slot that nearly divides them is taken, of at most twice the bytes.
    """
    least_bytes = -(-total_bytes // slots)
    sizes = _taken_sizes(profile)
    if least_bytes == 1 or len(sizes) > _MOST_SIZES:
        return least_bytes
    parts = {size // part for size in sizes for part in _parts(size, least_bytes)}
    candidates = sorted(part for part in parts if least_bytes <= part <= 2 * least_bytes)

    def lost(slot_bytes: int) -> float:
        return sum(count * (size % slot_bytes) / size for size, count in sizes.items())

    return min([least_bytes, *candidates], key=lost)


def _parts(size: int, least_bytes: int) -> range:
    """Into how many slots a size may be divided."""
    return range(max(1, size // (2 * least_bytes)), size // least_bytes + 1)


def _taken_sizes(profile: ChainProfile) -> collections.Counter[int]:
    """What blocks leave the rest less of, and how often."""
    sizes: collections.Counter[int] = collections.Counter()
    for block in profile.blocks:
        sizes[block.output_bytes + profile.group_bytes] += 1
        sizes.update(mode.saved_bytes + block.output_bytes for mode in block.modes)
    return +collections.Counter({size: count for size, count in sizes.items() if size > 0})


def _released_bytes(block: BlockCost, input_bytes: int) -> int:
    """What the last block of a group needs less, if its input goes when it has run again."""
    if block.modes[0].keeps_input:
        return 0
    return max(0, min(input_bytes, block.recompute_working_bytes - block.again_working_bytes))


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
