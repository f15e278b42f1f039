"""Counts how often each block's forward is entered."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import nn

from strategies.execution.undo import replace_forward, undo_all


@contextlib.contextmanager
def count_forwards(blocks: Sequence[nn.Module]) -> Iterator[list[int]]:
    """Count how often each block's forward is entered, recompute included."""
    counts = [0] * len(blocks)
    position = {id(block): index for index, block in enumerate(blocks)}
    undos = []
    for block in {id(b): b for b in blocks}.values():
        index = position[id(block)]
        undos.append(replace_forward(block, _Counting(block.forward, counts, index)))
    try:
        yield counts
    finally:
        undo_all(undos)


@dataclasses.dataclass
class _Counting:
    """Stands in for a block's ``forward``."""

    original: Callable[..., Any]
    counts: list[int]
    index: int

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.counts[self.index] += 1
        return self.original(*args, **kwargs)
