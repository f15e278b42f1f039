"""What surrounds the two runs of a checkpoint: its forward, and its recompute.

In forward the block's state is watched; in recompute it is what it was then, and statistics are
frozen. An op policy (`strategies.execution.op_policies`) adds contexts of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from torch import nn

from strategies.execution.errors import Unsupported
from strategies.execution.state import BlockState, Met
from strategies.execution.statistics import FrozenStatistics

Pair = tuple[AbstractContextManager[Any], AbstractContextManager[Any]]


class Contexts:
    """``context_fn`` of one checkpoint.

    Attributes:
        state: of the block that runs under it.
        leaves: of the block's arguments.
        more: further contexts of forward and of recompute, innermost.
    """

    def __init__(
        self, state: BlockState | None, leaves: Sequence[Any], more: Callable[[], Pair] | None
    ) -> None:
        self.state, self.leaves, self.more = state, leaves, more

    def __call__(self) -> Pair:
        """Of one call."""
        forward, again = self.more() if self.more else (contextlib.nullcontext(),) * 2
        if self.state is None:
            return forward, again
        watched = Watched(self.state, self.leaves, forward)
        return watched, Recompute(self.state, watched, again)


class Watched:
    """Of forward: finds out what the block changes."""

    def __init__(
        self, state: BlockState, leaves: Sequence[Any], more: AbstractContextManager[Any]
    ) -> None:
        self.state, self.more = state, more
        self.leaves = leaves
        self.met: Met | None = None
        self.stack = contextlib.ExitStack()

    def __enter__(self) -> None:
        """Look."""
        leaves, self.leaves = self.leaves, ()
        self.met = self.stack.enter_context(self.state.watched(leaves))
        self.stack.enter_context(self.more)

    def __exit__(self, *exception: Any) -> bool | None:
        """Look again.

        Raises:
            Unsupported: the block wrote to its arguments, so that a recompute would not find them.
        """
        suppressed = self.stack.__exit__(*exception)
        if self.met is not None and self.met.written:
            raise writes_arguments(self.state.root)
        return suppressed


def writes_arguments(block: nn.Module) -> Unsupported:
    """The refusal of a block whose recompute would not find its arguments as they were."""
    return Unsupported(
        f"{type(block).__name__} writes to one of its arguments in place, and a recompute would"
        " find it changed; write out of place (x = x + y, inplace=False), or leave this block out"
    )


class Recompute:
    """Of recompute; can be entered again, for a graph that is retained is recomputed each time."""

    def __init__(
        self, state: BlockState, watched: Watched, more: AbstractContextManager[Any]
    ) -> None:
        self.state, self.watched, self.more = state, watched, more
        self.entered: list[contextlib.ExitStack] = []

    def __enter__(self) -> None:
        """Put back what forward met."""
        with contextlib.ExitStack() as stack:
            if self.watched.met is not None:
                stack.enter_context(self.watched.met.again())
            stack.enter_context(FrozenStatistics(self.state.root))
            stack.enter_context(self.more)
            self.entered.append(stack.pop_all())

    def __exit__(self, *exception: Any) -> bool | None:
        """Put back what there is now."""
        return self.entered.pop().__exit__(*exception)
