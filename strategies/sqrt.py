"""Recompute groups of √L blocks."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

from strategies.contract.strategy import Strategy
from strategies.execution.chain import Chain
from strategies.schedules import plan as plans
from strategies.schedules.plan import Plan


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sqrt(Strategy):
    """Checkpoint every ⌈√L⌉ blocks (Chen et al. 2016, arXiv 1604.06174, §4.1).

    √L boundaries and, in backward, √L blocks at a time: O(√L) in all, for one more forward.

    Attributes:
        keep_last: run the last group normally: backward needs it first, so it would be recomputed
            while nothing has been freed yet.
    """

    textbook_memory: ClassVar[str | None] = "O(√L·N·d)"
    textbook_compute: ClassVar[str | None] = "~100 %"

    keep_last: bool = True

    def plan(self, chain: Chain) -> Plan:
        """``[0 1 2 3] [4 5 6 7] [8 9 10 11] 12 13 14 15`` for 16 blocks."""
        size = max(1, math.isqrt(max(len(chain) - 1, 0)) + 1)
        return plans.uniform(len(chain), size, keep_last=self.keep_last)
