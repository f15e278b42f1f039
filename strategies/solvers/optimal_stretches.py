"""Stretches of blocks that are solved as one: what makes a chain of equal blocks easy.

The table of `strategies.solvers.optimal` has a row for every stretch s … t of blocks. Memory is
counted there above what is alive by the position of t alone, so that the row of a stretch depends
on its own blocks, and not on where it lies: stretches of equal blocks in the same order share one.
L equal blocks have L rows instead of L (L + 1) / 2; first and last blocks that are unlike the
others add L each; a chain of unlike blocks shares nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np

from strategies.schedules.profile import BlockCost, ChainProfile


class Stretches(NamedTuple):
    """The rows of a chain.

    Attributes:
        rows: [L + 1, L + 1] the row of stretch s … t.
        firsts: [rows, 2] for each row the first stretch that has it, so that what it is computed
            from comes before.
        work: the sum of the lengths of these: how many choices there are for each slot.
    """

    rows: Any
    firsts: Any
    work: int


def stretches_of(profile: ChainProfile) -> Stretches:
    """The rows of ``profile``; those that end at its tail are not shared."""
    numbers: dict[Hashable, int] = {}

    def number(value: Hashable) -> int:
        return numbers.setdefault(value, len(numbers))

    begins, follows = [], []
    for index, block in enumerate(profile.blocks):
        facts = _facts(block)
        begins.append(number((facts, profile.boundary_bytes(index))))
        follows.append(number((facts, block.gradient_bytes, index in profile.borders)))
    return _stretches(tuple(begins), tuple(follows))


def _facts(block: BlockCost) -> Hashable:
    """What the table reads of a block inside a group."""
    times = (block.forward_s, block.last_recompute_s)
    again = (block.recompute_working_bytes, block.again_working_bytes)
    working = (block.unsaved_working_bytes, *again)
    return block.modes[0], block.output_bytes, working, times


@functools.lru_cache(maxsize=8)
def _stretches(begins: tuple[int, ...], follows: tuple[int, ...]) -> Stretches:
    count = len(begins)
    rows = np.zeros((count + 1, count + 1), dtype=np.int32)
    known: dict[tuple[int, int], int] = {}
    firsts: list[tuple[int, int]] = []
    for begin in range(count):
        row = -1 - begins[begin]
        for end in range(begin, count):
            key = (row, follows[end] if end > begin else -1)
            row = known.setdefault(key, len(known))
            rows[begin, end] = row
            if row == len(firsts):
                firsts.append((begin, end))
    firsts += [(begin, count) for begin in range(count + 1)]
    rows[:, count] = len(known) + np.arange(count + 1)
    first = np.array(firsts, dtype=np.int64)
    order = np.lexsort((-first[:, 0], first[:, 1]))  # by end; of these the shortest first
    return Stretches(rows, first[order], int((first[:, 1] - first[:, 0]).sum()))
