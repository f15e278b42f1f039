"""No checkpointing: autograd keeps what it needs."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from strategies.contract.strategy import Strategy


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoCheckpointing(Strategy):
    """The model as it is: the reference that every other strategy is measured against."""

    textbook_memory: ClassVar[str | None] = "O(L·N·d)"
    textbook_compute: ClassVar[str | None] = "0"

    @classmethod
    def name(cls) -> str:
        """``none``, as the field calls it."""
        return "none"
