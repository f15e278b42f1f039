"""Groups in groups, halved again and again."""

from __future__ import annotations

from strategies.schedules.plan import Node, Plan


def nested(n_blocks: int, branching: int = 2) -> Plan:
    """Split a chain into ``branching`` parts, each again, down to single blocks.

    Chen, Xu, Zhang and Guestrin 2016 (arXiv 1604.06174), §4.4: with g(L) = k + g(L / (k + 1)) kept
    boundaries, memory is O(log L); every level of groups runs each of its blocks once more, so
    forwards are O(L log L). The last part of each stretch is no group, for backward needs it first.

    Args:
        n_blocks: L, the length of the chain.
        branching: k + 1, parts at each level.
    """
    if branching < 2:
        raise ValueError(f"a stretch is split into at least 2 parts, not {branching}")
    return _split(0, n_blocks, branching)


def _split(begin: int, end: int, branching: int) -> tuple[Node, ...]:
    length = end - begin
    if length <= 1:
        return tuple(range(begin, end))
    size = -(-length // branching)
    cuts = range(begin, end, size)
    parts = [_split(cut, min(cut + size, end), branching) for cut in cuts]
    return (*parts[:-1], *parts[-1])
