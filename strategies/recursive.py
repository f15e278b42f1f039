"""Recompute groups inside recompute groups."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from strategies.contract.strategy import Strategy
from strategies.execution.chain import Chain
from strategies.schedules.plan import Plan
from strategies.solvers.recursive import nested


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recursive(Strategy):
    """Halve the chain again and again (Chen et al. 2016, arXiv 1604.06174, §4.4).

    O(log L) boundaries at once, for O(L log L) forwards.

    Attributes:
        branching: parts that each stretch is split into.
    """

    textbook_memory: ClassVar[str | None] = "O(log L·N·d)"
    textbook_compute: ClassVar[str | None] = "~log₂ L · 100 %"

    branching: int = 2

    def __post_init__(self) -> None:
        if self.branching < 2:
            raise ValueError(f"recursive: branching must be at least 2, not {self.branching}")

    def plan(self, chain: Chain) -> Plan:
        """``[[0] 1] [2] 3`` for 4 blocks."""
        return nested(len(chain), self.branching)

    @classmethod
    def grid(cls) -> Sequence[Recursive]:
        """Halves."""
        return (cls(),)
