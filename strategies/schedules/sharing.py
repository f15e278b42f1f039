"""Who else holds a tensor, as a step goes on; for the abstract machine."""

from __future__ import annotations

import collections
import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from strategies.schedules.plan import Node, first, leaves
from strategies.schedules.profile import ChainProfile, Shared

Change = Callable[[int], None]
Places = dict[int, tuple[int, ...]]


class _Tables(NamedTuple):
    """The tensors of a chain by number: boundaries by their own, others behind the last of them.

    Attributes:
        sizes: of each, in bytes.
        births: of those that are `Shared`, the block that makes it.
        born: which, by that block.
        released: which are let go, by position.
        saved: which are saved, by block.
        read: which are read, by block.
        again: which a block keeps that runs under an op policy, by block.
        between: which the model saves for what it computes there, by position.
        own: which are made for the block itself, and made once more by a recompute, by block.
        lasting: boundaries that somebody holds beyond the step.
    """

    sizes: tuple[int, ...]
    births: dict[int, int]
    born: Places
    released: Places
    saved: Places
    read: Places
    again: Places
    between: Places
    own: Places
    lasting: frozenset[int]


class Sharing:
    """The holders of `Shared` tensors that are no block's own input or output."""

    def __init__(self, profile: ChainProfile, hold: Change, drop: Change) -> None:
        self.hold, self.drop = hold, drop
        self.anew: set[int] = set()  # blocks that ran again, to be run backward
        boundaries = tuple(map(profile.boundary_bytes, range(len(profile.blocks) + 1)))
        self.tables = _tables_of(profile.shared, boundaries)
        self.sizes = self.tables.sizes

    def leave(self, block: int) -> None:
        """In forward: a block has run, and the model may hold what it made."""
        _each(self.tables.born.get(block, ()), self.hold)

    def reach(self, position: int) -> None:
        """In forward: the model saves what it computes with, and lets go."""
        _each(self.tables.between.get(position, ()), self.hold)
        _each(self.tables.released.get(position, ()), self.drop)

    def pass_back(self, position: int, drop: Change) -> None:
        """In backward: what the model saved at that position is free."""
        _each(self.tables.between.get(position, ()), drop)

    def save(self, block: int, *, again: bool, anew: bool) -> int:
        """A block runs so that its backward can follow.

        Args:
            block: its number.
            again: under an op policy.
            anew: it ran before, in forward.

        Returns:
            Bytes of what it makes and saves once more then, whoever holds the first.
        """
        if anew:
            self.anew.add(block)
        _each(self._kept(block, again=again), self.hold)
        return self._anew_bytes(block)

    def free(self, block: int, *, again: bool) -> int:
        """Its backward is over; see `save`."""
        _each(self._kept(block, again=again), self.drop)
        return self._anew_bytes(block)

    def _anew_bytes(self, block: int) -> int:
        own, saved = self._own(block), self.tables.saved.get(block, ())
        return sum(self.sizes[number] for number in saved if number in own)

    def _kept(self, block: int, *, again: bool) -> Sequence[int]:
        kept = (self.tables.again if again else self.tables.saved).get(block, ())
        own = self._own(block)
        return [number for number in kept if number not in own] if own else kept

    def _own(self, block: int) -> Sequence[int]:
        """What it makes once more, where it ran again."""
        return self.tables.own.get(block, ()) if block in self.anew else ()

    def keep(self, group: tuple[Node, ...]) -> None:
        """A top-level group keeps what its blocks are given to run again."""
        _each(self._given(group, inside=False), self.hold)

    def give_up(self, group: tuple[Node, ...]) -> None:
        """It has run again, backward too."""
        _each(self._given(group, inside=False), self.drop)

    def remake(self, group: tuple[Node, ...]) -> None:
        """A top-level group runs again: what its blocks hand one another beside the chain is."""
        _each(self._given(group, inside=True), self.hold)

    def unmake(self, group: tuple[Node, ...]) -> None:
        """The end of that."""
        _each(self._given(group, inside=True), self.drop)

    def lasting(self, group: tuple[Node, ...]) -> Iterable[int]:
        """Boundaries inside that somebody holds beyond the step: a recompute makes others."""
        if not self.tables.lasting:
            return ()
        return self.tables.lasting.intersection(itertools.islice(leaves(group), 1, None))

    def _given(self, group: tuple[Node, ...], *, inside: bool) -> list[int]:
        read, births = self.tables.read, self.tables.births
        if not read:
            return []
        begin = first(group)
        given = (number for block in leaves(group) for number in read.get(block, ()))
        return [one for one in dict.fromkeys(given) if (births[one] >= begin) is inside]


def _each(numbers: Iterable[int], change: Change) -> None:
    for number in numbers:
        change(number)


@functools.lru_cache(maxsize=8)  # the interpreter is asked for many plans of one chain
def _tables_of(tensors: tuple[Shared, ...], boundaries: tuple[int, ...]) -> _Tables:
    sizes, numbers = list(boundaries), []
    for shared in tensors:
        if shared.boundary is None:
            numbers.append(len(sizes))
            sizes.append(shared.size_bytes)
        else:
            numbers.append(shared.boundary)

    def table(*wheres: Callable[[Shared], tuple[int, ...]]) -> Places:
        places: dict[int, dict[int, None]] = collections.defaultdict(dict)
        for where in wheres:
            for number, shared in zip(numbers, tensors, strict=True):
                for place in where(shared):
                    places[place][number] = None
        return {place: tuple(those) for place, those in places.items()}

    return _Tables(
        sizes=tuple(sizes),
        births={number: each.born for number, each in zip(numbers, tensors, strict=True)},
        born=table(lambda shared: (shared.born,)),
        released=table(lambda shared: (shared.until,)),
        saved=table(lambda shared: shared.saved_by),
        read=table(lambda shared: shared.read_by),
        again=table(lambda shared: shared.saved_by, lambda shared: shared.read_by),
        between=table(lambda shared: shared.between),
        own=table(lambda shared: (shared.born,) if shared.inside else ()),
        lasting=frozenset(
            shared.boundary
            for shared in tensors
            if shared.boundary is not None and shared.until > len(boundaries)
        ),
    )
