"""Who else holds a tensor, as a step goes on; for the abstract machine."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator

from strategies.schedules.plan import Node, first, leaves
from strategies.schedules.profile import ChainProfile, Shared

Change = Callable[[int], None]


class Sharing:
    """The holders of `Shared` tensors that are no block's own input or output.

    Tensors are numbered: boundaries by their own number, others behind the last of them.
    """

    def __init__(self, profile: ChainProfile, hold: Change, drop: Change) -> None:
        self.hold, self.drop = hold, drop
        self.numbers: dict[Shared, int] = {}
        self.anew: set[int] = set()  # blocks that ran again, to be run backward
        self.sizes = [profile.boundary_bytes(i) for i in range(len(profile.blocks) + 1)]
        self.born, self.released, self.saved, self.read, self.between = _by_place(profile.shared)
        for shared in profile.shared:
            if shared.boundary is None:
                self.numbers[shared] = len(self.sizes)
                self.sizes.append(shared.size_bytes)
            else:
                self.numbers[shared] = shared.boundary

    def leave(self, block: int) -> None:
        """In forward: a block has run, and the model may hold what it made."""
        self._each(self.born.get(block, ()), self.hold)

    def reach(self, position: int) -> None:
        """In forward: the model saves what it computes with, and lets go."""
        self._each(self.between.get(position, ()), self.hold)
        self._each(self.released.get(position, ()), self.drop)

    def pass_back(self, position: int, drop: Change) -> None:
        """In backward: what the model saved at that position is free."""
        self._each(self.between.get(position, ()), drop)

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
        self._each(self._kept(block, again=again), self.hold)
        return self._anew_bytes(block)

    def free(self, block: int, *, again: bool) -> int:
        """Its backward is over; see `save`."""
        self._each(self._kept(block, again=again), self.drop)
        return self._anew_bytes(block)

    def _anew_bytes(self, block: int) -> int:
        saved = self.saved.get(block, ()) if block in self.anew else ()
        return sum(one.size_bytes for one in saved if _is_own(one, block))

    def _kept(self, block: int, *, again: bool) -> list[Shared]:
        read = self.read.get(block, []) if again else []
        kept, anew = dict.fromkeys([*self.saved.get(block, []), *read]), block in self.anew
        return [one for one in kept if not (anew and _is_own(one, block))]

    def keep(self, group: tuple[Node, ...]) -> None:
        """A top-level group keeps what its blocks are given to run again."""
        self._each(self._given(group, inside=False), self.hold)

    def give_up(self, group: tuple[Node, ...]) -> None:
        """It has run again, backward too."""
        self._each(self._given(group, inside=False), self.drop)

    def remake(self, group: tuple[Node, ...]) -> None:
        """A top-level group runs again: what its blocks hand one another beside the chain is."""
        self._each(self._given(group, inside=True), self.hold)

    def unmake(self, group: tuple[Node, ...]) -> None:
        """The end of that."""
        self._each(self._given(group, inside=True), self.drop)

    def _given(self, group: tuple[Node, ...], *, inside: bool) -> list[Shared]:
        begin = first(group)
        given = (shared for block in leaves(group) for shared in self.read.get(block, []))
        return [one for one in dict.fromkeys(given) if (one.born >= begin) is inside]

    def _each(self, tensors: collections.abc.Iterable[Shared], change: Change) -> None:
        for shared in tensors:
            change(self.numbers[shared])


def _is_own(shared: Shared, block: int) -> bool:
    return shared.inside and shared.born == block


Places = dict[int, list[Shared]]


def _by_place(tensors: tuple[Shared, ...]) -> Iterator[Places]:
    """By the block that makes it, where it is let go, who saves and reads it, and between."""
    places: tuple[Callable[[Shared], tuple[int, ...]], ...] = (
        lambda shared: (shared.born,),
        lambda shared: (shared.until,),
        lambda shared: shared.saved_by,
        lambda shared: shared.read_by,
        lambda shared: shared.between,
    )
    for place in places:
        table: Places = collections.defaultdict(list)
        for shared in tensors:
            for index in place(shared):
                table[index].append(shared)
        yield dict(table)
