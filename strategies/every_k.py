"""Recompute groups of k blocks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from strategies.contract.strategy import Strategy
from strategies.execution.chain import Chain
from strategies.schedules import plan as plans
from strategies.schedules.plan import Plan


@dataclasses.dataclass(frozen=True, kw_only=True)
class EveryK(Strategy):
    """Uniform checkpointing (the textbook's «every k layers»): keep every k-th boundary.

    As in Chen et al. 2016, arXiv 1604.06174, §4.1, with groups of a length that you choose.

    Attributes:
        k: blocks in a group; 1 is ``every_layer``. More than the chain has makes one group.
        keep_last: run the last group normally, as ``checkpoint_sequential`` does.
    """

    textbook_memory: ClassVar[str | None] = "O(L/k·N·d)"
    textbook_compute: ClassVar[str | None] = "~(k−1)/k · 100 %"

    shown: ClassVar[tuple[str, ...]] = ("k",)

    k: int = 4
    keep_last: bool = False

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"every_k: k must be at least 1 (1 is every_layer), not {self.k}")

    def plan(self, chain: Chain) -> Plan:
        """``[0 1 2 3] [4 5 6 7] …``."""
        return plans.uniform(len(chain), self.k, keep_last=self.keep_last)

    def notes(self, chain: Chain) -> Sequence[str]:
        """Says so when k is longer than the chain."""
        if self.k <= len(chain):
            return ()
        return (f"k={self.k} exceeds the {len(chain)} blocks: one recompute group holds them all",)

    @classmethod
    def grid(cls) -> Sequence[Strategy]:
        """Two, four and eight blocks."""
        return tuple(cls(k=k) for k in (2, 4, 8))
