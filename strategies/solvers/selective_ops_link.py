"""What leaves the blocks, when it is alive, and how long compute waits for it: linear constraints.

For `strategies.solvers.selective_ops_sent`; transfers are those of `strategies.storage.overlapped`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from strategies.schedules.profile import ChainProfile
from strategies.solvers import highs
from strategies.solvers.selective_ops import Programme
from strategies.solvers.selective_ops_tensors import NEVER

SEEN = 3
"""Blocks after one that sends, beside which a transfer is seen to run."""


class Crossing(Programme):
    """Variables and constraints of the link.

    Attributes:
        sends: [i] whether block i sends any of what it keeps.
        sent: [i] how much, in the programme's unit.
        mosts: [i] all that it can send, its input too, in that unit.
        later: [i] whether anything of block i or of a later one leaves.
        flying: [i] what left last when block i has run, in the programme's unit.
        waits: durations for which compute waits, in the programme's unit of time.
    """

    def __init__(self, profile: ChainProfile, budget_bytes: int, gap: float) -> None:
        self.sends: list[Any] = []
        self.sent: list[Any] = []
        self.mosts: list[float] = []
        self.later: list[Any] = []
        self.flying: list[Any] = []
        self.waits: list[Any] = []
        super().__init__(profile, budget_bytes, gap)

    def couple(self, index: int) -> None:
        """Further: what is on the link, and who waits for it."""
        super().couple(index)
        reasons = [self.active(index), *self.later[index + 1 : index + 2]]
        for reason in reasons:
            self.require(self.later[index] >= reason)
        self.require(self.later[index] <= highs.total(reasons))
        self._fly(index)
        self._wait_for(index)

    def input_of(self, index: int) -> float:
        """Of a block, in the programme's unit."""
        return self.profile.boundary_bytes(index) / self.unit

    def active(self, index: int) -> Any:
        """Whether anything of a block leaves."""
        return self.sends[index] + self.choices[index].leaves

    def cargo(self, index: int) -> Any:
        """What of a block leaves, in the programme's unit."""
        return self.sent[index] + self.input_of(index) * self.choices[index].leaves

    def _fly(self, index: int) -> None:
        """What is on the link when a block has run."""
        flying = self.model.addVariable(0, math.inf)
        self.require(flying >= self.cargo(index))
        if index:
            gone = self._before_most(index) * self.active(index)
            self.require(flying >= self.flying[-1] - gone)
        self.flying.append(flying)

    def _before_most(self, index: int) -> float:
        """The most that a block before sends, in the programme's unit."""
        return max(self.mosts[:index])

    def _wait_for(self, index: int) -> None:
        """How long what a block sends is waited for: on its way out, and back."""
        crossing = self.unit / self.profile.link_bytes_per_s * self.cargo(index)
        out, back = self._beside(index)
        self._wait(crossing - highs.total(out))
        following = self.later[index + 1] if index + 1 < self.count else NEVER
        all_of_it = crossing - self._longest_s(index) * following
        self._wait(crossing - highs.total(back), all_of_it)

    def _longest_s(self, index: int) -> float:
        return self.mosts[index] * self.unit / self.profile.link_bytes_per_s

    def _beside(self, index: int) -> tuple[list[Any], list[Any]]:
        """Seconds of compute until the next block sends, and since that one's backward began."""
        blocks, leaves = self.profile.blocks, [choices.leaves for choices in self.choices]
        out, back = [blocks[index].forward_s * leaves[index]], []
        free: Any = 1.0  # whether no block up to there sends
        for later in range(index + 1, min(index + 1 + SEEN, self.count)):
            out.append(blocks[later].forward_s * self._both(free, 1 - leaves[later]))
            back.append(blocks[later].backward_s * free)
            if later == index + 1:
                back += [self.second * term for term in self.repeated(later)]
            free = self._both(free, 1 - self.active(later))
        return out, back

    def _both(self, one: Any, other: Any) -> Any:
        """At most either; numbers are certain, and need no variable."""
        if isinstance(one, float) or isinstance(other, float):
            return one * other
        both = self.model.addVariable(0, 1)
        self.require(both <= one)
        self.require(both <= other)
        return both

    def _wait(self, *durations_s: Any) -> None:
        """For the longest of them."""
        waits = self.model.addVariable(0, math.inf)
        for duration_s in durations_s:
            self.require(waits >= (1 / self.second) * duration_s)
        self.waits.append(waits)

    def before(self, position: int) -> list[Any]:
        """Further, what left last and is not yet there."""
        terms = super().before(position)
        return [*terms, self._aloft(position)] if 0 < position < self.count else terms

    def _aloft(self, index: int) -> Any:
        """What is on the link as a block runs: what it sends before, nobody else's is beside."""
        leaves, flying = self.choices[index].leaves, self.flying[index - 1]
        if leaves is NEVER:
            return flying
        aloft = self.model.addVariable(0, math.inf)
        self.require(aloft >= flying - self._before_most(index) * leaves)
        return aloft

    def behind(self, index: int) -> list[Any]:
        """Further, what was called for, and an input that is there again."""
        terms = super().behind(index)
        if index < self.count:
            terms.append(self.input_of(index) * self.choices[index].leaves)
        if not 0 < index < self.count:
            return terms
        coming, most = self.model.addVariable(0, math.inf), self._before_most(index)
        self.require(coming >= self.flying[index - 1] - most * (1 - self.later[index]))
        return [*terms, coming]

    def cost(self) -> Iterator[Any]:
        """Further, what is waited for."""
        yield from super().cost()
        yield from self.waits
