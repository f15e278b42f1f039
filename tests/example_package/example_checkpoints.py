"""What a package of someone else's looks like: one strategy, found by its entry point.

Its `pyproject.toml` says::

    [project.entry-points."ckpt_bench.strategies"]
    every_other = "example_checkpoints:EveryOther"
"""

from __future__ import annotations

import dataclasses

from strategies import Chain, Plan, Strategy


@dataclasses.dataclass(frozen=True, kw_only=True)
class EveryOther(Strategy):
    """Recompute every second block, one by one.

    Attributes:
        first: of the blocks that are recomputed.
    """

    first: int = 0

    def plan(self, chain: Chain) -> Plan:
        """``[0] 1 [2] 3 …``."""
        return tuple((i,) if i % 2 == self.first % 2 else i for i in range(len(chain)))
