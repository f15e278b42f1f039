"""Which operators' outputs to keep, block by block: an exact 0/1 programme on the peak.

Every block runs either as it is (autograd keeps what it needs) or under a checkpoint of its own, in
which some operators' outputs are kept and the rest run again. What is kept in the blocks before is
alive at every moment of those that follow; so each moment of each block, in forward and in
backward, is one linear constraint on the choices. Peaks, not sums: what the last block keeps is
free where its own backward needs as much anyway.

Solved by HiGHS (Huangfu and Hall 2018). Bytes are scaled to powers of two, and a solution that the
interpreter finds over the budget, by rounding or by scratch memory that no moment shows, is sought
again with less room.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any

from strategies.schedules import plan as plans
from strategies.schedules.interpreter import predict
from strategies.schedules.modes import PS, BlockOperators, Moment, keep
from strategies.schedules.profile import BlockCost, ChainProfile, Shared
from strategies.schedules.schedule import ALL, Schedule
from strategies.schedules.solution import Solution
from strategies.solvers import highs, leanest, optimal

GAP = 1e-3
"""Of the repeated time: at this relative gap the programme is taken as solved. Equal blocks can be
exchanged in many ways, and ruling all of them out takes long. Or at a tenth of it, of the step:
where little is repeated, a thousandth of that is nothing."""
MOST_NODES = 500
"""Of the search; beyond, the best found so far is taken, with its proven gap."""


@functools.lru_cache(maxsize=64)
def solve(profile: ChainProfile, budget_bytes: int, gap: float = GAP) -> Solution | None:
    """The choice of operators that repeats least within a budget, or ``None``.

    Args:
        profile: with times and operators; a block without operators is kept whole or not at all.
        budget_bytes: of the peak, everything included.
        gap: see `GAP`.
    """
    solution = _solved(profile, budget_bytes, gap)
    if solution or not optimal.fixed_terms_fit(profile, budget_bytes):
        return solution
    return leanest.within(profile, _leanest(profile), budget_bytes)


def _solved(profile: ChainProfile, budget_bytes: int, gap: float = GAP) -> Solution | None:
    """What the programme finds; by its own rounding it misses a schedule that just fits."""
    room_bytes, bound_s = budget_bytes, None
    for attempt in itertools.count():
        optimum = _Programme(profile, room_bytes, gap).solved()
        if optimum is None:
            return None
        bound_s = optimum[1] if bound_s is None else bound_s
        over_bytes = predict(profile, optimum[0]).peak_bytes - budget_bytes
        if over_bytes <= 0:
            return Solution(optimum[0], bound_s)
        room_bytes -= over_bytes << attempt  # what it does not see may be larger with less room
    raise AssertionError


@functools.lru_cache(maxsize=64)
def smallest_bytes(profile: ChainProfile) -> int:
    """The smallest peak that `solve` finds a schedule for."""
    return predict(profile, _leanest(profile)).peak_bytes


@functools.lru_cache(maxsize=64)
def _leanest(profile: ChainProfile) -> Schedule:
    """Whole blocks, or none: what a policy keeps of one is alive longer, and lowers no peak.

    But for the random state of the group that it is instead, which counts in its forward only.
    """
    count = len(profile.blocks)
    simple = (Schedule(plans.plain(count)), Schedule(plans.uniform(count, 1)))
    blocks = tuple(dataclasses.replace(block, operators=None) for block in profile.blocks)
    bare = dataclasses.replace(profile, blocks=blocks)
    return leanest.search(profile, simple, functools.partial(_solved, bare))


class _Programme:
    """Variables and constraints.

    Attributes:
        whole: block i runs as it is.
        kept: [i][j] the output of operator j of block i is kept.
        held: [i] boundary i is alive between forward and backward.
        below: [i] bytes that blocks before i keep, in the programme's unit.
    """

    def __init__(self, profile: ChainProfile, budget_bytes: int, gap: float) -> None:
        self.profile, self.count = profile, len(profile.blocks)
        self.budget_bytes = budget_bytes
        self.room = float(budget_bytes - profile.resident_bytes - profile.head_saved_bytes)
        self.unit = 2.0 ** math.frexp(max(1.0, self.room))[1]
        self.second = max(block.last_recompute_s for block in profile.blocks) or 1.0
        gaps = {"mip_rel_gap": gap, "mip_abs_gap": gap / 10 * profile.plain_step_s / self.second}
        self.model = highs.new_model(**gaps, mip_max_nodes=MOST_NODES)
        self.whole = [self.model.addBinary() for _ in profile.blocks]
        self.kept = [self._choices(block) for block in profile.blocks]
        self.held = [self.model.addVariable(0, 1) for _ in range(self.count + 1)]
        self.below = [self.model.addVariable(0, float("inf")) for _ in range(self.count + 1)]
        self.shared = {shared: self._shared(shared) for shared in profile.shared}
        for index in range(self.count):
            self._couple(index)
            self._hold(index)
            self._fit(index)
        self._fit_tail()

    def _choices(self, block: BlockCost) -> dict[int, Any]:
        if block.operators is None:
            return {}
        operators = enumerate(block.operators.operators)
        return {index: self.model.addBinary() for index, op in operators if op.keepable}

    def _shared(self, shared: Shared) -> Any:
        """Whether a tensor that has other readers is kept between forward and backward."""
        place = shared.boundary
        kept = self.model.addVariable(0, 1) if place is None else self.held[place]
        for block in shared.saved_by:
            self.require(kept >= self.whole[block])
        for block in shared.read_by:
            self.require(kept + self.whole[block] >= 1)
        if shared.between:
            self.require(kept >= 1)
        return kept

    def _kept_of(self, born: int) -> list[Any]:
        """What is kept of the tensors that are there after a block, boundaries aside."""
        return [
            self.part(shared.size_bytes, kept)
            for shared, kept in self.shared.items()
            if shared.boundary is None and shared.born == born
        ]

    def _lent(self, position: int) -> Iterator[Any]:
        """What the model itself holds at a position of forward, and nobody keeps.

        Behind the last block: what it still holds when the tail ends.
        """
        own = min(position, self.count)
        for shared, kept in self.shared.items():
            if shared.born < position < shared.until and shared.boundary != own:
                yield self.part(shared.size_bytes, 1 - kept)

    def require(self, constraint: Any) -> None:
        """One constraint."""
        self.model.addConstr(constraint)

    def _couple(self, index: int) -> None:
        """A whole block keeps no single outputs; random operators run again in order."""
        kept, operators = self.kept[index], self.profile.blocks[index].operators
        for variable in kept.values():
            self.require(variable + self.whole[index] <= 1)
        random = [i for i, op in enumerate(operators.operators) if op.random] if operators else []
        for first, second in itertools.pairwise(random):
            if first in kept:
                self.require(kept[first] <= kept.get(second, 0))

    def _hold(self, index: int) -> None:
        """Why boundaries are held, and what this block adds for the next ones."""
        mode, held = self.profile.blocks[index].modes[0], self.held
        if mode.keeps_input:
            self.require(held[index] >= 1)
        else:
            self.require(held[index] + self.whole[index] >= 1)
        if mode.keeps_output:
            self.require(held[index + 1] >= self.whole[index])
        if index == 0:
            self.require(self.below[0] == highs.total([*self._kept_of(-1), self.part(0)]))
        own = self.saved(index)
        own.append(self.part(self.profile.boundary_bytes(index), held[index]))
        own += self._kept_of(index)
        self.require(self.below[index + 1] == highs.total([self.below[index], *own]))

    def part(self, size_bytes: float, variable: Any = 1.0) -> Any:
        """Bytes in the programme's unit, if ``variable``."""
        return (size_bytes / self.unit) * variable

    def saved(self, index: int) -> list[Any]:
        """What block ``index`` keeps between forward and backward, boundaries aside."""
        block, whole = self.profile.blocks[index], self.whole[index]
        own = self.profile.group_bytes
        terms = [self.part(block.modes[0].saved_bytes, whole), self.part(own, 1 - whole)]
        return terms + [
            self.part(block.operators.operators[number].output_bytes, variable)
            for number, variable in self.kept[index].items()
            if block.operators is not None
        ]

    def _within(self, terms: list[Any]) -> None:
        self.require(highs.total(terms) <= self.room / self.unit)

    def _fit(self, index: int) -> None:
        """Block ``index`` in forward, where it is on top of all before it, and in backward."""
        profile, block, whole = self.profile, self.profile.blocks[index], self.whole[index]
        mode = block.modes[0]
        base = [self.below[index], self.part(profile.boundary_bytes(index)), *self._lent(index)]
        self._within([*base, self.part(mode.forward_working_bytes, whole)])
        for moment in _forward(block):
            self._within([*base, *self._moment(index, moment, 0)])
        base = [self.below[index], self.part(self.around_bytes(index))]
        base.append(self.part(profile.boundary_bytes(index), self.held[index]))
        output_bytes = profile.boundary_bytes(index + 1) * mode.keeps_output
        own_bytes = mode.saved_bytes + output_bytes + mode.backward_working_bytes
        self._within([*base, self.part(own_bytes, whole)])
        for moment in _backward(block):
            self._within([*base, *self._moment(index, moment, profile.group_bytes)])

    def _moment(self, index: int, moment: Moment, own_bytes: int) -> Iterator[Any]:
        """What is alive at a moment of a block under its own checkpoint."""
        yield self.part(moment.alive_bytes + own_bytes, 1 - self.whole[index])
        for number, size_bytes in moment.more:
            yield self.part(size_bytes, self.kept[index][number])

    def around_bytes(self, index: int) -> int:
        """Alive in backward of a block whatever is chosen: gradients."""
        later = self.profile.blocks[index + 1 :]
        behind_bytes = self.profile.tail_gradient_bytes + sum(b.gradient_bytes for b in later)
        return self.profile.boundary_bytes(index + 1) + behind_bytes

    def _fit_tail(self) -> None:
        profile, last_bytes = self.profile, self.profile.boundary_bytes(self.count)
        below = self.below[self.count]
        lent = self._lent(self.count + 1)
        self._within([below, self.part(last_bytes + profile.tail_working_bytes), *lent])
        if profile.tail_keeps_input:
            self.require(self.held[self.count] >= 1)
        held = self.part(last_bytes, self.held[self.count])
        backward_bytes = profile.tail_saved_bytes + profile.tail_backward_working_bytes
        self._within([below, held, self.part(backward_bytes)])

    # The solution.

    def cost(self) -> Iterator[Any]:
        """Repeated time, in the programme's unit."""
        for index, block in enumerate(self.profile.blocks):
            operators, whole = block.operators, self.whole[index]
            again_s = operators.recompute_s if operators else block.last_recompute_s
            yield (again_s / self.second) * (1 - whole)
            yield (block.modes[0].recompute_s / self.second) * whole
            for number, variable in self.kept[index].items():
                assert operators is not None
                yield (-operators.operators[number].time_ps / PS / self.second) * variable

    def solved(self) -> tuple[Schedule, float] | None:
        """The schedule and a bound on its repeated seconds, or ``None`` if nothing fits."""
        if not optimal.fixed_terms_fit(self.profile, self.budget_bytes):
            return None
        self.model.minimize(highs.total(self.cost()))
        if not highs.is_feasible(self.model):
            return None
        bound_s = self.model.getInfo().mip_dual_bound * self.second
        return self._schedule(), max(0.0, bound_s)

    def _chosen(self, variable: Any) -> bool:
        return bool(self.model.val(variable) > 0.5)

    def _schedule(self) -> Schedule:
        nodes: list[plans.Node] = []
        modes = [ALL] * self.count
        for index in range(self.count):
            kept = [j for j, variable in self.kept[index].items() if self._chosen(variable)]
            if kept:
                modes[index] = keep(kept)
            nodes.append(index if kept or self._chosen(self.whole[index]) else (index,))
        return Schedule(tuple(nodes), tuple(modes) if set(modes) != {ALL} else ())


def _forward(block: BlockCost) -> tuple[Moment, ...]:
    return _moments(block.operators, block.unsaved_working_bytes, forward=True)


def _backward(block: BlockCost) -> tuple[Moment, ...]:
    return _moments(block.operators, block.recompute_working_bytes, forward=False)


def _moments(
    operators: BlockOperators | None, working_bytes: int, *, forward: bool
) -> tuple[Moment, ...]:
    """Of the operators, or of the block as a whole."""
    if operators is None:
        return (Moment(working_bytes, ()),)
    return operators.forward if forward else operators.backward
