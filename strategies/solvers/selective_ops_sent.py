"""Which operators' outputs to keep, and which of those on the host: two 0/1 programmes.

They are that of `strategies.solvers.selective_ops` with one more choice for each block: what it
sends when it has run, beside the compute of the next one, and has back beside the backward of the
next one (`strategies.storage.overlapped`). What was sent takes room until the next block that sends
anything has run, and again from the moment at which that one's is fetched. It does not matter which
of the kept outputs leave, but for their bytes: so the first programme chooses how many bytes each
block sends, and the second what it keeps besides the outputs that make up so many.

Compute is taken to wait for what a transfer takes longer than the one block beside it, and for all
of what comes back first. In truth it never waits longer, for between two blocks that send there may
be others; so the programme's time is no bound, and the interpreter, which knows, has the last word.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from strategies.schedules.interpreter import predict
from strategies.schedules.modes import Operator, keep
from strategies.schedules.profile import BlockCost, ChainProfile
from strategies.schedules.solution import Solution
from strategies.solvers import highs, optimal
from strategies.solvers.selective_ops import GAP, Programme, within
from strategies.solvers.selective_ops_tensors import Choices

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
    parcels = [amounts.parcel_of(index) for index in range(amounts.count)]
    solution = within(
        profile, budget_bytes, lambda room: Sending(profile, room, gap, parcels).solved()
    )
    if solution is None:
        return None
    predicted = predict(profile, solution.schedule)
    return Solution(solution.schedule, predicted.recompute_s + predicted.stall_s)


class Sending(Programme):
    """Variables and constraints.

    Attributes:
        parcels: [i] the outputs that block i sends, if it sends any; ``None``: bytes alone are
            chosen.
        alike: so many equal blocks in a row have the same variables.
        sends: [i] whether block i sends anything.
        sent: [i] how much, in the programme's unit.
        mosts: [i] all that it can send, in that unit.
        later: [i] whether block i or a later one sends.
        flying: [i] what left last when block i has run, in the programme's unit.
        waits: durations for which compute waits, in the programme's unit of time.
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
        self.sends: list[Any] = []
        self.sent: list[Any] = []
        self.mosts: list[float] = []
        self.later: list[Any] = []
        self.flying: list[Any] = []
        self.waits: list[Any] = []
        super().__init__(profile, budget_bytes, gap)

    def choices_of(self, block: BlockCost) -> Choices:
        """Further, what leaves."""
        index = len(self.sends)
        self.mosts.append(self.size_of(index, self.portable(index)))
        self.later.append(self.model.addVariable(0, 1))
        if self.last and index % self.alike and block == self.profile.blocks[index - 1]:
            self.sends.append(self.sends[-1])
            self.sent.append(self.sent[-1])
            return self.last
        self.last = super().choices_of(block)
        self.sends.append(self.model.addBinary())
        if self.parcels is None:
            self.sent.append(self.model.addVariable(0, self.mosts[index]))
        else:
            self.sent.append(self.size_of(index, self.parcels[index]) * self.sends[-1])
        return self.last

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

    def parcel_of(self, index: int) -> frozenset[int]:
        """Of the outputs that are kept, as was solved, as many bytes as leave; one at least."""
        kept = (j for j in self.portable(index) if self.chosen(self.choices[index].kept[j]))
        by_size = sorted(kept, key=lambda j: -self.size_of(index, [j]))
        room, parcel = float(self.model.val(self.sent[index])) + TOLERANCE, set[int]()
        for number in by_size:
            if self.size_of(index, {*parcel, number}) <= room:
                parcel.add(number)
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
        reasons = [sends, *self.later[index + 1 : index + 2]]
        for reason in reasons:
            self.require(self.later[index] >= reason)
        self.require(self.later[index] <= highs.total(reasons))
        self._fly(index)

    def _fly(self, index: int) -> None:
        """What is on the link when a block has run, and how long what it sends is waited for."""
        flying = self.model.addVariable(0, math.inf)
        self.require(flying >= self.sent[index])
        if index:
            self.require(flying >= self.flying[-1] - self._before_most(index) * self.sends[index])
        self.flying.append(flying)
        per_unit = self.unit / self.profile.link_bytes_per_s / self.second
        crossing = per_unit * self.sent[index]
        if index + 1 == self.count:
            self._wait(2 * crossing)
            return
        following, again = self.profile.blocks[index + 1], highs.total(self.repeated(index + 1))
        self._wait(crossing - following.forward_s / self.second)
        self._wait(crossing - following.backward_s / self.second - again)
        self._wait(crossing - per_unit * self.mosts[index] * self.later[index + 1])

    def _before_most(self, index: int) -> float:
        """The most that a block before sends, in the programme's unit."""
        return max(self.mosts[:index])

    def _wait(self, duration: Any) -> None:
        waits = self.model.addVariable(0, math.inf)
        self.require(waits >= duration)
        self.waits.append(waits)

    def saved(self, index: int) -> Iterator[Any]:
        """Without what is away."""
        yield from super().saved(index)
        yield -1.0 * self.sent[index]

    def before(self, position: int) -> list[Any]:
        """Further, what left last and is not yet there."""
        terms = super().before(position)
        return [*terms, self.flying[position - 1]] if 0 < position < self.count else terms

    def behind(self, index: int) -> list[Any]:
        """Further, what was called for."""
        terms = super().behind(index)
        if not 0 < index < self.count:
            return terms
        coming, most = self.model.addVariable(0, math.inf), self._before_most(index)
        self.require(coming >= self.flying[index - 1] - most * (1 - self.later[index]))
        return [*terms, coming]

    def cost(self) -> Iterator[Any]:
        """Further, what is waited for."""
        yield from super().cost()
        yield from self.waits

    def mode_of(self, index: int, kept: list[int]) -> str:
        """With what of it is away."""
        parcel = self.parcels[index] if self.parcels and self.chosen(self.sends[index]) else ()
        return keep(kept, parcel, self.profile.link_tier)


def _alike(profile: ChainProfile) -> int:
    listed = (block.operators.operators for block in profile.blocks if block.operators)
    count = sum(op.keepable for operators in listed for op in operators)
    return max(1, -(-count // MOST_CHOICES))
