"""Every block is its own recompute group."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from strategies.contract.strategy import Strategy
from strategies.execution.chain import Chain
from strategies.schedules import plan as plans
from strategies.schedules.plan import Plan


@dataclasses.dataclass(frozen=True, kw_only=True)
class EveryLayer(Strategy):
    """Keep each block's input and nothing inside it: L boundaries, one block recomputed at a time.

    What model libraries do when ``gradient_checkpointing_enable()`` is called (the idea: Chen et
    al. 2016, arXiv 1604.06174).
    """

    textbook_memory: ClassVar[str | None] = "O(N·d)"
    textbook_compute: ClassVar[str | None] = "~100 %"

    def plan(self, chain: Chain) -> Plan:
        """``[0] [1] [2] …``."""
        return plans.uniform(len(chain), 1)
