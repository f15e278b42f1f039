"""Which operators' outputs to keep, and what rests on the host: two 0/1 programmes.

They are that of `strategies.solvers.selective_ops` with two more choices for each block: it sends
what it keeps when it has run, or, where it keeps nothing, its input before it runs. Either leaves
beside the compute of the blocks that follow, and is back beside their backward
(`strategies.storage.overlapped`). What was sent takes room until the next block sends anything,
and again from the moment at which that one's is fetched. It does not matter which of the kept
outputs leave, but for their bytes: so the first programme chooses how many bytes each block sends,
and the second what it keeps besides the outputs that make up so many.

Compute is taken to wait for what a transfer takes longer than the blocks beside it, of which three
are seen, and for all of what comes back first. In truth it never waits longer, for there may be
more blocks between two that send; so the programme's time is no bound, and the interpreter, which
knows, has the last word.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from strategies.schedules.interpreter import predict
from strategies.schedules.modes import Operator, keep
from strategies.schedules.profile import BlockCost, ChainProfile
from strategies.schedules.schedule import Schedule
from strategies.schedules.solution import Solution
from strategies.solvers import highs, optimal
from strategies.solvers.selective_ops import GAP, within
from strategies.solvers.selective_ops_link import Crossing
from strategies.solvers.selective_ops_tensors import NEVER, Choices

ROUGH = 1e-2
"""At this relative gap it is settled how much each block sends."""
MOST_CHOICES = 200
"""Of outputs; in a longer chain equal blocks in a row choose alike, so that this takes seconds."""
TOLERANCE = 1e-6
"""Of the solver: by so much of a programme's unit an amount may be less than it should."""


@functools.lru_cache(maxsize=64)
def solve(profile: ChainProfile, budget_bytes: int, gap: float = GAP) -> Solution | None:
    """A choice of operators within a budget, some outputs on the host, or ``None``.

    Its bound is its own time: nothing is proven of others.

    Args:
        profile: with times, operators, and a link.
        budget_bytes: of the peak, everything included.
        gap: see `strategies.solvers.selective_ops.GAP`.
    """
    if not profile.link_bytes_per_s or not optimal.fixed_terms_fit(profile, budget_bytes):
        return None
    amounts = Sending(profile, budget_bytes, ROUGH)
    if amounts.solved() is None:
        return None
    rounded = dict.fromkeys(amounts.parcels_of(up=up) for up in (False, True))
    solutions = [given(profile, budget_bytes, gap, parcels) for parcels in rounded]
    return min(filter(None, solutions), key=lambda solution: solution.bound_s, default=None)


def given(
    profile: ChainProfile, budget_bytes: int, gap: float, parcels: Sequence[frozenset[int]]
) -> Solution | None:
    """What is kept besides what leaves, if it does.

    Args:
        profile: as in `solve`, also for the other arguments.
        budget_bytes: of the peak.
        gap: of what is repeated.
        parcels: by block, the outputs that it may send.
    """
    solution = within(
        profile, budget_bytes, lambda room: Sending(profile, room, gap, parcels).solved()
    )
    if solution is None:
        return None
    predicted = predict(profile, solution.schedule)
    return Solution(solution.schedule, predicted.recompute_s + predicted.stall_s)


