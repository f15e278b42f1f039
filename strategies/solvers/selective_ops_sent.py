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
from collections.abc import Iterator
from typing import Any

from strategies.schedules.interpreter import predict
from strategies.schedules.modes import keep
from strategies.schedules.profile import BlockCost, ChainProfile
from strategies.schedules.solution import Solution
from strategies.solvers import highs, optimal
from strategies.solvers.selective_ops import GAP, Programme, within
from strategies.solvers.selective_ops_tensors import Choices


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
    solution = within(profile, budget_bytes, lambda room: Sending(profile, room, gap).solved())
    if solution is None:
        return None
    predicted = predict(profile, solution.schedule)
    return Solution(solution.schedule, predicted.recompute_s + predicted.stall_s)


class Sending(Programme):
    """Variables and constraints.

    Attributes:
        away: [i] of block i: the output of operator j is kept, and away.
        sends: [i] whether block i sends anything.
        later: [i] whether block i or a later one does.
        flying: [i] bytes that left last when block i has run, in the programme's unit.
        waits: seconds for which compute waits, in the programme's.
    """

    def __init__(self, profile: ChainProfile, budget_bytes: int, gap: float) -> None:
        self.away: list[dict[int, Any]] = []
        self.sends: list[Any] = []
        self.later: list[Any] = []
        self.flying: list[Any] = []
        self.waits: list[Any] = []
        super().__init__(profile, budget_bytes, gap)

    def choices_of(self, block: BlockCost) -> Choices:
        """Further, which outputs are away."""
        choices, operators = super().choices_of(block), block.operators
        portable = (j for j in choices.kept if operators and operators.operators[j].portable)
        self.away.append({j: self.model.addBinary() for j in portable})
        self.sends.append(self.model.addBinary())
        self.later.append(self.model.addVariable(0, 1))
        return choices

    def couple(self, index: int) -> None:
        """What is away is kept; and the parcel of the block on the link."""
        super().couple(index)
        for number, variable in self.away[index].items():
            self.require(variable <= self.choices[index].kept[number])
            self.require(variable <= self.sends[index])
        self.require(self.sends[index] <= highs.total(self.away[index].values()))
        after = self.later[index + 1 :][:1]
        for sign in (self.sends[index], *after):
            self.require(self.later[index] >= sign)
        self.require(self.later[index] <= highs.total([self.sends[index], *after]))
        self._fly(index)

    def _fly(self, index: int) -> None:
        """Its parcel, and for how long it is waited for."""
        parcel = highs.total(self._sent(index))
        flying = self.model.addVariable(0, self.room / self.unit)
        self.require(flying >= parcel)
        if index:
            most = self._most(index - 1)
            self.require(flying >= self.flying[-1] - most * self.sends[index])
        self.flying.append(flying)
        if index + 1 < self.count:
            forward_s = self.profile.blocks[index + 1].forward_s / self.second
            backward_s = self.profile.blocks[index + 1].backward_s / self.second
            again = highs.total(self.repeated(index + 1))
            self._wait(self._crossing(index) - forward_s)
            self._wait(self._crossing(index) - backward_s - again)
            first = self._most_s(index) * self.later[index + 1]
            self._wait(self._crossing(index) - first)
        else:
            self._wait(2 * self._crossing(index))

    def _wait(self, duration: Any) -> None:
        waits = self.model.addVariable(0, highs.INFINITE)
        self.require(waits >= duration)
        self.waits.append(waits)

    def _sent(self, index: int) -> Iterator[Any]:
        operators = self.profile.blocks[index].operators
        for number, variable in self.away[index].items():
            assert operators is not None
            yield self.part(operators.operators[number].output_bytes, variable)

    def _crossing(self, index: int) -> Any:
        """Time of the parcel on the link, in the programme's seconds."""
        return highs.total(self._sent(index)) * self._second_per_unit

    @property
    def _second_per_unit(self) -> float:
        return self.unit / self.profile.link_bytes_per_s / self.second

    def _most(self, index: int) -> float:
        """The largest parcel of block ``index`` and those before it."""
        return max(map(self._all_of, range(index + 1)))

    def _most_s(self, index: int) -> float:
        return self._all_of(index) * self._second_per_unit

    def _all_of(self, index: int) -> float:
        operators = self.profile.blocks[index].operators
        sizes = (operators.operators[j].output_bytes for j in self.away[index]) if operators else ()
        return sum(sizes) / self.unit

    def saved(self, index: int) -> Iterator[Any]:
        """Without what is away."""
        yield from super().saved(index)
        yield -highs.total(self._sent(index))

    def before(self, position: int) -> list[Any]:
        """Further, what left last and is not yet there."""
        inside = 0 < position < self.count
        return [*super().before(position), *self.flying[position - 1 : position] * inside]

    def behind(self, index: int) -> list[Any]:
        """Further, what was called for."""
        if not 0 < index < self.count:
            return super().behind(index)
        coming = self.model.addVariable(0, self.room / self.unit)
        most = self._most(index - 1)
        self.require(coming >= self.flying[index - 1] - most * (1 - self.later[index]))
        return [*super().behind(index), coming]

    def cost(self) -> Iterator[Any]:
        """Further, what is waited for."""
        yield from super().cost()
        yield from self.waits

    def mode_of(self, index: int, kept: list[int]) -> str:
        """With what of it is away."""
        away = [number for number in kept if self.is_away(index, number)]
        return keep(kept, away, self.profile.link_tier)

    def is_away(self, index: int, number: int) -> bool:
        """As it was solved."""
        variable = self.away[index].get(number)
        return variable is not None and self.chosen(variable)
