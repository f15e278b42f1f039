"""Which operators' outputs to keep, in chains of equal blocks: counted, not chosen one by one.

Of equal blocks in a row it matters little which keep an output, and much how many. So all of a run
but its first block and its last are one pool: how many of them run whole, and how many keep the
output of operator j. What they keep in all is exact; moments inside the pool are left out, for what
is alive is the most at an end of the run, where blocks are alike. The programme is that of
`strategies.solvers.selective_ops` for the mean of these blocks: every choice of theirs is one of
the pool's, so that its bound is true of all, and it is solved in a fraction of the time. A choice
is then made for each block, those that keep most at one end, and judged by the interpreter. Where
that is not as good as proven, the blocks are told apart after all.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from strategies.schedules.interpreter import predict
from strategies.schedules.profile import BlockCost, ChainProfile
from strategies.schedules.schedule import Schedule
from strategies.schedules.solution import Solution
from strategies.solvers import selective_ops
from strategies.solvers.selective_ops import GAP, Programme, within
from strategies.solvers.selective_ops_tensors import Choices

FEWEST = 3
"""Blocks of a pool: for less, telling them apart takes no longer."""
CLOSER = 1000
"""So much smaller than asked for is the gap to which a pool is solved."""
ROUNDING = 1e-9
"""Part of a step: sums in another order are equal."""


@functools.lru_cache(maxsize=64)
def solve(profile: ChainProfile, budget_bytes: int, gap: float = GAP) -> Solution | None:
    """The choice of operators that repeats least within a budget, or ``None``.

    Args:
        profile: with times and operators.
        budget_bytes: of the peak, everything included.
        gap: see `strategies.solvers.selective_ops.GAP`.
    """
    pooled = list(_pooled(profile, budget_bytes, gap))
    best = min(pooled, key=functools.partial(_repeated_s, profile), default=None)
    if best is None or not _is_proven(profile, best, gap):
        apart = selective_ops.solve(profile, budget_bytes, gap)
        solutions = [*pooled, *([apart] if apart else [])]
        best = min(solutions, key=functools.partial(_repeated_s, profile), default=None)
        if best is None:
            return None
        best = dataclasses.replace(best, bound_s=max(each.bound_s for each in solutions))
    return dataclasses.replace(best, bound_s=min(best.bound_s, _repeated_s(profile, best)))


def _pooled(profile: ChainProfile, budget_bytes: int, gap: float) -> Iterator[Solution]:
    """What fits with those that keep most at the end; and if that is not proven, at the beginning.

    The bound of either is of all choices.
    """
    if not any(pools_of(profile)):
        return
    for at_end in (True, False):
        programme = functools.partial(Pooled, profile, gap=gap / CLOSER, at_end=at_end)
        solution = within(profile, budget_bytes, functools.partial(_solved, programme))
        if solution is None:
            return
        yield solution
        if _is_proven(profile, solution, gap):
            return


def _solved(programme: Callable[[int], Pooled], room_bytes: int) -> tuple[Schedule, float] | None:
    return programme(room_bytes).solved()


def _repeated_s(profile: ChainProfile, solution: Solution) -> float:
    return predict(profile, solution.schedule).recompute_s


def _is_proven(profile: ChainProfile, solution: Solution, gap: float) -> bool:
    """Whether it is as near to its bound as the programme of all blocks would be left at."""
    repeated_s, step_s = _repeated_s(profile, solution), profile.plain_step_s
    open_s = max(gap * repeated_s, gap / 10 * step_s, ROUNDING * step_s)
    return repeated_s - solution.bound_s <= open_s


def pools_of(profile: ChainProfile) -> list[range]:
    """By block the pool that it is in; empty, if it is in none."""
    alone = _told_apart(profile)
    kinds = [(block, index if index in alone else -1) for index, block in enumerate(profile.blocks)]
    pools: list[range] = []
    for _, run in itertools.groupby(kinds):
        places = range(len(pools), len(pools) + len(list(run)))
        inner = places[1:-1] if len(places) >= FEWEST + 2 else range(0)
        pools += [inner if index in inner else range(0) for index in places]
    return pools


def _told_apart(profile: ChainProfile) -> set[int]:
    """Blocks whose own choice decides whether a tensor is alive that not they alone hold."""
    modes = [block.modes[0] for block in profile.blocks]
    apart = {i for i, mode in enumerate(modes) if mode.keeps_output and not mode.keeps_input}
    for shared in profile.shared:
        saved, read = set(shared.saved_by), set(shared.read_by)
        always = {index for index in saved & read if shared.born < index}  # whatever is chosen
        beside = set() if shared.boundary is None else {shared.boundary - 1, shared.boundary}
        apart |= (saved | read) - always | beside
    return apart


class Pooled(Programme):
    """Variables and constraints.

    Attributes:
        at_end: whether the blocks of a pool that keep most are its last.
        pools: [i] that of block i.
        counts: [pool] by choice, how many blocks of a pool make it; `choices` are their mean.
    """

    def __init__(
        self, profile: ChainProfile, budget_bytes: int, gap: float, *, at_end: bool
    ) -> None:
        self.at_end, self.pools = at_end, pools_of(profile)
        self.counts: dict[range, Choices] = {}
        self.listed: list[Choices] = []
        super().__init__(profile, budget_bytes, gap)

    def choices_of(self, block: BlockCost) -> Choices:
        """Of a block in a pool: the mean."""
        pool = self.pools[len(self.listed)]
        if not pool:
            self.listed.append(super().choices_of(block))
        elif pool in self.counts:
            self.listed.append(self.listed[-1])
        else:
            means = super().choices_of(block)
            kept = {j: self._count(pool, mean) for j, mean in means.kept.items()}
            self.counts[pool] = Choices(self._count(pool, means.whole), kept)
            self.listed.append(means)
        return self.listed[-1]

    def _count(self, pool: range, mean: Any) -> Any:
        """Times a variable of its own, for sums of bytes are exact in the programme's unit."""
        count = self.model.addIntegral(0, len(pool))
        self.model.setContinuous(mean)
        self.require(len(pool) * mean == count)
        return count

    def _fit(self, index: int) -> None:
        """Moments inside a pool are left out."""
        if not self.pools[index]:
            super()._fit(index)

    def chosen(self, variable: Any) -> bool:
        """What is settled already, too."""
        return variable if isinstance(variable, bool) else super().chosen(variable)

    def _schedule(self) -> Schedule:
        """Each block of a pool makes a choice of its own."""
        self.choices = [
            self._settled(index) if pool else choices
            for index, (pool, choices) in enumerate(zip(self.pools, self.choices, strict=True))
        ]
        return super()._schedule()

    def _settled(self, index: int) -> Choices:
        """At the end, or the beginning, of a pool are the whole blocks, then those that keep."""
        pool = self.pools[index]
        place = pool[-1] - index if self.at_end else index - pool[0]
        kept, place = self.counts[pool].kept, place - self._number(self.counts[pool].whole)
        return Choices(place < 0, {j: 0 <= place < self._number(kept[j]) for j in kept})

    def _number(self, count: Any) -> int:
        return round(float(self.model.val(count)))
