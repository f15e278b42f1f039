"""DeepSpeed's activation checkpointing, around every block."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from strategies.contract.peer import BlockPeer
from strategies.contract.strategy import Strategy


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeepspeedCheckpoint(BlockPeer):
    """``deepspeed.checkpointing.checkpoint``, unconfigured: nothing is partitioned or moved.

    Attributes:
        reentrant: its usual function of autograd, or ``non_reentrant_checkpoint``.
    """

    package: ClassVar[str] = "deepspeed"

    reentrant: bool = True

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """``checkpoint(function, *args)``, which takes no keywords."""
        from deepspeed.runtime.activation_checkpointing import (  # noqa: PLC0415 - optional
            checkpointing,
        )

        name = "checkpoint" if self.reentrant else "non_reentrant_checkpoint"
        called = functools.partial(function, **kwargs) if kwargs else function
        return getattr(checkpointing, name)(called, *args)

    @classmethod
    def grid(cls) -> Sequence[Strategy]:
        """Both functions."""
        return (cls(), cls(reentrant=False))
