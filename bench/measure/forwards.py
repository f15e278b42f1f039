"""Counts how often each block's forward is entered."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from strategies.execution.stand_in import StandIn
from strategies.execution.undo import installed


@contextlib.contextmanager
def count_forwards(blocks: Sequence[nn.Module]) -> Iterator[list[int]]:
    """Count how often each block's forward is entered, recompute included."""
    counts = [0] * len(blocks)
    places = {block: index for index, block in enumerate(blocks)}
    with installed(lambda: [_Counting(b, counts, index).install() for b, index in places.items()]):
        yield counts


class _Counting(StandIn):
    """Counts calls of a block's ``forward``."""

    def __init__(self, module: nn.Module, counts: list[int], index: int) -> None:
        super().__init__(module)
        self.counts, self.index = counts, index

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the module's own ``forward``."""
        self.counts[self.index] += 1
        return self.original(*args, **kwargs)
