"""The ledger of `strategies.profiling.operators`: which operator of which block made a storage."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor

from strategies.execution.dispatch import can_be_kept, is_portable, is_random
from strategies.execution.tensors import storage_key, tensors_in
from strategies.profiling.allocator import AllocatorTrace
from strategies.profiling.ledger import Ledger
from strategies.profiling.rates import Rates

Place = tuple[int, int]  # a block and an operator's number in it


@dataclasses.dataclass
class Seen:
    """One operator of a block's forward."""

    name: str
    keepable: bool
    random: bool
    portable: bool
    output_bytes: int = 0
    time_ps: int = 0
    flops: int = 0
    again: bool = False


@dataclasses.dataclass(frozen=True)
class Span:
    """The events of one operator, in forward or in recompute."""

    place: Place
    again: bool
    first: int
    end: int


class OperatorLedger(Ledger):
    """A ledger that knows which operator made a storage.

    Attributes:
        seen: operators by block.
        owners: of each event, the operator whose storage was born or died, if one of a block.
    """

    def __init__(self, rates: Rates, blocks: int, trace: AllocatorTrace | None = None) -> None:
        super().__init__(rates)
        self.trace = trace
        self.seen: list[list[Seen]] = [[] for _ in range(blocks)]
        self.owners: list[Place | None] = []
        self.spans: list[Span] = []
        self.deltas: list[int] = []
        self._now: Place | None = None
        self._owner: dict[int, Place] = {}

    def born(self, key: int, size_bytes: int) -> None:
        """Of the operator that runs."""
        if self._now is not None:
            self._owner[key] = self._now
        self._note(self._now, size_bytes)
        super().born(key, size_bytes)

    def died(self, key: int, size_bytes: int) -> None:
        """Of the operator that made it."""
        self._note(self._owner.pop(key, None), -size_bytes)
        super().died(key, size_bytes)

    def _note(self, place: Place | None, delta_bytes: int) -> None:
        self.owners.append(place)
        self.deltas.append(delta_bytes)

    def run(self, place: Place, func: Any, args: Any, kwargs: Any, *, again: bool) -> Any:
        """One operator of a block; nested calls are part of it."""
        first, flops, time_ps = len(self.alive), self.recompute_flops, self.recompute_ps
        begin, end = marks_of(place, again=again)
        self._now = place
        try:
            self._mark(begin)
            out = func(*args, **kwargs)
            self._mark(end)
        finally:
            self._now = None
        self.spans.append(Span(place, again, first, len(self.alive)))
        block, position = place
        if again:
            seen = self.seen[block][position]
            seen.again, seen.flops = True, self.recompute_flops - flops
            seen.time_ps = self.recompute_ps - time_ps
        else:
            made_bytes = sum(delta for delta in self.deltas[first:] if delta > 0)
            facts = can_be_kept(func), is_random(func, args, kwargs), is_portable(out)
            self.seen[block].append(Seen(_name(func), *facts, made_bytes))
        if func._schema.is_mutable:
            self.not_kept(_written(func, args, kwargs))
        return out

    def _mark(self, name: str) -> None:
        if self.trace is not None:
            self.trace.mark(name)

    def not_kept(self, tensors: Iterable[Tensor]) -> None:
        """Whoever made these cannot be kept."""
        for tensor in tensors:
            place = self._owner.get(storage_key(tensor))
            if place is not None:
                self.seen[place[0]][place[1]].keepable = False


def marks_of(place: Place, *, again: bool) -> tuple[str, str]:
    """What an operator's beginning and end are called in a trace."""
    name = f"{'again' if again else 'first'} {place[0]} {place[1]}"
    return f"begin {name}", f"end {name}"


def _name(func: Any) -> str:
    return str(func._overloadpacket.__name__)


def _written(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    for argument, value in zip(func._schema.arguments, args, strict=False):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from tensors_in(value)
    for argument in func._schema.arguments:
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from tensors_in(kwargs.get(argument.name))
