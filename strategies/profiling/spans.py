"""Which nodes of a graph are of which block, by the numbers that autograd gives them in forward.

A gradient comes to a block not only through its output: a loss that a module keeps in an attribute,
or a second output that is made from the first one, brings one before that. Backward runs nodes in
the order of their numbers, the last first; so a block's backward begins with its last node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.autograd.graph import Node


def _next_number() -> int:
    """Of the node that autograd makes next, in this thread."""
    number: int = torch._C._autograd._get_sequence_nr()
    return number


class Spans:
    """The numbers of the nodes that each block's forward made."""

    def __init__(self) -> None:
        self._begin = 0
        self._blocks: dict[int, int] = {}

    def enter(self) -> None:
        """A block's forward begins."""
        self._begin = _next_number()

    def leave(self, index: int) -> None:
        """It ends."""
        self._blocks |= dict.fromkeys(range(self._begin, _next_number()), index)

    def tell(self, loss: Tensor, reach: Callable[[int], None]) -> None:
        """Have ``reach`` called with a block's index when backward comes to its last node."""
        last: dict[int, Node] = {}
        for node in _nodes(loss):
            index = self._blocks.get(node._sequence_nr())
            if index is not None and _is_later(node, last.get(index)):
                last[index] = node
        for index, node in last.items():
            node.register_prehook(lambda _, index=index: reach(index))


def _is_later(node: Node, other: Node | None) -> bool:
    return other is None or node._sequence_nr() > other._sequence_nr()


def _nodes(loss: Tensor) -> Iterator[Node]:
    """Every node behind ``loss``."""
    waiting = [loss.grad_fn] if loss.grad_fn is not None else []
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        yield node
        new = {after for after, _ in node.next_functions if after is not None} - seen
        seen |= new
        waiting += new
