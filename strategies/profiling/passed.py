"""What `strategies.profiling.lives` sees pass between blocks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from strategies.schedules.profile import Casts, Shared


@dataclasses.dataclass(frozen=True)
class Passed:
    """What passes between the blocks of a chain.

    Attributes:
        input_bytes: of the boundary that each block takes.
        apart: blocks that are given something else than what the block before returned.
        copies: of those, the ones whose boundary lies in other memory, too.
        shared: see `ChainProfile`.
        casts: see `BlockCost`, by block; of those that were passed by there are none.
    """

    input_bytes: tuple[int, ...]
    apart: frozenset[int]
    copies: frozenset[int]
    shared: tuple[Shared, ...]
    casts: Mapping[int, Casts]

    def own_bytes(self, index: int, *, saved: bool) -> int:
        """Of what a block makes for itself and somebody else holds; ``saved``: what it saves."""
        own = (one for one in self.shared if one.inside and one.born == index)
        return sum(one.size_bytes for one in own if not saved or index in one.saved_by)

    def replaced_bytes(self, index: int) -> int:
        """Of what was there before the step until this block put something else in its place."""
        replaced = (one for one in self.shared if one.is_of_last_step and one.until == index + 1)
        return sum(one.size_bytes for one in replaced)

    @property
    def alone(self) -> set[int]:
        """Blocks of which more is held than what they are given and hand on."""
        replaced = {one.until - 1 for one in self.shared if one.is_of_last_step}
        return replaced | {one.born for one in self.shared if one.inside}

    def for_all(self, like: Sequence[int]) -> Passed:
        """The same, blocks that were passed by as those that ran for them."""
        casts = {index: self.casts[other] for index, other in enumerate(like)}
        return dataclasses.replace(self, casts=casts)

    @property
    def beside(self) -> frozenset[int]:
        """Blocks with a skip at their end: gradients meet there, which no equal block shows."""
        boundaries = {one.boundary for one in self.shared if one.boundary is not None}
        places = boundaries | self.apart
        return frozenset(i for place in places for i in (place - 1, place) if i >= 0)
