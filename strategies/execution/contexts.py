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
from strategies.execution.met import Met
from strategies.execution.state import BlockState

Pair = tuple[AbstractContextManager[Any], AbstractContextManager[Any]]


class Watched:
    """``context_fn`` of one checkpoint, and its context of forward: finds out what the block met.

    Attributes:
        state: of the block that runs under it.
        leaves: of the block's arguments.
        more: further contexts of forward and of recompute, innermost.
    """

    __slots__ = ("again", "leaves", "met", "more", "state")

    def __init__(
        self, state: BlockState, leaves: Sequence[Any], more: Callable[[], Pair] | None
    ) -> None:
        self.state, self.leaves = state, leaves
        self.more: AbstractContextManager[Any] | None = None
        self.again: AbstractContextManager[Any] | None = None
        if more is not None:
            self.more, self.again = more()
        self.met: Met | None = None

    def __call__(self) -> Pair:
        """Of forward and of recompute."""
        again, self.again = self.again, None
        return self, Recompute(self, again)

    def __enter__(self) -> None:
        """Look."""
        self.met = self.state.begin(self.leaves)
        if self.more is not None:
            self.more.__enter__()

    def __exit__(self, kind: type[BaseException] | None, *exception: Any) -> None:
        """Look again.

        Raises:
            Unsupported: the block wrote to its arguments, so that a recompute would not find them.
        """
        leaves, self.leaves = self.leaves, ()  # not to be kept
        if self.more is not None:
            self.more.__exit__(kind, *exception)
        assert self.met is not None
        if kind is None:
            self.state.end(self.met, leaves)
        if self.met.written:
            raise writes_arguments(self.state.root)


def writes_arguments(block: nn.Module) -> Unsupported:
    """The refusal of a block whose recompute would not find its arguments as they were."""
    return Unsupported(
        f"{type(block).__name__} writes to one of its arguments in place, and a recompute would"
        " find it changed; write out of place (x = x + y, inplace=False), or leave this block out"
    )


class Recompute:
    """Of recompute; can be entered again, for a graph that is retained is recomputed each time."""

    __slots__ = ("entered", "more", "watched")

    def __init__(self, watched: Watched, more: AbstractContextManager[Any] | None) -> None:
        self.watched, self.more = watched, more
        self.entered: list[contextlib.ExitStack | None] = []

    def __enter__(self) -> None:
        """Put back what forward met."""
        met = self.watched.met
        assert met is not None
        self.entered.append(self.watched.state.recompute(met))
        if self.more is not None:
            self.more.__enter__()

    def __exit__(self, *exception: Any) -> None:
        """Put back what there is now."""
        stack = self.entered.pop()
        try:
            if self.more is not None:
                self.more.__exit__(*exception)
        finally:
            if stack is not None:
                stack.close()
