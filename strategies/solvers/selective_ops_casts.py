"""Copies of weights that autocast holds in forward, for `strategies.solvers.selective_ops`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from strategies.schedules.profile import ChainProfile


class HeldCasts:
    """Sums over the blocks before each, by the position at which autocast ends.

    Args:
        profile: of the chain.
        part: so many bytes, if a variable says so.
        add: a variable in place of a sum.
    """

    def __init__(
        self, profile: ChainProfile, part: Callable[..., Any], add: Callable[[list[Any]], Any]
    ) -> None:
        self.blocks, self.part, self.add = profile.blocks, part, add
        ends = {block.casts.until for block in profile.blocks if block.cast_bytes(None)}
        self.sums = {until: [part(0)] for until in sorted(ends)}

    def follow(self, index: int, whole: Any) -> None:
        """The next block, which keeps some of them itself where it runs as it is."""
        casts = self.blocks[index].casts
        own = [self.part(casts.other_bytes), self.part(casts.saved_bytes, 1 - whole)]
        for until, sums in self.sums.items():
            sums.append(self.add([sums[index], *own * (casts.until == until)]))

    def before(self, position: int) -> list[Any]:
        """What is held there of the blocks before it."""
        return [sums[position] for until, sums in self.sums.items() if until > position]
