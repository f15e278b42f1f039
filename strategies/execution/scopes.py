"""Which frames are open: in each thread, in a forward and in the recompute of a frame."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

from strategies.execution.frames import Frame
from strategies.execution.hooks import Hooks, lifted
from strategies.execution.met import Met
from strategies.execution.stand_in import StandIn
from strategies.storage import Storage


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """A recompute group of a plan.

    Attributes:
        size: how many blocks it has.
        last: the index of its last block.
        storage: how its boundary rests.
        exact: its boundary, and those of the groups around it, come back as they were.
    """

    size: int
    last: int
    storage: Storage | None
    exact: bool


@dataclasses.dataclass(frozen=True)
class Position:
    """A block's place in the chain, and its groups, the outermost first."""

    index: int
    groups: tuple[Group, ...]


class Scope:
    """The frames that are open: in a forward, or in the recompute of one frame.

    Attributes:
        depth: how many groups of each block are being recomputed.
        hooks: of that recompute.
        frames: that are open.
        calls: how often each block was called in this forward, by what stands in for it.
        inside: a block runs; those that it calls are parts of it.
        again: the position of the block that is to run again, what it met, and its arguments.
        output: of that block.
    """

    def __init__(self, depth: int = 0, hooks: Hooks | None = None) -> None:
        self.depth, self.hooks = depth, hooks
        self.frames: dict[Group, Frame] = {}
        self.calls: Counter[StandIn] = Counter()
        self.inside = False
        self.again: tuple[Position, Met, Any, Any] | None = None
        self.output: Any = None

    def is_taken(self) -> bool:
        """Whether the block that was to run again did."""
        return self.again is None

    def count(self, block: StandIn) -> int:
        """A block is called; returns how often it was before."""
        self.calls[block] += 1
        return self.calls[block] - 1

    def reset(self) -> None:
        """A forward begins or ends."""
        self.frames.clear()
        self.calls.clear()


class Scopes:
    """The scopes of each thread, the innermost last. A copy of a model starts with none."""

    def __init__(self) -> None:
        self.local = threading.local()

    def __reduce__(self) -> tuple[type[Scopes], tuple[()]]:
        return Scopes, ()

    @property
    def stack(self) -> list[Scope]:
        """Of this thread."""
        if not hasattr(self.local, "stack"):
            self.local.stack = [Scope()]
        stack: list[Scope] = self.local.stack
        return stack

    @contextlib.contextmanager
    def recompute(self, depth: int) -> Iterator[Scope]:
        """A scope for a frame that is recomputed; blocks run under its hooks."""
        with lifted() as hooks:
            self.stack.append(Scope(depth, hooks))
            try:
                yield self.stack[-1]
            finally:
                self.stack.pop()