class Sending(Crossing):
    """Variables and constraints.

    Attributes:
        parcels: [i] the outputs that block i sends, if it sends any; ``None``: bytes alone are
            chosen.
        alike: so many equal blocks in a row have the same variables.
    """

    def __init__(
        self,
        profile: ChainProfile,
        budget_bytes: int,
        gap: float,
        parcels: Sequence[frozenset[int]] | None = None,
    ) -> None:
        self.parcels, self.alike = parcels, _alike(profile)
        self.last: Choices | None = None
        super().__init__(profile, budget_bytes, gap)

    def choices_of(self, block: BlockCost) -> Choices:
        """Further, what leaves."""
        index = len(self.sends)
        most = self.size_of(index, self.portable(index))
        self.mosts.append(max(most, self.input_of(index)))
        self.later.append(self.model.addVariable(0, 1))
        if self.last and index % self.alike and self._is_like_before(index):
            self.sends.append(self.sends[-1])
            self.sent.append(self.sent[-1])
            return self.last
        leaves = self.model.addBinary() if self.input_may_leave(index) else NEVER
        self.last = dataclasses.replace(super().choices_of(block), leaves=leaves)
        self.sends.append(self.model.addBinary())
        if self.parcels is None:
            self.sent.append(self.model.addVariable(0, most))
        else:
            self.sent.append(self.size_of(index, self.parcels[index]) * self.sends[-1])
        return self.last

    def _is_like_before(self, index: int) -> bool:
        blocks, may_leave = self.profile.blocks, self.input_may_leave
        return blocks[index] == blocks[index - 1] and may_leave(index) == may_leave(index - 1)

    def input_may_leave(self, index: int) -> bool:
        """Whether that frees anything: nobody beside the chain has to do with it."""
        others = {shared.boundary for shared in self.profile.shared}
        return index not in others and not (index == 0 and self.profile.head_keeps_output)

    def portable(self, index: int) -> list[int]:
        """The outputs that block ``index`` can send."""
        listed = enumerate(self._operators(index))
        return [number for number, op in listed if op.keepable and op.portable]

    def size_of(self, index: int, numbers: Iterable[int]) -> float:
        """Of these outputs, in the programme's unit."""
        listed = self._operators(index)
        return sum(listed[number].output_bytes for number in numbers) / self.unit

    def _operators(self, index: int) -> Sequence[Operator]:
        operators = self.profile.blocks[index].operators
        return operators.operators if operators else ()

    def parcels_of(self, *, up: bool) -> tuple[frozenset[int], ...]:
        """By block; ``up``: where no outputs make up as many bytes as leave, one more."""
        return tuple(self.parcel_of(index, up=up) for index in range(self.count))

    def parcel_of(self, index: int, *, up: bool = False) -> frozenset[int]:
        """Of the outputs that are kept, as was solved, as many bytes as leave; one at least."""
        kept = (j for j in self.portable(index) if self.chosen(self.choices[index].kept[j]))
        by_size = sorted(kept, key=lambda j: -self.size_of(index, [j]))
        room, parcel = float(self.model.val(self.sent[index])) + TOLERANCE, set[int]()
        for number in by_size:
            if self.size_of(index, {*parcel, number}) <= room:
                parcel.add(number)
        if up and parcel and self.size_of(index, parcel) < room - 2 * TOLERANCE:
            parcel.update([j for j in by_size if j not in parcel][-1:])
        return frozenset(parcel or by_size[-1:] * self.chosen(self.sends[index]))

    def couple(self, index: int) -> None:
        """Further: what leaves is kept, and what is on the link."""
        super().couple(index)
        kept, sends = self.choices[index].kept, self.sends[index]
        if self.parcels is None:
            sizes = {number: self.size_of(index, [number]) for number in self.portable(index)}
            self.require(self.sent[index] <= highs.total(sizes[j] * kept[j] for j in sizes))
            self.require(self.sent[index] <= self.mosts[index] * sends)
            self.require(self.sent[index] >= min(sizes.values(), default=1.0) * sends)
        else:
            self.require(sends <= len(self.parcels[index]))
            for number in self.parcels[index]:
                self.require(sends <= kept[number])
        self._settle_input(index)

    def _settle_input(self, index: int) -> None:
        choices = self.choices[index]
        if choices.leaves is not NEVER:
            for variable in (choices.whole, *choices.kept.values()):
                self.require(choices.leaves + variable <= 1)

    def saved(self, index: int) -> Iterator[Any]:
        """Without what is away of what is kept."""
        yield from super().saved(index)
        yield -1.0 * self.sent[index]

    def _schedule(self) -> Schedule:
        schedule = super()._schedule()
        leaving = (i for i in range(self.count) if self._input_leaves(i))
        return dataclasses.replace(
            schedule, offloaded=frozenset(leaving), tier=self.profile.link_tier
        )

    def _input_leaves(self, index: int) -> bool:
        leaves = self.choices[index].leaves
        return leaves is not NEVER and self.chosen(leaves)

    def mode_of(self, index: int, kept: list[int]) -> str:
        """With what of it is away."""
        parcel = self.parcels[index] if self.parcels and self.chosen(self.sends[index]) else ()
        return keep(kept, parcel, self.profile.link_tier)


def _alike(profile: ChainProfile) -> int:
    listed = (block.operators.operators for block in profile.blocks if block.operators)
    count = sum(op.keepable for operators in listed for op in operators)
    return max(1, -(-count // MOST_CHOICES))
