"""What surrounds the two runs of a checkpoint: its forward, and its recompute.

In recompute the block's state is what its forward met, and statistics are frozen. An op policy
(`strategies.execution.op_policies`) adds contexts of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from torch import nn

from strategies.execution.errors import Unsupported
from strategies.execution.met import Met

Pair = tuple[AbstractContextManager[Any], AbstractContextManager[Any]]
_NOTHING = contextlib.nullcontext()


class Watched:
    """``context_fn`` of one checkpoint, and its context of recompute: meets what forward met.

    That can be entered again, for a graph that is retained is recomputed each time.

    Attributes:
        met: what the block met in forward.
        more: further contexts of forward and of recompute, innermost.
    """

    __slots__ = ("entered", "met", "more")

    def __init__(self, met: Met, more: Callable[[], Pair] | None) -> None:
        self.met, self.more = met, more and more()
        self.entered: list[contextlib.ExitStack | None] = []

    def __call__(self) -> Pair:
        """Of forward and of recompute."""
        return self.more[0] if self.more else _NOTHING, self

    def __enter__(self) -> None:
        """Put back what forward met."""
        self.entered.append(self.met.restore())
        if self.more:
            self.more[1].__enter__()

    def __exit__(self, *exception: Any) -> None:
        """Put back what there is now."""
        stack = self.entered.pop()
        try:
            if self.more:
                self.more[1].__exit__(*exception)
        finally:
            if stack is not None:
                stack.close()


def writes_arguments(block: nn.Module) -> Unsupported:
    """The refusal of a block whose recompute would not find its arguments as they were."""
    return Unsupported(
        f"{type(block).__name__} writes to one of its arguments in place, and a recompute would"
        " find it changed; write out of place (x = x + y, inplace=False), or leave this block out"
    )
