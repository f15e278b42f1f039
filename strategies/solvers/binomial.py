"""Least recomputation for a number of checkpoint slots, on a chain of equal blocks.

Griewank and Walther 2000 («Algorithm 799: Revolve», ACM TOMS 26, Theorem and equation 2): with c
slots, one of them holding the chain's input, reversing L steps takes at least
t(L, c) = r·L − C(c + r, r − 1) advances, where r is the least number with L ≤ C(c + r, c). An
advance is a step that runs and keeps nothing for its own backward. Every step runs once more so
that its backward can follow, and so a plan enters its blocks L + t(L, c) times in all: t is what
recomputation adds to one forward of the chain.
"""

from __future__ import annotations

import functools

from strategies.schedules.plan import Node, Plan


@functools.cache
def advances(n_blocks: int, slots: int) -> int:
    """t(L, c) by dynamic programming: advance to block k, reverse the rest, then the first k.

    t(L, c) = min over k of k + t(L − k, c − 1) + t(k, c); t(1, c) = 0; t(L, 1) = L (L − 1) / 2.
    """
    if n_blocks <= 1:
        return 0
    if slots == 1:
        return n_blocks * (n_blocks - 1) // 2
    return min(_cost(n_blocks, slots, k) for k in range(1, n_blocks))


def _cost(n_blocks: int, slots: int, first: int) -> int:
    return first + advances(n_blocks - first, slots - 1) + advances(first, slots)


def nested(n_blocks: int, slots: int) -> Plan:
    """A plan with that least number of forward steps.

    The first k blocks are a group, for their input holds a slot and they are run again; the rest,
    with one slot less, follows. Its last block is bare.

    Args:
        n_blocks: L, the length of the chain.
        slots: c, boundaries kept at once, the chain's input included.
    """
    if slots < 1:
        raise ValueError(f"a chain needs at least 1 slot, for its input, not {slots}")
    return _nodes(0, n_blocks, slots)


def _nodes(begin: int, length: int, slots: int) -> tuple[Node, ...]:
    if length <= 1:
        return tuple(range(begin, begin + length))
    first = length - 1 if slots == 1 else _best(length, slots)
    group = _nodes(begin, first, slots)
    return (group, *_nodes(begin + first, length - first, max(1, slots - 1)))


def _best(length: int, slots: int) -> int:
    """The longest first part of least cost: of equal plans the one that keeps least at the end."""
    return max(range(1, length), key=lambda k: (-_cost(length, slots, k), k))
