"""Least recomputation for a number of boundaries kept at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from strategies.contract.strategy import Strategy
from strategies.execution.chain import Chain
from strategies.schedules.plan import Plan
from strategies.solvers.binomial import nested


@dataclasses.dataclass(frozen=True, kw_only=True)
class Binomial(Strategy):
    """Revolve: provably fewest forwards for ``slots`` boundaries.

    Griewank and Walther 2000, doi 10.1145/347837.347846. The proof is for blocks that
    are all alike; `optimal` is for those that are not.

    Attributes:
        slots: boundaries kept at once, the chain's input included.
    """

    textbook_memory: ClassVar[str | None] = "O(slots·N·d)"
    textbook_compute: ClassVar[str | None] = "least for the slots"
    shown: ClassVar[tuple[str, ...]] = ("slots",)

    slots: int = 3

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise ValueError(f"binomial: slots must be at least 1, not {self.slots}")

    def plan(self, chain: Chain) -> Plan:
        """``[[0] [1] [2] 3] [[4] [5] 6] [[7] 8] 9`` for 10 blocks and 3 slots."""
        return nested(len(chain), self.slots)

    def notes(self, chain: Chain) -> Sequence[str]:
        """More slots than blocks are of no use."""
        if self.slots >= len(chain) > 1:
            return (f"{len(chain) - 1} slots are as good as {self.slots} for {len(chain)} blocks",)
        return ()

    @classmethod
    def grid(cls) -> Sequence[Binomial]:
        """Three slots."""
        return (cls(),)
