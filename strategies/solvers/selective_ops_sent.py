"""Which operators' outputs to keep, and which of those on the host: a 0/1 programme.

That of `strategies.solvers.selective_ops` with one more choice for each output: it leaves when its
block has run, beside the compute of the next one, and comes back beside the backward of the next
one (`strategies.storage.overlapped`). What leaves takes room until the next block that sends
anything has run, and again from the moment at which the later one is fetched.

Compute is taken to wait for what a transfer takes longer than the one block beside it, and for all
of what comes back first. That is never less than it waits in truth, where between two blocks that
send there may be others; so the time of the programme is no bound, and the interpreter, which
knows, has the last word.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from strategies.schedules.interpreter import predict
from strategies.schedules.modes import keep
from strategies.schedules.profile import BlockCost, ChainProfile
from strategies.schedules.schedule import Schedule
from strategies.schedules.solution import Solution
from strategies.solvers import highs, optimal
from strategies.solvers.selective_ops import GAP, Programme, within
from strategies.solvers.selective_ops_tensors import Choices


ROUGH = 5e-3
EPSILON = 1e-9


@functools.lru_cache(maxsize=64)
def solve(profile: ChainProfile, budget_bytes: int, gap: float = GAP) -> Solution | None:
    """A choice of operators within a budget, outputs on the host among them, or ``None``.

    Its bound is its own time: nothing is proven of others.

    Args:
        profile: with times, operators, and a link.
        budget_bytes: of the peak, everything included.
        gap: see `strategies.solvers.selective_ops.GAP`.
    """
    if not profile.link_bytes_per_s or not optimal.fixed_terms_fit(profile, budget_bytes):
        return None
    solution = within(profile, budget_bytes, functools.partial(_solved, profile, gap))
    if solution is None:
        return None
    predicted = predict(profile, solution.schedule)
    return Solution(solution.schedule, predicted.recompute_s + predicted.stall_s)


def _solved(profile: ChainProfile, gap: float, room_bytes: int) -> tuple[Schedule, float] | None:
    """First how many bytes each block sends; then, of these outputs, what it keeps besides."""
    amounts = Sending(profile, room_bytes, ROUGH)
    if amounts.solved() is None:
        return None
    parcels = [amounts.parcel_of(index) for index in range(amounts.count)]
    return Sending(profile, room_bytes, gap, parcels).solved()


class Sending(Programme):
    """Variables and constraints.

    Attributes:
        away: [i] of block i: the output of operator j is kept, and away.
        sends: [i] whether block i sends anything.
        later: [i] whether block i or a later one does.
        flying: [i] bytes that left last when block i has run, in the programme's unit.
        waits: seconds for which compute waits, in the programme's.
    """

    def __init__(
        self,
        profile: ChainProfile,
        budget_bytes: int,
        gap: float,
        parcels: Sequence[frozenset[int]] | None = None,
    ) -> None:
        self.parcels = parcels
        self.sent: list[Any] = []
        self.sends: list[Any] = []
        self.later: list[Any] = []
        self.flying: list[Any] = []
        self.waits: list[Any] = []
        super().__init__(profile, budget_bytes, gap)

    def choices_of(self, block: BlockCost) -> Choices:
        """Further, what leaves."""
        choices = super().choices_of(block)
        index = len(self.sends)
        self.sends.append(self.model.addBinary())
        self.later.append(self.model.addVariable(0, 1))
        if self.parcels is None:
            self.sent.append(self.model.addVariable(0, self.room / self.unit))
        else:
            self.sent.append(self._bytes(index, self.parcels[index]) * self.sends[index])
        return choices

    def _portable(self, index: int) -> list[int]:
        operators = self.profile.blocks[index].operators
        chosen = enumerate(operators.operators if operators else ())
        return [number for number, op in chosen if op.keepable and op.portable]

    def _bytes(self, index: int, numbers: Iterable[int]) -> float:
        """Of these outputs, in the programme's unit."""
        operators = self.profile.blocks[index].operators
        assert operators is not None or not numbers
        sizes = (operators.operators[number].output_bytes for number in numbers) if operators else ()
        return sum(sizes) / self.unit

    def parcel_of(self, index: int) -> frozenset[int]:
        """Of the outputs that were chosen to be kept, as many bytes as were chosen to leave."""
        parcel: set[int] = set()
        kept = (j for j in self._portable(index) if self.chosen(self.choices[index].kept[j]))
        room = float(self.model.val(self.sent[index])) + EPSILON
        by_size = sorted(kept, key=lambda j: -self._bytes(index, [j]))
        for number in by_size:
            if self._bytes(index, [*parcel, number]) <= room:
                parcel.add(number)
        return frozenset(parcel or by_size[-1:] * self.chosen(self.sends[index]))

    def couple(self, index: int) -> None:
        """What leaves is kept; and the parcel of the block on the link."""
        super().couple(index)
        kept, sends = self.choices[index].kept, self.sends[index]
        if self.parcels is None:
            most = highs.total(self._bytes(index, [j]) * kept[j] for j in self._portable(index))
            self.require(self.sent[index] <= most)
            self.require(self.sent[index] <= self._most(index) * sends)
            self.require(self.sent[index] >= self._least(index) * sends)
        else:
            self.require(sends <= len(self.parcels[index]))
            for number in self.parcels[index]:
                self.require(sends <= kept[number])
        after = self.later[index + 1 :][:1]
        for sign in (sends, *after):
            self.require(self.later[index] >= sign)
        self.require(self.later[index] <= highs.total([sends, *after]))
        self._fly(index)

    def _fly(self, index: int) -> None:
        """What is on the link when a block has run, and how long its parcel is waited for."""
        flying = self.model.addVariable(0, self.room / self.unit)
        self.require(flying >= self.sent[index])
        if index:
            most = max(map(self._most, range(index)))
            self.require(flying >= self.flying[-1] - most * self.sends[index])
        self.flying.append(flying)
        crossing_s = self._seconds * self.sent[index]
        if index + 1 == self.count:
            self._wait(2 * crossing_s)
            return
        following = self.profile.blocks[index + 1]
        again = highs.total(self.repeated(index + 1))
        self._wait(crossing_s - following.forward_s / self.second)
        self._wait(crossing_s - following.backward_s / self.second - again)
        self._wait(crossing_s - self._seconds * self._most(index) * self.later[index + 1])

    def _wait(self, duration: Any) -> None:
        waits = self.model.addVariable(0, highs.INFINITE)
        self.require(waits >= duration)
        self.waits.append(waits)

    @property
    def _seconds(self) -> float:
        """Time of the programme's unit of bytes on the link, in that of time."""
        return self.unit / self.profile.link_bytes_per_s / self.second

    def _least(self, index: int) -> float:
        """The smallest output that a block can send, in the programme's unit."""
        return min((self._bytes(index, [j]) for j in self._portable(index)), default=1.0)

    def _most(self, index: int) -> float:
        """All that a block can send, in the programme's unit."""
        return self._bytes(index, self._portable(index))

    def saved(self, index: int) -> Iterator[Any]:
        """Without what is away."""
        yield from super().saved(index)
        yield -1.0 * self.sent[index]

    def before(self, position: int) -> list[Any]:
        """Further, what left last and is not yet there."""
        inside = 0 < position < self.count
        return [*super().before(position), *self.flying[position - 1 : position] * inside]

    def behind(self, index: int) -> list[Any]:
        """Further, what was called for."""
        if not 0 < index < self.count:
            return super().behind(index)
        coming = self.model.addVariable(0, self.room / self.unit)
        most = max(map(self._most, range(index)))
        self.require(coming >= self.flying[index - 1] - most * (1 - self.later[index]))
        return [*super().behind(index), coming]

    def cost(self) -> Iterator[Any]:
        """Further, what is waited for."""
        yield from super().cost()
        yield from self.waits

    def mode_of(self, index: int, kept: list[int]) -> str:
        """With what of it is away."""
        parcel = self.parcels[index] if self.parcels and self.chosen(self.sends[index]) else ()
        return keep(kept, parcel, self.profile.link_tier)
